"""Train the guides in assets/ on the shapes world: two classifiers, a depth and a segmentation network.

    python tools/train_guides.py [--only NAME ...] [--out assets] [--work .cache/training] [--steps N] [--minutes M]

Each recipe below is seeded and takes up a stopped training where it left off. The loss, the time, the machine and, at
the end, what the network gets right on fresh pictures are printed. Times on one core of a 2-core AVX-512 server CPU:
0.11 s per step of a classifier (batch 64), 0.08 s of the other two (batch 32); 37 minutes in all.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor
from train_world import LABELS, ROOT, Recipe, begin, describe, follow, parser_of
from world import Pictures, render
from world.scenes import Scenes, render_scenes

from guidance_pack.guidance.checkpoints.atomic import atomic_save
from guidance_pack.guidance.guide import with_noise
from guidance_pack.guidance.networks.tiny import files
from guidance_pack.guidance.networks.tiny.guide import TinyGuide
from guidance_pack.guidance.noise_level import NoiseLevel
from guidance_pack.guidance.noise_schedule import noise_schedule

SCHEDULE = "linear"
LEARNING_RATE, WEIGHT_DECAY = 2e-3, 0.05
FRESH, FRESH_SEED = 2000, 1000  # how many pictures measure a network; their seed is the training's plus this
RECIPES: dict[str, Recipe] = {
    "shapes-classifier": Recipe(
        {"task": "classification", "norm": "batch"}, None, steps=4000, batch=64, data_seed=11, seed=11
    ),
    # Steers nothing: it says in the workflows how many pictures are as asked.
    "shapes-verdict": Recipe(
        {"task": "classification", "width": 24}, None, steps=4000, batch=64, data_seed=15, seed=15
    ),
    # ADM's recipe (2105.05233, Table 12): all timesteps alike, AdamW with weight decay 0.05, rate falling to 0.
    "shapes-noisy-classifier": Recipe(
        {"task": "classification", "timestep": True}, None, steps=8000, batch=64, data_seed=12, seed=12
    ),
    "shapes-depth": Recipe({"task": "depth", "width": 32}, None, steps=5000, batch=32, data_seed=13, seed=13),
    "shapes-segmentation": Recipe(
        {"task": "segmentation", "width": 32}, None, steps=6000, batch=32, data_seed=14, seed=14
    ),
}


class Training:
    """What a training must remember between two steps: weights, the optimiser's moments, the generator."""

    def __init__(self, recipe: Recipe) -> None:
        self.recipe, self.step = recipe, 0
        self.network = TinyGuide(**recipe.config)
        self.network.initialise(torch.Generator().manual_seed(recipe.seed))
        self.generator = torch.Generator().manual_seed(recipe.seed)
        self.optimizer = torch.optim.AdamW(self.network.parameters(), LEARNING_RATE, weight_decay=WEIGHT_DECAY)

    def steps(self, last: int) -> Iterator[tuple[int, float]]:
        """Take one step each time its number and loss are asked for. The learning rate falls straight to 0."""
        recipe = self.recipe
        while self.step < last:
            for group in self.optimizer.param_groups:
                group["lr"] = LEARNING_RATE * (1 - self.step / recipe.steps)
            first = self.step * recipe.batch  # no picture is seen twice
            truth = drawn(recipe, torch.arange(first, first + recipe.batch), recipe.data_seed)
            loss = self.loss(truth)
            self.optimizer.zero_grad(set_to_none=True)
            loss.backward()
            self.optimizer.step()
            self.step += 1
            yield self.step, loss.item()

    def loss(self, pictures: Pictures | Scenes) -> Tensor:
        """The mean loss of a batch, a scalar."""
        if self.network.config.timestep:
            timesteps = torch.randint(len(noise_schedule(SCHEDULE)), (len(pictures.labels),), generator=self.generator)
            noise = torch.randn(pictures.images.shape, generator=self.generator)
            output = self.network(noisy(pictures.images, noise, timesteps), timesteps)
        else:
            output = self.network(pictures.images)
        if self.network.config.task == "depth":
            return F.l1_loss(output, pictures.depth)
        dense = self.network.config.task == "segmentation"
        return F.cross_entropy(output, pictures.segmentation if dense else pictures.labels)

    def tensors(self) -> dict[str, Tensor]:
        """All of it as named tensors, to be saved and given back to `restore`."""
        saved = {f"network.{name}": tensor.contiguous() for name, tensor in self.network.state_dict().items()}
        for index, state in self.optimizer.state_dict()["state"].items():
            saved |= {f"optimizer.{index}.{key}": tensor.contiguous() for key, tensor in state.items()}
        return saved | {"generator": self.generator.get_state(), "step": torch.tensor(self.step)}

    def restore(self, saved: dict[str, Tensor]) -> None:
        """Continue where `tensors()` was taken; the next steps are the same as if it had never stopped."""
        self.step = int(saved["step"])
        self.generator.set_state(saved["generator"].clone())
        start = len("network.")
        self.network.load_state_dict({k[start:]: t for k, t in saved.items() if k.startswith("network.")})
        moments: dict[int, dict[str, Tensor]] = {}
        for name, tensor in saved.items():
            if name.startswith("optimizer."):
                _, index, key = name.split(".")
                moments.setdefault(int(index), {})[key] = tensor
        self.optimizer.load_state_dict({**self.optimizer.state_dict(), "state": moments})


