"""Experts of a real off-the-shelf network: nsfwjs' MobileNetV2 on real pictures, and what it reads under noise before
and after; a table for docs/studies.md.

    npm pack nsfwjs && tar xzf nsfwjs-*.tgz
    python tools/convert_nsfwjs.py package/dist/models/mobilenet_v2 nsfwjs.safetensors
    pip install --target PICTURES scikit-learn scikit-image
    python benchmarks/nsfwjs.py --guide nsfwjs.safetensors --pictures PICTURES [--iterations 100] [--world]

The pictures are the photographs that the two packages carry, cut into overlapping squares; some of them are kept from
the training. --world: pictures of the embedded world instead, of another seed. What is asked at each noise level of the
flow schedule: how often the likeliest class is that of the clean picture, and the Kullback-Leibler divergence from what
was said of it. Memory is the process' largest before and in the training.
"""

from __future__ import annotations

import argparse
import platform
import resource
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from flow_experts import trained
from PIL import Image
from quality import ROOT  # noqa: F401 - it needs the pack's name
from torch import Tensor, nn
from world import render

from guidance_pack.guidance.checkpoints.guide_source import GuideSource
from guidance_pack.guidance.experts.bank import ExpertBank
from guidance_pack.guidance.guide import Guide, GuideSpec, with_noise
from guidance_pack.guidance.guides.mobilenet import KerasMobileNetFile
from guidance_pack.guidance.noise_level import NoiseLevel
from guidance_pack.guidance.training.experts import ExpertsTraining
from guidance_pack.guidance.training.recipe import ExpertRecipe

KEPT = ("chelsea.png", "rocket.jpg", "flower.jpg")  # from the training
SHOWN = ("astronaut.png", "coffee.png", "hubble_deep_field.jpg", "motorcycle_left.png", "ihc.png", "china.jpg")
SIDE, STRIDE = 256, 64  # of the squares, in pixels
TIMES = (0.1, 0.3, 0.5, 0.7, 0.9)
BATCH = 8

Method = tuple[nn.Module, Guide]


def photographs(folder: Path, names: tuple[str, ...]) -> Tensor:
    """Squares of the named pictures, wherever they lie below the folder, [N, 3, SIDE, SIDE] in [-1, 1]."""
    found: list[Tensor] = []
    for name in names:
        path = next(folder.rglob(name))
        picture = torch.from_numpy(np.array(Image.open(path).convert("RGB"))).movedim(2, 0) / 127.5 - 1
        squares = picture.unfold(1, SIDE, STRIDE).unfold(2, SIDE, STRIDE)
        found.append(squares.movedim(0, 2).flatten(0, 1))
    return torch.cat(found)


def pictures(options: argparse.Namespace) -> tuple[Tensor, Tensor]:
    """Those to learn from, and those to be asked about."""
    if options.world:
        return tuple(F.interpolate(render(count, seed).images, SIDE) for count, seed in ((200, 93_003), (60, 93_004)))
    asked = photographs(options.pictures, KEPT)
    order = torch.randperm(len(asked), generator=torch.Generator().manual_seed(0))
    return photographs(options.pictures, SHOWN), asked[order[:60]]


def experts(clean: Method, shown: Tensor, count: int, iterations: int) -> Method:
    """`count` experts of the clean network, by low-rank changes; says what the training took."""
    network, guide = clean
    recipe = ExpertRecipe(experts=count, iterations=iterations, batch=BATCH, learning_rate=1e-3, schedule="flow")
    before = peak()
    training = ExpertsTraining(network, guide.first, recipe)
    found = trained(training, lambda rows: (shown[rows], None), len(shown), network, guide.first)
    own = 4 * training.adapters[0].numbers() // 1024
    print(f"memory {before} MB before, {peak()} MB in the training; an expert's own parts {own} KB", flush=True)
    return found


def peak() -> int:
    """The most memory that this process has had, MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024


@torch.no_grad()
def answers(method: Method, seen: Tensor, level: NoiseLevel) -> Tensor:
    """log p [N, K] of the one in charge at a level."""
    network, guide = method
    expert = int(guide.experts.gate_weights(level[:1])[0].argmax())
    if isinstance(network, ExpertBank):
        network.use(expert)
    spec: GuideSpec = guide.members[expert]
    return torch.cat([spec.output(network, part, level[: len(part)]) for part in seen.split(BATCH)]).log_softmax(1)


def reading(method: Method, asked: Tensor, truth: Tensor, time_: float) -> str:
    """Agreement with what the clean network says of the clean pictures, and the divergence from it."""
    level = NoiseLevel.flow(torch.full((len(asked),), time_, dtype=torch.float64))
    noise = torch.randn(asked.shape, generator=torch.Generator().manual_seed(1))
    found = answers(method, with_noise(asked, noise, level), level)
    same = (found.argmax(1) == truth.argmax(1)).double().mean()
    return f"{float(same):.0%}, {float(F.kl_div(found, truth, log_target=True, reduction='batchmean')):.2f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--guide", type=Path, required=True, help="what tools/convert_nsfwjs.py wrote")
    parser.add_argument("--pictures", type=Path, help="a folder with scikit-learn's and scikit-image's pictures")
    parser.add_argument("--world", action="store_true", help="pictures of the embedded world instead")
    parser.add_argument("--iterations", type=int, default=100, help="of all experts of a bank together")
    options = parser.parse_args()
    torch.set_num_threads(1)
    network, spec = KerasMobileNetFile().load(GuideSource(options.guide))
    shown, asked = pictures(options)
    clean = network, Guide((spec,))
    truth = answers(clean, asked, NoiseLevel.flow(torch.zeros(len(asked), dtype=torch.float64)))
    counts = truth.argmax(1).bincount(minlength=len(spec.labels)).tolist()
    said = ", ".join(f"{name} {count}" for name, count in zip(spec.labels, counts, strict=True))
    print(f"{platform.machine()}, torch {torch.__version__}; {len(shown)} to learn from, {len(asked)} asked: {said}")
    methods = {"clean network": clean}
    methods |= {f"{n} expert{'s' * (n > 1)}": experts(clean, shown, n, options.iterations) for n in (1, 5)}
    print("| read at t = | " + " | ".join(f"{t:g}" for t in TIMES) + " |\n|" + "---|" * (len(TIMES) + 1))
    for name, method in methods.items():
        print(f"| {name} | " + " | ".join(reading(method, asked, truth, t) for t in TIMES) + " |", flush=True)


if __name__ == "__main__":
    main()
