"""What decides the training of a bank of experts, together with the clean network and the pictures."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from ..noise_level import NoiseLevel
from ..noise_schedule import noise_schedule
from ..routing import equal_ranges
from .distillation import Kind
from .lora_targets import Adaptation
from .weighting import P2, LevelWeight, MinSNR, on

Precision = Literal["fp32", "bf16", "fp16"]
Weighting = Literal["uniform", "p2", "min-SNR"]
PRECISIONS: tuple[Precision, ...] = get_args(Precision)
WEIGHTINGS: tuple[Weighting, ...] = get_args(Weighting)


@dataclass(frozen=True)
class ExpertRecipe:
    """What decides a bank's training, together with the clean network and the pictures.

    Attributes:
        experts: how many; each covers an equal range of the schedule's timesteps. 1 = one noise-aware network.
        iterations: of all experts together, shared equally (PPAP: 300,000).
        batch, accumulate: pictures of one forward of one process, and forwards of one step.
        learning_rate: falls straight to 0 over each expert's steps. PPAP: 1e-4.
        learn_from, temperature: see `distillation.distillation_loss`.
        weighting: of the noise levels, relative to all timesteps alike; its mean over an expert's range is 1.
        warm_start: each expert goes on from the one for cleaner pictures, as in PPAP's released code; otherwise every
            one starts from the clean network.
        flip: mirror every second picture, by chance.
        precision: of forward and backward; weights and sums are float32 always.

    Raises:
        ValueError: a number or word that cannot be, in words.
    """

    experts: int = 5
    iterations: int = 5000
    batch: int = 32
    accumulate: int = 1
    learning_rate: float = 1e-4
    weight_decay: float = 0.05
    learn_from: Kind = "task"
    temperature: float = 0.25
    weighting: Weighting = "uniform"
    schedule: str = "linear"
    warm_start: bool = True
    flip: bool = True
    precision: Precision = "fp32"
    seed: int = 0
    adaptation: Adaptation = field(default_factory=Adaptation)

    def __post_init__(self) -> None:
        for word in ("experts", "batch", "accumulate"):
            if getattr(self, word) < 1:
                raise ValueError(f"{word} is {getattr(self, word)}; it must be 1 or more.")
        if self.iterations < self.experts:
            raise ValueError(f"iterations is {self.iterations}; each of the {self.experts} experts needs at least 1.")
        if not self.learning_rate > 0:
            raise ValueError(f"learning_rate is {self.learning_rate:g}; it must be above 0. PPAP: 0.0001.")
        for word, value, kinds in (
            ("weighting", self.weighting, WEIGHTINGS), ("precision", self.precision, PRECISIONS)
        ):
            if value not in kinds:
                raise ValueError(f"{word} is {value!r}; it can be {', '.join(kinds)}.")
        equal_ranges(self.experts, noise_schedule(self.schedule))

    @property
    def steps(self) -> int:
        """Of each expert."""
        return self.iterations // self.experts

    @property
    def edges(self) -> tuple[float, ...]:
        """Between the experts, as SNR, from clean to noisy."""
        return tuple(sigma**-2.0 for sigma in equal_ranges(self.experts, noise_schedule(self.schedule)).edges)

    def timesteps(self, expert: int) -> range:
        """The expert's own, the upper end not included."""
        total = len(noise_schedule(self.schedule))
        return range(expert * total // self.experts, (expert + 1) * total // self.experts)

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def level_weights(name: Weighting, level: NoiseLevel) -> Tensor:
    """How much noise levels count, relative to all alike: the papers' weights of the eps-loss. float64 [T]."""
    weights: dict[Weighting, LevelWeight] = {"p2": P2(), "min-SNR": MinSNR()}
    return torch.ones_like(level.b) if name == "uniform" else on("eps", weights[name], level)
