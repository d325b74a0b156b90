"""The degradation study of the autoguidance paper (2406.02507, section 5.1) on the embedded denoiser.

    python benchmarks/degraded.py [--part paper|whole] [--samples 400] [--dropout 0.05 0.1] [--noise 0.1 0.2]

paper: main and guide are the same network, damaged in the same way, the guide more; and damaged in different ways.
whole: the undamaged network guided by itself with damage, as the Degraded Model node offers it.
All rows start from the same noise and labels; damage is drawn anew for every picture and evaluation.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from itertools import count

import torch
import torch.nn.functional as F
from quality import HEADER, LABELS, ROOT, Judge, sample
from sampling import Denoiser, Guided, Setting
from torch import Tensor
from world.judge import JUDGE

from guidance_pack.guidance.networks.tiny.files import build, read_denoiser
from guidance_pack.guidance.networks.tiny.preconditioning import precondition
from guidance_pack.guidance.networks.tiny.unet import Run
from guidance_pack.guidance.noise_level import NoiseLevel
from guidance_pack.guidance.perturbation import (
    blur,
    chance,
    drop,
    identity_attention,
    key_of,
    noisier,
    normal,
    skip_block,
    uniform,
)

FAMILY = "edm"
WEIGHTS = (1.5, 2.0, 3.0)


class Damaged:
    """A damaged denoiser of the embedded network, as `sampling.heun` calls it; `seed` keeps main and guide apart.

    Args:
        kind: "dropout" of what each block adds, "input noise", "random blocks", "skipped block" (the middle one),
            "identity attention" or "blurred attention" in all blocks.
        strength: the rate, the relative rise of the noise level, the chance of a block to be left out; else unused.
    """

    def __init__(self, file, kind: str, strength: float, seed: int) -> None:
        self.network, self.kind, self.strength, self.seed = build(file), kind, strength, seed
        self.calls = count()
        self.denoise: Denoiser = precondition(
            lambda x, t, y: self.network(x, t, y, around=self.around), FAMILY, file.sigma_data
        )

    def __call__(self, x: Tensor, sigma: Tensor, y: Tensor) -> Tensor:
        if self.kind == "input noise":
            more, added = noisier(NoiseLevel.variance_exploding(sigma), self.strength, float("inf"))
            noise = normal(x.shape, self.key("input"))
            return self.denoise(x + added.to(x.dtype).view(-1, 1, 1, 1) * noise, more.b.to(x.dtype), y)
        return self.denoise(x, sigma, y)

    def key(self, place: str) -> int:
        return key_of(self.seed, next(self.calls), place)

    def around(self, part: str, index: int, run: Run, hidden: Tensor) -> Tensor:
        after = run(hidden, self.attend if part == "deep" else F.scaled_dot_product_attention)
        if after.shape != hidden.shape:
            return after
        if self.kind == "dropout":
            return drop(hidden, after, self.strength, uniform(after.shape, self.key(f"{part} {index}")))
        left_out = torch.zeros(len(hidden))
        if self.kind == "random blocks":
            draws = [chance(self.key(f"{part} {index}")) for _ in hidden]
            left_out = (torch.tensor(draws) < self.strength).float()
        elif self.kind == "skipped block" and (part, index) == ("deep", 1):
            left_out = torch.ones(len(hidden))
        return skip_block(hidden, after, left_out)

    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        if self.kind == "identity attention":
            return identity_attention(q, k, v, 0)
        if self.kind == "blurred attention":
            side = round(q.shape[-2] ** 0.5)
            q = blur(q, (1, side, side), 10.0)
        return F.scaled_dot_product_attention(q, k, v)


def paper(file, rates: Sequence[float], rises: Sequence[float]) -> list[tuple[Denoiser, Denoiser, Setting]]:
    """Main, guide and setting of each row of the paper's study; the damage of main, then of the guide."""
    dropout = [Damaged(file, "dropout", rate, seed) for seed, rate in enumerate(rates, 1)]
    noise = [Damaged(file, "input noise", rise, seed) for seed, rise in enumerate(rises, 3)]
    rows = []
    for name, (main, guide), (low, high) in (("dropout", dropout, rates), ("input noise", noise, rises)):
        rows.append((main, guide, Setting(f"{name} {low:.0%}, unguided")))
        rows.append((guide, guide, Setting(f"{name} {high:.0%}, unguided")))
        rows += [
            (main, guide, Setting(f"{name} {low:.0%} guided by {name} {high:.0%}, weight {w:g}", autoguidance=w))
            for w in WEIGHTS
        ]
    for name, main, guide in (
        (f"dropout {rates[0]:.0%} guided by input noise {rises[1]:.0%}", dropout[0], noise[1]),
        (f"input noise {rises[0]:.0%} guided by dropout {rates[1]:.0%}", noise[0], dropout[1]),
    ):
        rows += [(main, guide, Setting(f"{name}, weight {w:g}", autoguidance=w)) for w in (1.25, 1.75)]
    return rows


def whole(file, main: Denoiser) -> list[tuple[Denoiser, Denoiser, Setting]]:
    """The undamaged network guided by each damage."""
    kinds = (
        ("dropout", 0.1), ("input noise", 0.2), ("random blocks", 0.1), ("skipped block", 1.0),
        ("identity attention", 1.0), ("blurred attention", 1.0),
    )  # fmt: skip
    return [
        (main, Damaged(file, kind, strength, 5), Setting(f"undamaged guided by {kind}{label}, weight {w:g}",
                                                         autoguidance=w))
        for kind, strength in kinds
        for label in (f" {strength:.0%}" if strength < 1 else "",)
        for w in (1.5, 2.0)
    ]  # fmt: skip


@torch.no_grad()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=int, default=400)
    parser.add_argument("--steps", type=int, default=16)
    parser.add_argument("--batch", type=int, default=125)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--dropout", type=float, nargs=2, default=(0.05, 0.1), help="main's and the guide's rate")
    parser.add_argument("--noise", type=float, nargs=2, default=(0.1, 0.2), help="main's and the guide's rise")
    parser.add_argument("--part", choices=("paper", "whole"))
    options = parser.parse_args()
    torch.set_num_threads(1)
    file, weak = (read_denoiser(ROOT / "assets" / f"shapes-{FAMILY}{end}.safetensors") for end in ("", "-weak"))
    plain, weaker = (precondition(build(f), FAMILY, f.sigma_data) for f in (file, weak))
    rows = [(plain, plain, Setting("undamaged, unguided"))]
    rows += paper(file, options.dropout, options.noise) if options.part != "whole" else []
    if options.part != "paper":
        rows.append((plain, weaker, Setting("undamaged guided by the weak file, weight 2", autoguidance=2.0)))
        rows += whole(file, plain)
    judge = Judge(JUDGE, options.samples)
    labels = torch.arange(options.samples) % len(LABELS)
    print(f"{options.samples} samples, Heun, {options.steps} steps, seed {options.seed}, one thread\n\n{HEADER}")
    print(judge.row("real pictures", judge.perfect, judge.perfect_labels, 0), flush=True)
    started = time.monotonic()
    for network, guide, setting in rows:
        images, evaluations = sample(Guided(network, guide, setting, FAMILY, len(LABELS)), labels, options)
        print(judge.row(setting.name, images, labels, evaluations), flush=True)
    print(f"\n{time.monotonic() - started:.0f} s")


if __name__ == "__main__":
    main()
