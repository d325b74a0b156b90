"""P2 weighting on the shapes world: the same small denoiser trained with gamma 0 (plain eps-loss), 0.5 and 1.

    python benchmarks/p2.py [--only linear-1-0 ...] [--samples 500]

One run is schedule-gamma-seed; a run named small-... sees 1,000 pictures again and again. Every run starts from the
weights of its seed and sees the same pictures, noise levels and noise as the others of that seed. Finished runs wait
in .cache/p2, so the script can be stopped. It prints tables and writes benchmarks/results/p2.json and docs/p2.png.

On one core of a 2-core AVX-512 server CPU a run takes 3 to 4 minutes.
"""

from __future__ import annotations

import argparse
import json
import platform
import time
from dataclasses import replace
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import torch
from p2_picture import curves
from quality import ROOT, Judge
from sampling import heun, noise_levels
from torch import Tensor
from world import LABELS, render
from world.judge import JUDGE
from world.loop import Settings, State, train
from world.noise import Timesteps

from guidance_pack.guidance.networks.tiny.preconditioning import precondition
from guidance_pack.guidance.networks.tiny.unet import TinyUNet
from guidance_pack.guidance.noise_level import NoiseLevel
from guidance_pack.guidance.noise_schedule import noise_schedule
from guidance_pack.guidance.training.weighting import P2, OverSigma, Plain, normalise_weight

CONFIG = {"width": 16, "deep_width": 48, "deep_blocks": 2, "up_blocks": 1}
GAMMAS, SEEDS, SCHEDULES = (0.0, 0.5, 1.0), (0, 1, 2), ("linear", "cosine")
BATCH, FEW, DATA_SEED = 32, 1000, 41
LOOKS = (500, 1000, 2000)  # steps of training at which samples are drawn
SAMPLING = (4, 8, 16, 32)  # steps of Heun's method, at the end
HERE = 16


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=runs(), default=runs(), metavar="RUN")
    parser.add_argument("--samples", type=int, default=500)
    parser.add_argument("--work", type=Path, default=ROOT / ".cache" / "p2")
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "results" / "p2.json")
    parser.add_argument("--docs", type=Path, default=ROOT / "docs")
    options = parser.parse_args()
    torch.set_num_threads(1)
    options.work.mkdir(parents=True, exist_ok=True)
    judge = Judge(JUDGE, options.samples)
    for name in options.only:
        waiting = options.work / f"{name}-{options.samples}.json"
        if not waiting.exists():
            found = run(name, options.samples, judge)
            waiting.write_text(json.dumps(found))
            print(f"{name}: {found}", flush=True)
    done = {path.stem.rpartition("-")[0]: json.loads(path.read_text()) for path in options.work.glob("*.json")}
    done = {name: done[name] for name in runs() if name in done}
    report(options, done)


def runs() -> list[str]:
    """The names of all runs, the main ones first."""
    full = [f"{s}-{g:g}-{n}" for n in SEEDS for s in SCHEDULES for g in GAMMAS]
    return full + [f"small-linear-{g:g}-{n}" for n in SEEDS for g in GAMMAS]


def run(name: str, samples: int, judge: Judge) -> dict[str, Any]:
    """Train one denoiser and measure it: Frechet distances after LOOKS, and over SAMPLING steps at the end."""
    started = time.monotonic()
    small, (schedule, gamma, seed) = name.startswith("small-"), name.removeprefix("small-").split("-")
    settings = settings_of(schedule, float(gamma), int(seed))
    network = TinyUNet(**CONFIG)
    network.initialise(torch.Generator().manual_seed(int(seed)))
    state, data = State(network, settings), Pictures(int(seed), small)
    found: dict[str, Any] = {"training": {}, "sampling": {}}
    for look in LOOKS:
        for _ in train(state, data, replace(settings, steps=look)):
            pass
        found["training"][str(look)] = measured(state, judge, samples, HERE)
    for steps in SAMPLING:
        found["sampling"][str(steps)] = measured(state, judge, samples, steps)
    return found | {"seconds": round(time.monotonic() - started)}


