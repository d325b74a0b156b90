"""Measure classifier guidance of the embedded unconditional denoiser: ten classes asked for, over scales and methods.

    python benchmarks/classifier.py [--samples 500] [--steps 16] [--scales 0.5 1 2 4 8 16 32]

Prints a markdown table and writes benchmarks/results/classifier.json, docs/classifier-guidance.png and
docs/guided-depth-segmentation.png. All rows start from the same noise and ask for the same classes; the judge, which
guides nothing, gives accuracy and the features for the Frechet distance, precision and recall, against as many real
pictures. On one core of a 2-core AVX-512 server CPU that other work shares it takes 45 minutes.
"""

from __future__ import annotations

import argparse
import json
import platform
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from measures import class_accuracy
from quality import ROOT, Judge
from sampling import heun, noise_levels
from sheets import contact_sheet
from torch import Tensor
from world import LABELS
from world.judge import JUDGE

from guidance_pack.guidance.losses.cross_entropy import CrossEntropy
from guidance_pack.guidance.networks.tiny.files import build, read_denoiser
from guidance_pack.guidance.networks.tiny.preconditioning import precondition
from guidance_pack.guidance.objective import At, Objective
from guidance_pack.guidance.rules.gradient import GradientGuidance
from guidance_pack.guidance.tuning.sets import frechet_distance, precision_recall

from guided_maps import guided_maps  # isort: skip - these two need the pack's name
from steered import Steered, load_guide  # isort: skip

NULL = len(LABELS)
SHOWN = 20  # pictures of each row of the sheet: every class twice


@dataclass(frozen=True)
class Method:
    """A guide and where its gradient is taken."""

    title: str
    guide: str
    at: At


METHODS = {
    "naive": Method("clean classifier, noisy input", "shapes-classifier", "noisy input"),
    "noise-aware": Method("noise-aware classifier, noisy input", "shapes-noisy-classifier", "noisy input"),
    "denoised": Method("clean classifier, denoised estimate", "shapes-classifier", "denoised"),
    "through": Method("clean classifier, through the denoiser", "shapes-classifier", "through denoiser"),
}


@dataclass(frozen=True)
class Row:
    """What one setting of one method measured; scale 0 is the unguided denoiser."""

    method: str
    scale: float
    accuracy: float
    frechet: float
    precision: float
    recall: float
    seconds: float

    def cell(self) -> str:
        return f"{self.accuracy:.1%} / {self.frechet:.1f} / {self.precision:.2f} / {self.recall:.2f}"


