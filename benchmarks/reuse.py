"""Autoguidance that keeps the guide's difference for k noise levels: what it saves, and the error that it makes.

    python benchmarks/reuse.py [--samples 400] [--weight 1.5] [--steps 32]

Euler's method on the embedded denoisers, the same noise for every row. The difference of pictures is the root mean
square, in units where black is -1 and white 1, to the row that reuses nothing.
"""

from __future__ import annotations

import argparse
import platform
import time
from pathlib import Path

import torch
from quality import ROOT, Judge
from sampling import noise_levels
from torch import Tensor
from world import LABELS
from world.judge import JUDGE

from guidance_pack.guidance.branch import MAIN, Branch
from guidance_pack.guidance.compose import Guidance, Memory
from guidance_pack.guidance.networks.tiny.files import build, read_denoiser
from guidance_pack.guidance.networks.tiny.preconditioning import precondition
from guidance_pack.guidance.noise_level import NoiseLevel
from guidance_pack.guidance.rules.autoguidance import Autoguidance

REUSES = (1, 2, 3, 4, 8)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=int, default=400)
    parser.add_argument("--weight", type=float, default=1.5)
    parser.add_argument("--steps", type=int, default=32)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--assets", type=Path, default=ROOT / "assets")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    with torch.no_grad():
        table(options)


def table(options: argparse.Namespace) -> None:
    """A row without the guide, and one for each k."""
    judge = Judge(JUDGE, options.samples)
    networks = {}
    for network, name in ((MAIN, "shapes-edm"), ("guide", "shapes-edm-weak")):
        file = read_denoiser(options.assets / f"{name}.safetensors")
        networks[network] = precondition(build(file), "edm", file.sigma_data)
    print(f"{platform.machine()}, torch {torch.__version__}, {options.threads} thread(s), {options.samples} samples")
    print("| guide asked at | its evaluations | Frechet distance | difference of pictures | seconds |")
    print("|---|---|---|---|---|")
    exact: Tensor | None = None
    for weight, reuse in ((1.0, 1), *((options.weight, reuse) for reuse in REUSES)):
        started = time.monotonic()
        images, asked = sample(networks, Autoguidance(weight, reuse=reuse), options)
        seconds = time.monotonic() - started
        exact = images if weight != 1.0 and exact is None else exact
        error = "" if exact is None else f"{(images - exact).square().mean().sqrt():.3f}"
        where = "none" if weight == 1.0 else "every level" if reuse == 1 else f"every {reuse} levels"
        print(f"| {where} | {asked} | {judge.distance(images):.2f} | {error} | {seconds:.0f} |", flush=True)


def sample(networks: dict, rule: Autoguidance, options: argparse.Namespace) -> tuple[Tensor, int]:
    """Pictures [N, 3, 32, 32], and how often the guide was evaluated for each."""
    levels = noise_levels("edm", options.steps)
    guidance, memory, asked = Guidance((rule,)), Memory(), 0
    y = torch.arange(options.samples) % len(LABELS)
    x = torch.randn(options.samples, 3, 32, 32, generator=torch.Generator().manual_seed(0)) * levels[0]
    for position, (sigma, following) in enumerate(zip(levels[:-1], levels[1:], strict=True), 1):
        at = torch.full((len(x),), sigma)

        def evaluate(branch: Branch, x: Tensor = x, at: Tensor = at) -> Tensor:
            nonlocal asked
            asked += branch.network != MAIN
            parts = zip(x.split(100), at.split(100), y.split(100), strict=True)
            return torch.cat([networks[branch.network](*part) for part in parts])

        memory.move_to(position)
        denoised = guidance.denoise(
            evaluate, x, NoiseLevel.variance_exploding(at), memory=memory, position=position
        )
        x = x + (following - sigma) * (x - denoised) / sigma
    return x, asked


if __name__ == "__main__":
    main()