def settings_of(schedule: str, gamma: float, seed: int) -> Settings:
    """DDPM's way of training: all timesteps alike, the eps-loss times P2's weight, kept at the plain loss's size."""
    discrete = noise_schedule(schedule)
    weight = normalise_weight(P2(1.0, gamma), NoiseLevel.variance_exploding(discrete.sigmas), "v", like=Plain("eps"))
    return Settings(
        steps=0, null_class=len(LABELS), label_dropout=0.0, noise=Timesteps(discrete), weight=OverSigma(weight),
        seed=seed,
    )


class Pictures:
    """What a step sees: new pictures each time, or the same 1,000 in an order of the seed."""

    def __init__(self, seed: int, small: bool) -> None:
        self.seed, self.few = seed, render(FEW, DATA_SEED) if small else None

    def __call__(self, step: int) -> tuple[Tensor, Tensor]:
        if self.few is None:
            first = (step - 1) * BATCH
            world = render(torch.arange(first, first + BATCH), DATA_SEED + 1 + self.seed)
            return world.images, world.labels
        generator = torch.Generator().manual_seed(1_000_003 * self.seed + step)
        rows = torch.randint(FEW, (BATCH,), generator=generator)
        return self.few.images[rows], self.few.labels[rows]


@torch.no_grad()
def measured(state: State, judge: Judge, samples: int, steps: int) -> float:
    """The Frechet distance of as many samples, by the averaged weights."""
    network = TinyUNet(**CONFIG).eval()
    network.load_state_dict(state.average.module.state_dict())
    denoise = precondition(network, "edm")
    noise = torch.randn(samples, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    labels, levels = torch.arange(samples) % len(LABELS), noise_levels("edm", steps)
    parts = zip(noise.split(125), labels.split(125), strict=True)
    images = [heun(lambda x, s, y: denoise(x, torch.full((len(x),), s), y), n, y, levels) for n, y in parts]
    return judge.distance(torch.cat(images))


def report(options: argparse.Namespace, done: dict[str, dict]) -> None:
    """Tables of means and spreads over seeds, the file and the plot."""
    for kind, columns in (("training", LOOKS), ("sampling", SAMPLING)):
        words = "after so many steps of training" if kind == "training" else "with so many steps of sampling"
        print(f"\n| Frechet distance {words} | {' | '.join(map(str, columns))} |\n{'|---' * (len(columns) + 1)}|")
        for group in groups():
            cells = [spread(done, group, kind, str(column)) for column in columns]
            if any(cells):
                print(f"| {words_of(group)} | {' | '.join(cells)} |")
    facts = {
        "machine": f"{platform.machine()}, 1 thread, torch {torch.__version__}", "samples": options.samples,
        "batch": BATCH, "config": CONFIG, "runs": done,
    }
    options.out.write_text(json.dumps(facts, indent=1) + "\n", "utf-8")
    plotted = {group: [done[f"{group}-{n}"] for n in SEEDS if f"{group}-{n}" in done] for group in groups()}
    curves(plotted).save(options.docs / "p2.png", optimize=True)


def groups() -> list[str]:
    return list(dict.fromkeys(name.rpartition("-")[0] for name in runs()))


def words_of(group: str) -> str:
    schedule, _, gamma = group.removeprefix("small-").partition("-")
    data = ", 1,000 pictures" if group.startswith("small-") else ""
    return f"{schedule}{data}, " + ("plain eps-loss" if gamma == "0" else f"P2, gamma {gamma}")


def spread(done: dict[str, dict], group: str, kind: str, column: str) -> str:
    values = [done[f"{group}-{seed}"][kind][column] for seed in SEEDS if f"{group}-{seed}" in done]
    if len(values) < 2:
        return f"{values[0]:.1f}" if values else ""
    return f"{mean(values):.1f} ± {stdev(values):.1f}"


if __name__ == "__main__":
    main()