class Bench:
    """The denoiser, the judge, the noise and the classes asked for: what all rows share."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        file = read_denoiser(options.assets / "shapes-edm.safetensors")
        self.pictures_seen = file.metadata["pictures_seen"]
        self.main = precondition(build(file), "edm", file.sigma_data)
        self.judge = Judge(JUDGE, options.samples)
        self.labels = torch.arange(options.samples) % NULL
        generator = torch.Generator().manual_seed(options.seed)
        self.noise = torch.randn(options.samples, 3, 32, 32, generator=generator)
        self.levels = noise_levels("edm", options.steps)
        self.shown: dict[tuple[str, float], Tensor] = {}

    def guided(self, method: Method, scale: float) -> Steered:
        network, guide = load_guide(self.options.assets / f"{method.guide}.safetensors")
        rule = GradientGuidance(scale, objective=Objective(CrossEntropy(), method.at, guide))
        return Steered(self.main, rule, network, torch.eye(NULL), NULL)

    def row(self, name: str, scale: float, denoise: Callable[[Tensor, float, Tensor], Tensor]) -> Row:
        """Sample, measure, and print the result."""
        started = time.monotonic()
        parts = zip(self.noise.split(self.options.batch), self.labels.split(self.options.batch), strict=True)
        images = torch.cat([heun(denoise, start, y, self.levels) for start, y in parts])
        seconds = time.monotonic() - started
        self.shown[name, scale] = images[:SHOWN]
        return self.measured(name, scale, images, self.labels, seconds)

    def measured(self, name: str, scale: float, images: Tensor, labels: Tensor, seconds: float) -> Row:
        network = self.judge.network
        # A diverged sample is no picture: judged as grey, it is wrong, far away, and spoils no mean.
        usable = torch.nan_to_num(images, 0.0, 0.0, 0.0).clamp(-1, 1)
        features = torch.cat([network.features(part) for part in usable.split(250)])
        near = precision_recall(self.judge.features, features)
        accuracy = class_accuracy(network.to_scores(F.silu(features)), labels)
        distance = frechet_distance(self.judge.features, features)
        row = Row(name, scale, accuracy, distance, near.precision, near.recall, round(seconds, 1))
        print(f"{name}, scale {scale:g}: {row.cell()}, {seconds:.0f} s", flush=True)
        return row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=int, default=500)
    parser.add_argument("--steps", type=int, default=16, help="of Heun's method; 2 evaluations each but the last")
    parser.add_argument("--scales", type=float, nargs="+", default=[0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 32.0])
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument("--batch", type=int, default=125)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--assets", type=Path, default=ROOT / "assets")
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "results" / "classifier.json")
    parser.add_argument("--docs", type=Path, default=ROOT / "docs", help="where the two pictures go")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    started = time.monotonic()
    with torch.no_grad():
        bench, rows = measure(options)
        seconds = time.monotonic() - started
        contact_sheet(pictures(bench, rows)).save(options.docs / "classifier-guidance.png", optimize=True)
        options.out.write_text(json.dumps(record(options, bench, rows, seconds), indent=1) + "\n", "utf-8")
        print(f"\n{table(rows)}\n\n{seconds:.0f} s on {platform.machine()}, {options.threads} thread(s)\n")
        guided_maps(bench.main, options.assets, options.docs / "guided-depth-segmentation.png", options.seed)


def measure(options: argparse.Namespace) -> tuple[Bench, list[Row]]:
    """All rows: real pictures, the denoiser unguided and told the class, and every method at every scale."""
    bench = Bench(options)
    rows = [bench.measured("real pictures", 0.0, bench.judge.perfect, bench.judge.perfect_labels, 0.0)]

    def told(x: Tensor, sigma: float, y: Tensor) -> Tensor:
        return bench.main(x, torch.full((len(x),), sigma), y)

    rows.append(bench.row("class given to the denoiser", 0.0, told))
    rows.append(bench.row("unguided", 0.0, bench.guided(METHODS["noise-aware"], 0.0)))
    for name in options.methods:
        method = METHODS[name]
        rows += [bench.row(method.title, scale, bench.guided(method, scale)) for scale in options.scales]
    return bench, rows


def table(rows: list[Row]) -> str:
    """Methods by scales; a cell is accuracy / Frechet distance / precision / recall."""
    by_place = {(row.method, row.scale): row.cell() for row in rows}
    scales = sorted({row.scale for row in rows})
    lines = [f"| accuracy / Frechet / precision / recall | {' | '.join(f's = {s:g}' for s in scales)} |"]
    lines.append("|---" * (len(scales) + 1) + "|")
    for method in dict.fromkeys(row.method for row in rows if row.scale):
        cells = [by_place.get((method if s else "unguided", s), "") for s in scales]
        lines.append(f"| {method} | {' | '.join(cells)} |")
    for reference in ("real pictures", "class given to the denoiser"):
        lines.append(f"\n{reference}: {by_place[reference, 0.0]}")
    return "\n".join(lines)


def good(rows: list[Row], method: str) -> Row:
    """The setting to show: nearest to real pictures among those within a tenth of the method's best accuracy."""
    mine = [row for row in rows if row.method == method]
    best = max(row.accuracy for row in mine)
    return min((row for row in mine if row.accuracy >= 0.9 * best), key=lambda row: row.frechet)


def pictures(bench: Bench, rows: list[Row]) -> list[tuple[str, Tensor]]:
    """Rows of the contact sheet: a column is a class."""
    sheet = [(f"unguided; asked for, from left to right: {', '.join(LABELS)}", bench.shown["unguided", 0.0])]
    for method in dict.fromkeys(row.method for row in rows if row.scale):
        row = good(rows, method)
        sheet.append((f"{method}, scale {row.scale:g}: accuracy {row.accuracy:.0%}", bench.shown[method, row.scale]))
    return sheet


def record(options: argparse.Namespace, bench: Bench, rows: list[Row], seconds: float) -> dict[str, Any]:
    """What is kept: the numbers and what decides them."""
    return {
        "denoiser_pictures_seen": bench.pictures_seen,
        "samples": options.samples,
        "steps": options.steps,
        "seed": options.seed,
        "machine": f"{platform.machine()}, {options.threads} thread(s), torch {torch.__version__}",
        "seconds": round(seconds),
        "rows": [asdict(row) for row in rows],
    }


if __name__ == "__main__":
    main()
