"""Cells of the PPAP study: pictures of one guide, sampler, scale and seed, and what the judge says of them."""

from __future__ import annotations

import json
import time
from dataclasses import asdict, dataclass

import torch
import torch.nn.functional as F
from measures import class_accuracy
from ppap_train import CACHE, NULL, Base, base, denoiser, guide_of, recipe_key
from ppap_variants import Variant
from quality import Judge
from safetensors.torch import load_file, save_file
from sampling import ancestral, heun, noise_levels
from torch import Tensor
from world import render
from world.judge import JUDGE

from guidance_pack.guidance.loss import Loss
from guidance_pack.guidance.losses.cross_entropy import CrossEntropy
from guidance_pack.guidance.losses.depth import Depth
from guidance_pack.guidance.losses.segmentation import Segmentation
from guidance_pack.guidance.objective import Objective
from guidance_pack.guidance.rules.gradient import GradientGuidance
from guidance_pack.guidance.tuning.sets import frechet_distance, precision_recall

from steered import Steered  # isort: skip - it needs the pack's name

SAMPLERS = {"ode": 12, "ancestral": 64}  # steps: Heun, 23 evaluations; Euler ancestral, 64
Strength = tuple[float, float]  # scale, cap
CAP = 0.5
SCALES: tuple[Strength, ...] = ((3, 0), (10, 0), (30, 0), (30, CAP))
MAP_SCALES: dict[str, tuple[Strength, ...]] = {
    "depth": ((25, 0), (100, 0), (400, 0), (1600, 0), (400, CAP), (1600, CAP), (6400, CAP)),
    "segmentation": ((2.5, 0), (10, 0), (40, 0), (160, 0), (160, CAP), (640, CAP), (2560, CAP)),
}
TARGET_SEED = 91_004  # of the maps that are asked for; no training uses this world
SAMPLES, BATCH, SHOWN = 240, 80, 20


@dataclass(frozen=True)
class Cell:
    """What was measured.

    Attributes:
        error: of maps, between the target and what the clean network sees in the picture.
        cap: the longest push, in units of the noise left; 0 is none.
    """

    variant: str
    sampler: str
    scale: float
    seed: int
    samples: int
    accuracy: float
    frechet: float
    precision: float
    recall: float
    error: float | None
    seconds: float
    cap: float = 0.0

    @property
    def strength(self) -> Strength:
        return self.scale, self.cap

    def words(self) -> str:
        error = "" if self.error is None else f", error {self.error:.3f}"
        return f"{self.accuracy:.1%} / {self.frechet:.1f} / {self.precision:.2f} / {self.recall:.2f}{error}"


def told(strength: Strength) -> str:
    """A scale and its cap in words."""
    scale, cap = strength
    return f"scale {scale:g}" + (f", cap {cap:g}" if cap else "")