def drawn(recipe: Recipe, numbers: Tensor, seed: int) -> Pictures | Scenes:
    """The numbered pictures of a recipe's world, with their maps."""
    return render_scenes(numbers, seed) if recipe.world == "scenes" else render(numbers, seed)


def noisy(images: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
    """Pictures [B, 3, H, W] at whole timesteps [B] of the schedule, in VP coordinates."""
    return with_noise(images, noise, NoiseLevel.variance_exploding(noise_schedule(SCHEDULE).sigmas[timesteps]))


def main() -> None:
    options = begin(parser_of(__doc__, RECIPES, ROOT / "assets"))
    for name in options.only:
        train(name, RECIPES[name], options)


def train(name: str, recipe: Recipe, options: argparse.Namespace) -> None:
    """Train a recipe, from where it was stopped, and say what it gets right."""
    training, waiting = Training(recipe), options.work / f"{name}.safetensors"
    if waiting.exists():
        training.restore(load_file(waiting))
        print(f"{name}: continues after step {training.step}")

    def save() -> None:
        atomic_save(waiting, training.tensors(), {})
        network, path = training.network, options.out / f"{name}.safetensors"
        facts = describe(name, training.recipe, network, training.step) | guide_facts(network)
        files.write_network(path, files.GUIDE, network.config.as_dict(), facts, network.state_dict())

    last = min(options.steps or training.recipe.steps, training.recipe.steps)
    follow(name, training.steps(last), last, options.minutes, save)
    file = files.read_guide(options.out / f"{name}.safetensors")
    print(f"{name}: {measured(files.build(file), training.recipe)}", flush=True)


def guide_facts(network: TinyGuide) -> dict[str, Any]:
    """The facts that a guide's asset carries beside those of every asset, and its own labels, by class."""
    task = network.config.task
    labels = {"classification": list(LABELS), "depth": [], "segmentation": ["background", *LABELS]}[task]
    sees, schedule = ("timestep", SCHEDULE) if network.config.timestep else ("clean", None)
    return {"task": task, "labels": labels, "sees": sees, "schedule": schedule}


@torch.no_grad()
def measured(network: TinyGuide, recipe: Recipe) -> str:
    """What a network gets right on fresh pictures of its world, in words."""
    seed = FRESH_SEED + recipe.data_seed
    fresh = drawn(recipe, torch.arange(FRESH), seed)
    if network.config.timestep:
        shares = ", ".join(f"{share:.1%}" for share in accuracy_by_timestep(network, fresh, seed))
        return f"accuracy per hundred timesteps, from clean to noise: {shares}"
    output = torch.cat([network(part) for part in fresh.images.split(250)])
    if network.config.task == "classification":
        return f"{(output.argmax(1) == fresh.labels).float().mean():.2%} of fresh pictures classified correctly"
    if network.config.task == "depth":
        return f"mean absolute error of depth {(output - fresh.depth).abs().mean():.4f}"
    found = output.argmax(1)
    agree = found == fresh.segmentation
    return f"{agree.float().mean():.2%} of pixels right, mean IoU {mean_iou(found, fresh.segmentation):.3f}"


def accuracy_by_timestep(network: TinyGuide, fresh: Pictures | Scenes, seed: int, bins: int = 10) -> list[float]:
    """Share of noisy pictures that are named correctly, for each tenth of the schedule."""
    generator = torch.Generator().manual_seed(seed)
    width = len(noise_schedule(SCHEDULE)) // bins
    shares = []
    for number in range(bins):
        timesteps = torch.randint(number * width, (number + 1) * width, (len(fresh.labels),), generator=generator)
        seen = noisy(fresh.images, torch.randn(fresh.images.shape, generator=generator), timesteps)
        parts = zip(seen.split(250), timesteps.split(250), strict=True)
        scores = torch.cat([network(part, times) for part, times in parts])
        shares.append((scores.argmax(1) == fresh.labels).double().mean().item())
    return shares


def mean_iou(found: Tensor, truth: Tensor) -> float:
    """Intersection over union of the pixels of each class, the mean over the classes. int64 [B, H, W] each."""
    ratios = []
    for label in range(len(LABELS) + 1):
        mine, true = found == label, truth == label
        ratios.append(((mine & true).sum() / (mine | true).sum()).item())
    return sum(ratios) / len(ratios)


if __name__ == "__main__":
    main()
