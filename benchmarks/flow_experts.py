"""Experts of a flow model: what they read at each noise level, and what they make of pictures; tables for
docs/studies.md.

    python benchmarks/flow_experts.py

Trains one and five experts of `shapes-classifier` on the flow schedule, and five heads that look at latents (the pixels
folded by two into channels, an autoencoder that loses nothing), and asks them, beside the clean network, about pictures
under noise that no training saw. Then each guides `shapes-flow` at its noisy input. The judge guides nothing. About a
quarter of an hour on one core.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from dataclasses import replace

import torch
import torch.nn.functional as F
from measures import class_accuracy
from ppap_train import ASSETS, NULL, base
from quality import Judge
from sampling import heun, noise_levels
from torch import Tensor, nn
from world import render
from world.judge import JUDGE

from guidance_pack.guidance.experts.bank import ExpertBank, adapter_names, own_tensors
from guidance_pack.guidance.guide import Guide, GuideSpec, with_noise
from guidance_pack.guidance.losses.cross_entropy import CrossEntropy
from guidance_pack.guidance.networks.tiny.files import build, read_denoiser
from guidance_pack.guidance.networks.tiny.latent_head import LatentHead
from guidance_pack.guidance.networks.tiny.preconditioning import precondition
from guidance_pack.guidance.noise_level import NoiseLevel
from guidance_pack.guidance.objective import Objective
from guidance_pack.guidance.routing import Experts
from guidance_pack.guidance.rules.gradient import GradientGuidance
from guidance_pack.guidance.training.experts import ExpertsTraining
from guidance_pack.guidance.training.lora_targets import Adaptation
from guidance_pack.guidance.training.recipe import ExpertRecipe
from guidance_pack.guidance.tuning.sets import frechet_distance

from steered import Steered  # isort: skip - it needs the pack's name

SHOWN, ASKED, BATCH = 2000, 400, 80
TRAIN_SEED, FRESH_SEED = 93_001, 93_002  # of worlds that no other training saw
TIMES = (0.1, 0.3, 0.5, 0.6, 0.7, 0.8, 0.9)
SCALES = (3.0, 10.0, 30.0)
STEPS, SAMPLES = 12, 240
FOLD = 2  # pixels on a side of what becomes one cell of a latent


class Folded(ExpertBank):
    """A bank of heads that is shown pictures: they become latents first."""

    def __init__(self, bank: ExpertBank) -> None:
        super().__init__(bank.base, bank.adapters, bank.originals)

    def forward(self, input: Tensor, timestep: Tensor | None = None) -> Tensor:
        return self.base(F.pixel_unshuffle(input, FOLD))


Method = tuple[nn.Module, Guide]


def clean() -> Method:
    found = base("shapes-classifier")
    return found.network, Guide((found.spec,))


def of_pictures(count: int, iterations: int) -> Method:
    """`count` experts of the clean network, by low-rank changes."""
    network, guide = clean()
    world = render(SHOWN, TRAIN_SEED)
    recipe = ExpertRecipe(experts=count, iterations=iterations, learning_rate=1e-3, schedule="flow")
    training = ExpertsTraining(network, guide.first, recipe)
    return trained(training, lambda rows: (world.images[rows], None), SHOWN, network, guide.first)


def of_latents(count: int, iterations: int) -> Method:
    """`count` heads that learn the clean network's answers from folded pixels."""
    teacher, guide = clean()
    world = render(SHOWN, TRAIN_SEED)
    with torch.no_grad():
        answers = torch.cat([teacher(guide.first.prepare(part), None) for part in world.images.split(BATCH)])
    latents = F.pixel_unshuffle(world.images, FOLD)
    recipe = ExpertRecipe(
        experts=count, iterations=iterations, learning_rate=1e-3, schedule="flow", flip=False,
        adaptation=Adaptation(efficient=False),
    )
    head = LatentHead(latents.shape[1], "classification", NULL)
    head.initialise(0)
    training = ExpertsTraining(head.eval(), replace(guide.first, domain="latent"), recipe, taught=True)
    bank, found = trained(training, lambda rows: (latents[rows], answers[rows]), SHOWN, head, guide.first)
    return Folded(bank), found


