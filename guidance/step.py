"""Step: what a rule sees of one evaluation of the denoiser, and who may look on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor

from .asked import Asked
from .branch import Branch
from .noise_level import NoiseLevel
from .objective import GradientContext, ScoreWatch


@dataclass(frozen=True)
class Step:
    """What a rule sees of one evaluation of the denoiser."""

    x: Tensor  # [B, ...] the noisy input
    level: NoiseLevel  # one level per sample
    branches: Mapping[Branch, Tensor]  # the denoised estimates that the rule asked for, [B, ...] each
    cfg: Tensor  # [B] the weight of classifier-free guidance in this call; 1 = none
    position: int = 0  # of the noise level in the sampler's list, 1 = the first
    following: NoiseLevel | None = None  # the level that the sampler goes to next
    gradient_context: GradientContext | None = None  # None where no rule asks for gradients
    watch: StepWatch | None = None  # told what the evaluation is made of; None where nobody looks
    asked: Asked | None = None  # what each sample is asked to be; None where no rule reads it
    strength: Tensor = field(default_factory=lambda: torch.ones(1, dtype=torch.float64))  # [B] of the rule that sees it


class StepWatch(ScoreWatch, Protocol):
    """Told by the law what an evaluation is made of, while a MODEL is inspected."""

    def combined(self, denoised: Tensor, step: Step) -> None:
        """The host's combination [B, ...] of the step's branches, before any rule."""

    def moved(self, name: int, change: Tensor) -> None:
        """What a rule added to the estimate, [B, ...]; its name is its place in the chain."""

    def chose(self, name: int, strength: Tensor) -> None:
        """The strength [B] that an adaptive rule has chosen; its name is its place in the chain."""

    def guided_to(self, denoised: Tensor) -> None:
        """The estimate [B, ...] after all rules."""
