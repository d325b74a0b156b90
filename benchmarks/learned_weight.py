"""Weights of CFG: constant, in an interval, by feedback and learned, judged by a network that no training has seen.

    python benchmarks/learned_weight.py [--samples 300] [--steps 12] [--seeds 0 1 2] [--asset FILE] [--weights FILE ...]

Learns the weights for the embedded denoiser on pictures of the shapes world, once by each objective, and prints what
that cost; --weights judges files that were learned before instead. Then every setting draws the same noise and
classes; constants at the learned weights' mean effective weight stand beside them. --asset also writes the first of
the learned ones as the pack carries it.
"""

from __future__ import annotations

import argparse
import platform
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from statistics import mean, stdev

import torch
from quality import INTERVAL, JUDGE, LABELS, ROOT, Judge
from sampling import heun, noise_levels
from torch import Tensor
from world import render

from guidance_pack.guidance.branch import NEGATIVE, POSITIVE, Branch
from guidance_pack.guidance.checkpoints.guide_source import GuideSource
from guidance_pack.guidance.compose import Guidance, Memory
from guidance_pack.guidance.guide import families
from guidance_pack.guidance.learned import WeightNetwork
from guidance_pack.guidance.networks.tiny.files import build, read_denoiser
from guidance_pack.guidance.networks.tiny.preconditioning import precondition
from guidance_pack.guidance.noise_level import NoiseLevel
from guidance_pack.guidance.rules.cfg import CFG
from guidance_pack.guidance.rules.feedback import Feedback
from guidance_pack.guidance.rules.learned_weight import LearnedWeight
from guidance_pack.guidance.schedule import Interval
from guidance_pack.guidance.training.distillation import distillation_loss
from guidance_pack.guidance.training.matching import Lessons, WeightRecipe
from guidance_pack.guidance.training.weights import WeightsFiles, WeightsTraining, facts_of_weights, read_weights

PICTURES, PICTURES_SEED = 2000, 71_001  # of the lessons; no training of a network and no judge uses this world
NAME, NULL, BATCH = "shapes-edm", len(LABELS), 100
TEACHER = "shapes-classifier"  # whose opinion is the reward; the judge is another network
RECIPES = {
    "mmd": WeightRecipe(), "l2": WeightRecipe(objective="l2"), "mmd and a classifier": WeightRecipe(reward=0.05)
}
Denoiser = Callable[[Tensor, Tensor, Tensor], Tensor]


def lessons(network: Denoiser) -> Lessons:
    """Pictures of the world with their classes, and the denoiser's two estimates."""
    world = render(PICTURES, PICTURES_SEED)
    share = (torch.arange(1000, dtype=torch.float64) + 0.5) / 1000
    table = NoiseLevel.variance_exploding(80.0 * (0.002 / 80.0) ** share)

    def predict(rows: Tensor, x: Tensor, level: NoiseLevel) -> dict[Branch, Tensor]:
        with torch.no_grad():
            sigma, labels = level.b.float(), world.labels[rows]
            return {
                POSITIVE: network(x, sigma, labels), NEGATIVE: network(x, sigma, torch.full_like(labels, NULL))
            }

    return Lessons(table, PICTURES, lambda rows: world.images[rows], predict, reward=reward())


def reward() -> Callable[[Tensor, Tensor], Tensor]:
    """How far what a classifier says of a guided estimate is from what it says of the picture."""
    path = ROOT / "assets" / f"{TEACHER}.safetensors"
    teacher, spec = families()["tiny"]().load(GuideSource(path, TEACHER))
    teacher.requires_grad_(False)
    loss = distillation_loss("task", spec.task, 1.0)

    def opinion(pictures: Tensor) -> Tensor:
        return teacher(spec.prepare(pictures), None)

    return lambda guided, clean: loss(opinion(guided), opinion(clean))


def learn(network: Denoiser, recipe: WeightRecipe, asset: Path | None) -> WeightNetwork:
    """The learned weight of CFG, and a line about what it cost."""
    began, training = time.monotonic(), WeightsTraining(recipe, lessons(network))
    list(training.steps())
    levels = NoiseLevel.variance_exploding(torch.tensor([40.0, 10.0, 3.0, 1.0, 0.3, 0.1, 0.03]))
    weights = training.settle().cfg.requires_grad_(False)
    shown = ", ".join(f"{s:g}: {w:.2f}" for s, w in zip(levels.b.tolist(), weights.usual(levels).tolist(), strict=True))
    cost = f"{training.evaluations} evaluations, {time.monotonic() - began:.0f} s"
    print(f"{recipe.objective}, reward {recipe.reward:g}: {cost}; sigma: weight {shown}", flush=True)
    if asset is not None:
        facts = facts_of_weights(recipe, {"model": NAME}, f"shapes world {PICTURES_SEED}", PICTURES)
        WeightsFiles(asset, asset.with_suffix(".waiting"), facts).finish(training, {})
    return weights