def trained(
    training: ExpertsTraining, shown: Callable, count: int, network: nn.Module, spec: GuideSpec
) -> tuple[ExpertBank, Guide]:
    """The experts as one guide, after all their steps on so many pictures."""
    began = time.monotonic()
    for _ in training.steps(shown, count):
        pass
    recipe = training.recipe
    each = 1000 * (time.monotonic() - began) / len(training.losses)
    print(f"{recipe.experts} experts, {len(training.losses)} steps of {recipe.batch}: {each:.0f} ms a step", flush=True)
    adapters = training.adapters
    bank = ExpertBank(network, adapters, own_tensors(network, adapter_names(adapters))).eval()
    member = replace(spec, sees="noisy")
    return bank, Guide((member,) * len(adapters), Experts(tuple(edge**-0.5 for edge in recipe.edges)))


@torch.no_grad()
def read(method: Method, time_: float) -> float:
    """The share of noisy pictures of which the one in charge tells the class."""
    network, guide = method
    world = render(ASKED, FRESH_SEED)
    level = NoiseLevel.flow(torch.full((ASKED,), time_, dtype=torch.float64))
    noise = torch.randn(world.images.shape, generator=torch.Generator().manual_seed(1))
    seen = with_noise(world.images, noise, level)
    expert = int(guide.experts.gate_weights(level)[0].argmax())
    if isinstance(network, ExpertBank):
        network.use(expert)
    member = guide.members[expert]
    logits = torch.cat([member.output(network, part, level[: len(part)]) for part in seen.split(BATCH)])
    return class_accuracy(logits, world.labels)


@torch.no_grad()
def guided(method: Method, scale: float, judge: Judge) -> tuple[float, float]:
    """Class accuracy and Frechet distance of pictures that `shapes-flow` makes, guided at the noisy input."""
    network, guide = method
    file = read_denoiser(ASSETS / "shapes-flow.safetensors")
    flow = precondition(build(file), "flow")

    def main(x: Tensor, sigma: Tensor, y: Tensor) -> Tensor:
        """The flow model in VE coordinates: x0 + sigma n is x / (1 - t) at t = sigma / (1 + sigma)."""
        t = sigma / (1 + sigma)
        return flow(x * (1 - t).view(-1, 1, 1, 1), t, y)

    rule = GradientGuidance(scale, objective=Objective(CrossEntropy(), "noisy input", guide))
    steered = Steered(main, rule, network, torch.eye(NULL), NULL)
    labels, made = torch.arange(SAMPLES) % NULL, []
    for number, y in enumerate(labels.split(BATCH)):
        noise = torch.randn(len(y), 3, 32, 32, generator=torch.Generator().manual_seed(number))
        made.append(heun(steered, noise, y, noise_levels("edm", STEPS)))
    images = torch.nan_to_num(torch.cat(made)).clamp(-1, 1)
    features = torch.cat([judge.network.features(part) for part in images.split(BATCH)])
    accuracy = class_accuracy(judge.network.to_scores(F.silu(features)), labels)
    return accuracy, frechet_distance(judge.features, features)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--iterations", type=int, default=3000, help="of all experts of a bank together")
    iterations = parser.parse_args().iterations
    methods = {
        "clean network": clean(), "single noise-aware": of_pictures(1, iterations),
        "five experts": of_pictures(5, iterations), "five heads on latents": of_latents(5, iterations),
    }
    print("| read at t = | " + " | ".join(f"{t:g}" for t in TIMES) + " |\n|" + "---|" * (len(TIMES) + 1))
    for name, method in methods.items():
        print(f"| {name} | " + " | ".join(f"{read(method, t):.0%}" for t in TIMES) + " |", flush=True)
    judge = Judge(JUDGE, SAMPLES)
    print("| guided at scale | " + " | ".join(f"{scale:g}" for scale in (0.0, *SCALES)) + " |")
    for name, method in methods.items():
        cells = [guided(method, scale, judge) for scale in (0.0, *SCALES)]
        print(f"| {name} | " + " | ".join(f"{a:.0%} / {d:.1f}" for a, d in cells) + " |", flush=True)


if __name__ == "__main__":
    main()
