"""The 2-D toy experiment of the autoguidance paper: where guidance puts samples, when the truth is known exactly.

    python benchmarks/toy2d.py            sample with the networks in benchmarks/results, print the table, draw
    python benchmarks/toy2d.py --train    train the three networks first: 10-15 minutes on one idle CPU core

Source: Karras et al. 2024 (2406.02507), Section 3 and Appendix C. The guide of autoguidance is a narrower network of
the same class, trained eight times shorter; that of CFG has seen both classes. Both are combined by the pack's rules.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib.machinery import ModuleSpec
from importlib.util import module_from_spec
from pathlib import Path

import torch
from torch import Tensor

ROOT = Path(__file__).resolve().parents[1]
if "guidance_pack" not in sys.modules:
    # The checkout's folder may have any name, so the pack gets its module name here, not from sys.path.
    spec = ModuleSpec("guidance_pack", None, is_package=True)
    spec.submodule_search_locations = [str(ROOT)]
    sys.modules["guidance_pack"] = module_from_spec(spec)
sys.path.append(str(ROOT / "tools"))  # world/

from toy2d_network import Recipe, read, train, untrained, write  # noqa: E402
from toy2d_picture import draw  # noqa: E402
from toy2d_world import Mixture, world  # noqa: E402

from guidance_pack.guidance.branch import NEGATIVE, POSITIVE, Branch  # noqa: E402
from guidance_pack.guidance.compose import Guidance  # noqa: E402
from guidance_pack.guidance.noise_level import NoiseLevel  # noqa: E402
from guidance_pack.guidance.rule import Rule  # noqa: E402
from guidance_pack.guidance.rules.autoguidance import Autoguidance  # noqa: E402
from guidance_pack.guidance.rules.cfg import CFG  # noqa: E402

RESULTS = ROOT / "benchmarks" / "results"
RECIPES = {"main": Recipe("A", 64, 4096), "guide": Recipe("A", 32, 512), "both classes": Recipe("AB", 32, 512)}
STEPS, SIGMA_MAX, SIGMA_MIN, RHO = 32, 5.0, 0.002, 7.0
OUTLINE = 4.494  # nats below the densest point: 2.12 standard deviations of one Gaussian
TRUNCATION = 1.40
FLOOR = -100.0  # for the mean, which a few samples far outside would decide alone
HEADER = "| sampler | mean log p | median | outliers % | trunk % | leaf % |\n|---|---|---|---|---|---|"

Score = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Sampler:
    """Rules over scores: `main` and what they steer away from. `stretch` multiplies the score (naive truncation)."""

    main: Score
    rules: tuple[Rule, ...] = ()
    guide: Score | None = None
    both: Score | None = None
    stretch: float = 1.0

    def __call__(self, x: Tensor, sigma: float) -> Tensor:
        """The guided estimate of the clean points, [B, 2]."""
        sigmas = torch.full((len(x),), sigma)
        scores = {POSITIVE: self.main, NEGATIVE: self.both, Branch("guide"): self.guide}

        def evaluate(branch: Branch) -> Tensor:
            return x + self.stretch * sigma**2 * scores[branch](x, sigmas)

        return Guidance(self.rules).denoise(evaluate, x, NoiseLevel.variance_exploding(sigmas))


@dataclass(frozen=True)
class Row:
    """How samples lie in the true density of class A; shares in percent."""

    mean: float
    median: float
    outliers: float  # outside the outline
    trunk: float  # on the root branch or its children
    leaf: float  # on the outermost branches

    def markdown(self, name: str) -> str:
        log_p = f"{self.mean:.3f} | {self.median:.3f}"
        return f"| {name} | {log_p} | {self.outliers:.2f} | {self.trunk:.1f} | {self.leaf:.1f} |"


def samplers(truth: Mixture) -> dict[str, Sampler]:
    """The rows of the table, in its order."""
    main, guide, both = (read(RESULTS / f"{recipe.name}.safetensors", recipe).score for recipe in RECIPES.values())
    return {
        "exact score": Sampler(truth.score),
        "unguided": Sampler(main),
        "CFG 4": Sampler(main, (CFG(4.0),), both=both),
        f"naive truncation {TRUNCATION:g}": Sampler(main, stretch=TRUNCATION),
        "autoguidance 2": Sampler(main, (Autoguidance(2.0),), guide=guide),
        "autoguidance 3": Sampler(main, (Autoguidance(3.0),), guide=guide),
        "guide alone": Sampler(guide),
    }


def noise_levels() -> Tensor:
    """Karras et al. 2022 Eq. 5, from SIGMA_MAX to SIGMA_MIN and then 0, float64 [STEPS + 1]."""
    part = torch.linspace(0, 1, STEPS, dtype=torch.float64)
    ends = SIGMA_MAX ** (1 / RHO), SIGMA_MIN ** (1 / RHO)
    return torch.cat([(ends[0] + part * (ends[1] - ends[0])) ** RHO, torch.zeros(1, dtype=torch.float64)])


def heun(denoise: Callable[[Tensor, float], Tensor], x: Tensor) -> Tensor:
    """Karras et al. 2022 Algorithm 1 from x [B, 2] at SIGMA_MAX; the last step is Euler's."""
    levels = noise_levels().tolist()
    for now, following in zip(levels, levels[1:], strict=False):
        slope = (x - denoise(x, now)) / now
        moved = x + (following - now) * slope
        if following > 0:
            slope = (slope + (moved - denoise(moved, following)) / following) / 2
            moved = x + (following - now) * slope
        x = moved
    return x


