"""The ablations of the autoguidance paper (2406.02507, section 5): less training, less capacity, or both in the guide?

    python benchmarks/ablations.py [--samples 400] [--weights 1.25 1.5 2 2.5]

Beside the embedded guides, with less training and with both, it trains one with less capacity, and takes up a stopped
training: the weak one's network with the main one's training (25,083 steps: half an hour on a free core of a 2-core
AVX-512 server CPU). All are measured over weights, from the same noise and labels.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import replace
from pathlib import Path

import torch
from quality import COLUMNS, ROOT, Judge, sample
from sampling import Guided, Setting
from torch import nn
from train_world import RECIPES, train_denoiser
from world import LABELS
from world.judge import JUDGE

from guidance_pack.guidance.networks.tiny.files import build, read_denoiser
from guidance_pack.guidance.networks.tiny.preconditioning import precondition

WORK = ROOT / ".cache" / "ablations"
MAIN, WEAK = RECIPES["shapes-edm"], RECIPES["shapes-edm-weak"]
SMALL = replace(MAIN, config=WEAK.config, seed=WEAK.seed)
FAMILY = "edm"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=int, default=400)
    parser.add_argument("--steps", type=int, default=16, help="of sampling")
    parser.add_argument("--batch", type=int, default=125)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--weights", type=float, nargs="+", default=[1.25, 1.5, 2.0, 2.5])
    parser.add_argument("--minutes", type=float, default=float("inf"), help="stop the training after this long")
    options = parser.parse_args()
    torch.set_num_threads(1)
    (WORK / "stopped").mkdir(parents=True, exist_ok=True)
    training = argparse.Namespace(out=WORK, work=WORK / "stopped", minutes=options.minutes, compile=False)
    train_denoiser("small", SMALL, training)
    with torch.no_grad():
        table(options)


def table(options: argparse.Namespace) -> None:
    """A row for each guide and weight."""
    files = {
        "less training": ROOT / "assets" / "shapes-edm-early.safetensors", "less capacity": WORK / "small.safetensors",
        "both": ROOT / "assets" / "shapes-edm-weak.safetensors",
    }  # fmt: skip
    main_network, _ = denoiser(ROOT / "assets" / "shapes-edm.safetensors")
    judge = Judge(JUDGE, options.samples)
    labels, started = torch.arange(options.samples) % len(LABELS), time.monotonic()
    print(f"| guide | {' | '.join(COLUMNS)} |\n{'|---' * (len(COLUMNS) + 1)}|")

    def row(words: str, network: nn.Module, guide: nn.Module, setting: Setting) -> None:
        images, evaluations = sample(Guided(network, guide, setting, FAMILY, len(LABELS)), labels, options)
        print(f"| {words} {judge.row(setting.name, images, labels, evaluations)}", flush=True)

    row("none", main_network, main_network, Setting("unguided"))
    for words, path in files.items():
        if not path.exists():
            continue
        guide, told = denoiser(path)
        row(f"{words}: {told}", guide, guide, Setting("the guide itself, unguided"))
        for weight in options.weights:
            row(f"{words}: {told}", main_network, guide, Setting(f"weight {weight:g}", autoguidance=weight))
    print(f"\n{time.monotonic() - started:.0f} s")


def denoiser(path: Path) -> tuple[nn.Module, str]:
    """A function of (x, sigma, y), and its size and training in words."""
    file = read_denoiser(path)
    told = f"{file.metadata['parameters']:,} parameters, {file.metadata['steps']:,} steps"
    return precondition(build(file), FAMILY, file.sigma_data), told


if __name__ == "__main__":
    main()