class Bench:
    """The denoiser, the judge and the cells measured before: what all cells share."""

    def __init__(self, samples: int = SAMPLES) -> None:
        self.samples = samples
        self.main, self.judge = denoiser(), Judge(JUDGE, samples)
        self.folder = CACHE / "cells"
        self.folder.mkdir(parents=True, exist_ok=True)

    def cell(self, variant: Variant, sampler: str, strength: Strength, seed: int = 0) -> Cell:
        """Read, or sampled and measured; scale 0 is the denoiser alone."""
        path = self.folder / f"{self._key(variant, sampler, strength, seed)}.json"
        if path.exists():
            return Cell(**json.loads(path.read_text("utf-8")))
        started = time.monotonic()
        network, guide = guide_of(variant)
        task = Wanted.of(guide.first.task, self.samples)
        scale, cap = strength
        rule = GradientGuidance(scale, cap, objective=Objective(task.loss, "noisy input", guide))
        images = self._sample(Steered(self.main, rule, network, task.targets, NULL), sampler, task.asked, seed)
        figures = self._figures(images, task.labels)
        error = map_error(base(variant.base), images, task.targets)
        seconds = round(time.monotonic() - started, 1)
        cell = Cell(variant.name, sampler, scale, seed, len(images), *figures, error, seconds, cap)
        save_file({"shown": images[:SHOWN].contiguous()}, path.with_suffix(".safetensors"))
        path.write_text(json.dumps(asdict(cell)), "utf-8")
        print(f"{variant.name}, {sampler}, {told(strength)}, seed {seed}: {cell.words()}, {seconds:.0f} s", flush=True)
        return cell

    def known(self, variant: Variant) -> list[Cell]:
        """All cells of a guide that were measured before, with its present training."""
        trained = f"{variant.name}-{recipe_key(variant) if variant.recipe else ''}-"
        files = sorted(self.folder.glob(f"{trained}*-{self.samples}.json"))
        return [Cell(**json.loads(path.read_text("utf-8"))) for path in files]

    def shown(self, cell: Cell, variant: Variant) -> Tensor:
        """The first pictures of a cell, [SHOWN, 3, 32, 32]."""
        key = self._key(variant, cell.sampler, cell.strength, cell.seed)
        return load_file(self.folder / f"{key}.safetensors")["shown"]

    def _key(self, variant: Variant, sampler: str, strength: Strength, seed: int) -> str:
        trained = recipe_key(variant) if variant.recipe else ""
        scale, cap = strength
        at = f"{scale:g}" + (f"-cap-{cap:g}" if cap else "")
        return f"{variant.name}-{trained}-{sampler}-{SAMPLERS[sampler]}-{at}-{seed}-{self.samples}"

    @torch.no_grad()
    def _sample(self, guided: Steered, sampler: str, asked: Tensor, seed: int) -> Tensor:
        levels, made = noise_levels("edm", SAMPLERS[sampler]), []
        for number, y in enumerate(asked.split(BATCH)):
            generator = torch.Generator().manual_seed(1000 * seed + number)
            noise = torch.randn(len(y), 3, 32, 32, generator=generator)
            if sampler == "ode":
                made.append(heun(guided, noise, y, levels))
            else:
                made.append(ancestral(guided, noise, y, levels, generator))
        # A diverged sample is no picture: judged as grey, it is wrong, far away, and spoils no mean.
        return torch.nan_to_num(torch.cat(made), 0.0, 0.0, 0.0).clamp(-1, 1)

    def _figures(self, images: Tensor, labels: Tensor) -> list[float]:
        """Accuracy, Frechet distance, precision and recall."""
        features, scores = self.judged(images)
        near = precision_recall(self.judge.features, features)
        distance = frechet_distance(self.judge.features, features)
        return [round(v, 4) for v in (class_accuracy(scores, labels), distance, near.precision, near.recall)]

    @torch.no_grad()
    def judged(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """The judge's features and scores."""
        network = self.judge.network
        features = torch.cat([network.features(part) for part in images.split(BATCH)])
        return features, network.to_scores(F.silu(features))


@dataclass(frozen=True)
class Wanted:
    """What is asked of the pictures.

    Attributes:
        loss, targets: of the guidance; [K, ...].
        asked: which target each sample is to become like, int64 [samples].
        labels: the class that the judge is to see, int64 [samples].
    """

    loss: Loss
    targets: Tensor
    asked: Tensor
    labels: Tensor

    @classmethod
    def of(cls, task: str, samples: int) -> Wanted:
        numbers = torch.arange(samples)
        if task == "classification":
            return cls(CrossEntropy(), torch.eye(NULL), numbers % NULL, numbers % NULL)
        world = render(samples, TARGET_SEED)
        if task == "depth":
            return cls(Depth(), world.depth, numbers, world.labels)
        return cls(Segmentation(), world.segmentation[:, None].float(), numbers, world.labels)


@torch.no_grad()
def map_error(clean: Base, images: Tensor, targets: Tensor) -> float | None:
    """Between the targets and what the clean network sees: of depth 1 - correlation, of segmentation the share of
    pixels that are not as asked; the mean over the pictures. None for a classifier."""
    if clean.spec.task == "classification":
        return None
    found = torch.cat([clean.network(clean.spec.prepare(part), None) for part in images.split(BATCH)])
    if clean.spec.task == "depth":
        return round(Depth()(found, targets).mean().item(), 4)
    return round((found.argmax(1) != targets[:, 0]).double().mean().item(), 4)
