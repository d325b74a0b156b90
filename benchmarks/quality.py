"""Measure how guidance changes the embedded networks' pictures, and print a markdown table.

    python benchmarks/quality.py [--prediction edm|flow] [--samples 1000] [--steps 32] [--sheet FILE.png]

All settings start from the same noise and labels. The judge, a classifier of clean pictures that guides nothing, gives
class accuracy and the features for the Frechet distance and for precision and recall. Real pictures, as many as there
are samples, give the first row: what a perfect sampler would score.
"""

from __future__ import annotations

import argparse
import platform
import sys
import time
from collections.abc import Sequence
from importlib.machinery import ModuleSpec
from importlib.util import module_from_spec
from pathlib import Path

import torch
from measures import class_accuracy
from sheets import contact_sheet
from torch import Tensor

ROOT = Path(__file__).resolve().parents[1]
if "guidance_pack" not in sys.modules:
    # The checkout's folder may have any name, so the pack gets its module name here, not from sys.path.
    spec = ModuleSpec("guidance_pack", None, is_package=True)
    spec.submodule_search_locations = [str(ROOT)]
    sys.modules["guidance_pack"] = module_from_spec(spec)
sys.path.append(str(ROOT / "tools"))  # world/

from sampling import Guided, Setting, heun, noise_levels  # noqa: E402
from world import LABELS, render  # noqa: E402
from world.judge import JUDGE, read_judge  # noqa: E402

from guidance_pack.guidance.networks.tiny.files import build, read_denoiser  # noqa: E402
from guidance_pack.guidance.networks.tiny.preconditioning import precondition  # noqa: E402
from guidance_pack.guidance.tuning.sets import frechet_distance, precision_recall  # noqa: E402

REFERENCE_SEED = 90_001  # no training uses this world
INTERVAL = (0.15, 5.0)
COLUMNS = ("setting", "class accuracy", "Frechet distance", "precision", "recall", "evaluations per picture")
HEADER = f"| {' | '.join(COLUMNS)} |\n{'|---' * len(COLUMNS)}|"


def settings(cfg: Sequence[float], autoguidance: Sequence[float]) -> list[Setting]:
    """Unguided, each kind of guidance over its weights, and both together."""
    chosen = [Setting("unguided")]
    chosen += [Setting(f"CFG {w:g}", cfg=w) for w in cfg]
    low, high = INTERVAL
    chosen += [Setting(f"CFG {w:g} in ({low:g}, {high:g}]", cfg=w, interval=INTERVAL) for w in cfg]
    chosen += [Setting(f"autoguidance {w:g}", autoguidance=w) for w in autoguidance]
    chosen += [
        Setting(f"CFG {c:g} + autoguidance {a:g}", cfg=c, autoguidance=a)
        for c, a in zip(cfg[:1], autoguidance[:1], strict=False)
    ]
    return chosen


class Judge:
    """Scores and features of pictures, and the comparison with as many real ones."""

    def __init__(self, path: Path, samples: int) -> None:
        self.network = build(read_judge(path))
        # Twice as many real pictures: half stand for the world, half show what a perfect sampler would score.
        world = render(2 * samples, REFERENCE_SEED)
        self.real, self.perfect = world.images.split(samples)
        self.perfect_labels = world.labels[samples:]
        self.features = self._features(self.real)

    def distance(self, images: Tensor) -> float:
        """The Frechet distance of pictures to real ones."""
        return frechet_distance(self.features, self._features(images.clamp(-1, 1)))

    def _features(self, images: Tensor) -> Tensor:
        return torch.cat([self.network.features(part) for part in images.split(250)])

    def scores(self, images: Tensor, labels: Tensor) -> tuple[float, float, float, float]:
        """Class accuracy, Frechet distance, precision and recall of pictures."""
        images = images.clamp(-1, 1)
        scores = torch.cat([self.network(part) for part in images.split(250)])
        features = self._features(images)
        near = precision_recall(self.features, features)
        return class_accuracy(scores, labels), frechet_distance(self.features, features), near.precision, near.recall

    def row(self, name: str, images: Tensor, labels: Tensor, evaluations: int) -> str:
        """One line of the table."""
        accuracy, distance, precision, recall = self.scores(images, labels)
        return f"| {name} | {accuracy:.1%} | {distance:.2f} | {precision:.3f} | {recall:.3f} | {evaluations} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--prediction", choices=("edm", "flow"), default="edm")
    parser.add_argument("--samples", type=int, default=1000)
    parser.add_argument("--steps", type=int, default=32)
    parser.add_argument("--batch", type=int, default=125)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--cfg", type=float, nargs="*", default=[1.5, 2.0, 3.0])
    parser.add_argument("--autoguidance", type=float, nargs="*", default=[1.5, 2.0, 2.5])
    parser.add_argument("--assets", type=Path, default=ROOT / "assets")
    parser.add_argument("--main", help="file name of the main denoiser, without .safetensors")
    parser.add_argument("--weak", help="file name of the weak one")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--sheet", type=Path, help="also save a contact sheet of every setting")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    table(options)


@torch.no_grad()
def table(options: argparse.Namespace) -> None:
    """Print the machine, the networks and a row for each setting."""
    family = options.prediction
    main_file = read_denoiser(options.assets / f"{options.main or f'shapes-{family}'}.safetensors")
    weak_file = read_denoiser(options.assets / f"{options.weak or f'shapes-{family}-weak'}.safetensors")
    main_net, weak_net = (precondition(build(f), family, f.sigma_data) for f in (main_file, weak_file))
    for role, file in (("main", main_file), ("weak", weak_file)):
        facts = file.metadata
        print(f"{role}: {file.name}, {facts['parameters']:,} parameters, {facts['pictures_seen']:,} pictures seen")
    print(
        f"{options.samples} samples, Heun, {options.steps} steps, seed {options.seed}; "
        f"{platform.machine()}, {options.threads} thread(s), torch {torch.__version__}\n\n{HEADER}"
    )
    judge = Judge(JUDGE, options.samples)
    labels = torch.arange(options.samples) % len(LABELS)
    print(judge.row("real pictures", judge.perfect, judge.perfect_labels, 0), flush=True)
    rows = [("real pictures", judge.real[:10])]
    started = time.monotonic()
    for setting in settings(options.cfg, options.autoguidance):
        guided = Guided(main_net, weak_net, setting, family, len(LABELS))
        images, evaluations = sample(guided, labels, options)
        print(judge.row(setting.name, images, labels, evaluations), flush=True)
        rows.append((setting.name, images[:10]))
        if options.sheet:
            contact_sheet(rows).save(options.sheet)
    print(f"\n{time.monotonic() - started:.0f} s")


def sample(guided: Guided, labels: Tensor, options: argparse.Namespace) -> tuple[Tensor, int]:
    """The setting's pictures and the network evaluations that each took; noise depends on the seed alone."""
    noise = torch.randn(len(labels), 3, 32, 32, generator=torch.Generator().manual_seed(options.seed))
    levels = noise_levels(guided.prediction, options.steps)
    parts = list(zip(noise.split(options.batch), labels.split(options.batch), strict=True))
    images = torch.cat([heun(guided, start, y, levels) for start, y in parts])
    return images, guided.evaluations // len(parts)


if __name__ == "__main__":
    main()