def start(truth: Mixture, count: int, seed: int = 1) -> tuple[Tensor, Tensor]:
    """Clean samples of the truth and the same with noise SIGMA_MAX, [count, 2] each."""
    generator = torch.Generator().manual_seed(seed)
    clean = truth.sample(count, generator)
    return clean, clean + SIGMA_MAX * torch.randn(count, 2, generator=generator)


def densest(truth: Mixture) -> float:
    """The largest log density on a fine grid."""
    axis = torch.linspace(0, 1.5, 500)
    grid = torch.cartesian_prod(axis, axis)
    return float(truth.log_density(grid, torch.zeros(len(grid))).max())


def measure(truth: Mixture, x: Tensor, peak: float) -> Row:
    log_p, depth = truth.log_density(x, torch.zeros(len(x))), truth.depth(x)

    def percent(which: Tensor) -> float:
        return 100 * float(which.double().mean())

    mean = float(log_p.clamp_min(FLOOR).mean())
    return Row(mean, float(log_p.median()), percent(log_p < peak - OUTLINE), percent(depth <= 1), percent(depth == 6))


def train_all() -> None:
    torch.set_flush_denormal(True)  # shares of components far away are denormal, which is several times slower
    for recipe in RECIPES.values():
        began, network, losses = time.monotonic(), untrained(recipe), []
        for step, loss in train(network, recipe):
            losses.append(loss)
            if step % 128 == 0:
                recent = sum(losses[-128:]) / 128
                print(f"{recipe.name} step {step}: loss {recent:.4f}, {time.monotonic() - began:.0f} s", flush=True)
        write(RESULTS / f"{recipe.name}.safetensors", network, recipe, sum(losses[-128:]) / 128)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--train", action="store_true", help="train the three networks first")
    parser.add_argument("--samples", type=int, default=2**13, help="samples per row (default %(default)s)")
    options = parser.parse_args()
    torch.set_num_threads(1)
    RESULTS.mkdir(exist_ok=True)
    if options.train:
        train_all()
    truth = world("A")
    peak = densest(truth)
    clean, noisy = start(truth, options.samples)
    drawn = {"ground truth": clean}
    rows = [HEADER, measure(truth, clean, peak).markdown("ground truth")]
    for name, sampler in samplers(truth).items():
        drawn[name] = heun(sampler, noisy)
        rows.append(measure(truth, drawn[name], peak).markdown(name))
    (RESULTS / "toy2d.md").write_text("\n".join(rows) + "\n", "utf-8")
    print("\n".join(rows))
    shown = ("ground truth", "unguided", "CFG 4", f"naive truncation {TRUNCATION:g}", "autoguidance 3")
    draw(truth, {name: drawn[name] for name in shown}, peak - OUTLINE).save(RESULTS / "toy2d.png", optimize=True)


if __name__ == "__main__":
    main()