@dataclass
class Steered:
    """The denoiser with rules. evaluations: of the network; weights: the effective weight of CFG at each."""

    network: Denoiser
    guidance: Guidance
    levels: list[float]
    evaluations: int = 0
    weights: list[float] = field(default_factory=list)
    memory: Memory = field(default_factory=Memory)

    def __post_init__(self) -> None:
        self.guidance = self.guidance.over(NoiseLevel.variance_exploding(torch.tensor(self.levels)))

    def __call__(self, x: Tensor, sigma: float, y: Tensor) -> Tensor:
        position, s = self.levels.index(sigma) + 1, torch.full((len(x),), sigma)
        if position == 1:
            self.memory = Memory()
        self.memory.move_to(position)
        seen: dict[Branch, Tensor] = {}

        def evaluate(branch: Branch) -> Tensor:
            self.evaluations += len(x)
            seen[branch] = self.network(x, s, torch.full_like(y, NULL) if branch == NEGATIVE else y)
            return seen[branch]

        found = self.guidance.denoise(evaluate, x, NoiseLevel.variance_exploding(s), memory=self.memory)
        self.weights.append(_effective(found, seen) if NEGATIVE in seen else 1.0)
        return found


def _effective(found: Tensor, seen: dict[Branch, Tensor]) -> float:
    """The mean weight at which plain CFG goes as far along its direction (2602.22570)."""
    delta = (seen[POSITIVE] - seen[NEGATIVE]).flatten(1).double()
    along = ((found - seen[NEGATIVE]).flatten(1) * delta).sum(1) / delta.square().sum(1).clamp_min(1e-12)
    return float(along.mean())


@torch.no_grad()
def measure(network: Denoiser, rules: Guidance, judge: Judge, options: argparse.Namespace) -> list[tuple[float, ...]]:
    """Of each seed: accuracy, Frechet distance, precision, recall, effective weight, evaluations per picture."""
    levels, labels = noise_levels("edm", options.steps), torch.arange(options.samples) % len(LABELS)
    found = []
    for seed in options.seeds:
        noise = torch.randn(options.samples, 3, 32, 32, generator=torch.Generator().manual_seed(seed))
        steered = Steered(network, rules, levels)
        parts = zip(noise.split(BATCH), labels.split(BATCH), strict=True)
        images = torch.cat([heun(steered, start, y, levels) for start, y in parts])
        cost = steered.evaluations / options.samples
        found.append((*judge.scores(images, labels), mean(steered.weights), cost))
    return found


def row(name: str, found: list[tuple[float, ...]]) -> float:
    """Print means over the seeds, with the spread of the first two; the mean effective weight."""
    accuracy, distance, precision, recall, weight, cost = ([one[i] for one in found] for i in range(6))
    spread = [stdev(values) if len(values) > 1 else 0.0 for values in (accuracy, distance)]
    means = f"{mean(precision):.3f} | {mean(recall):.3f} | {mean(weight):.2f} | {mean(cost):.0f}"
    distances = f"{mean(distance):.2f} ± {spread[1]:.2f}"
    print(f"| {name} | {mean(accuracy):.1%} ± {spread[0]:.1%} | {distances} | {means} |", flush=True)
    return mean(weight)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=int, default=300)
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--cfg", type=float, nargs="*", default=[1.0, 1.5, 2.0, 3.0])
    parser.add_argument("--interval", type=float, nargs="*", default=[2.0, 3.0])
    parser.add_argument("--feedback", action=argparse.BooleanOptionalAction, default=True)
    parser.add_argument("--learn", nargs="*", choices=[*RECIPES], default=[*RECIPES])
    parser.add_argument("--asset", type=Path)
    parser.add_argument("--weights", type=Path, nargs="*", default=[])
    options = parser.parse_args()
    file = read_denoiser(ROOT / "assets" / f"{NAME}.safetensors")
    network = precondition(build(file), "edm", file.sigma_data)
    learned = {path.stem: read_weights(str(path))[0].cfg for path in options.weights} or {
        name: learn(network, RECIPES[name], options.asset if name == "mmd" else None) for name in options.learn
    }
    judge, (low, high) = Judge(JUDGE, options.samples), INTERVAL
    print(f"{options.samples} samples, Heun, {options.steps} steps, seeds {options.seeds}; {platform.machine()}, "
          f"{torch.get_num_threads()} thread(s), torch {torch.__version__}\n")  # fmt: skip
    columns = "weight of CFG | class accuracy | Frechet distance | precision | recall | effective weight | evaluations"
    print(f"| {columns} |\n{'|---' * 7}|")
    inside = Interval(high, low, "sigma_ve")
    settings = {f"{w:g}": Guidance((CFG(w),)) for w in options.cfg}
    settings |= {f"{w:g} in ({low:g}, {high:g}]": Guidance((CFG(w, inside),)) for w in options.interval}
    if options.feedback:
        settings["feedback, up to 10"] = Guidance((Feedback(),))
    for name, weights in learned.items():
        both = CFG(weights.constant, inside), LearnedWeight(1.0, inside, weights)
        settings[f"learned: {name}, in ({low:g}, {high:g}]"] = Guidance(both)
        settings[f"learned: {name}"] = Guidance((CFG(weights.constant), LearnedWeight(weights=weights)))
    for name, rules in settings.items():
        weight = row(name, measure(network, rules, judge, options))
        if name.startswith("learned"):
            row(f"{weight:.2f}, the same on average", measure(network, Guidance((CFG(weight),)), judge, options))


if __name__ == "__main__":
    main()
