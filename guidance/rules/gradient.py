"""Classifier and loss guidance: the gradient of a guide's opinion (Dhariwal & Nichol 2021, 2105.05233)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..algebra import norm, ratio
from ..branch import POSITIVE
from ..noise_level import SMALLEST_SIGNAL, NoiseLevel, expand, mean_shift
from ..objective import Objective, gradient, noise_left, step_size
from ..rule import Stage, Term, flag, param, rule, schedule_field
from ..schedule import Schedule
from ..step import Step


@rule("gradient")
@dataclass(frozen=True)
class GradientGuidance(Term):
    """D' = D + s r grad log p      2105.05233 Algorithm 2 in denoised space; a loss L is log p = -L

    Gradient at x: r = b^2/a. Gradient at the denoised estimate, held fixed: r = b^2/(a^2 + b^2), the posterior variance
    for data of unit variance (Song et al., ICLR 2023, PiGDM), which stands in for the denoiser's Jacobian.
    """

    paper = "2105.05233"
    stage = Stage.GRADIENTS
    off = {"scale": 0.0}
    uses = frozenset({POSITIVE})

    scale: float = param(
        1.0, "Guidance scale. 0 = off: the guide is not evaluated. ADM uses 0.5 to 10; PPAP 7.5.",
        low=-10000.0, high=10000.0, step=0.1,
    )
    cap: float = param(
        0.0, "Longest push, in units of the noise left; 0.5 steadies high scales. 0 = no limit (the papers).",
        low=0.0, high=100.0, advanced=True,
    )
    normalise: bool = flag(
        "Make every push as long as the noise left in the estimate, times scale, whatever the gradient's own length. "
        "Off is the papers' formula."
    )
    mean_shift: bool = flag("Weaken the push by the exact factor of DDPM's mean shift (ancestral samplers).")
    objective: Objective | None = None
    schedule: Schedule = schedule_field()

    def strength(self, level: NoiseLevel) -> Tensor:
        # Where no signal is left (a flow's first step) there is nothing to have an opinion about.
        return torch.where(level.a > SMALLEST_SIGNAL, self.scale * self.schedule(level), 0.0)

    @property
    def label(self) -> str:
        return super().label if self.objective is None else self.objective.words

    def displacement(self, step: Step, state: Any) -> tuple[Tensor, Any]:
        assert self.objective and step.gradient_context, "a gradient needs an objective and a context"
        at = step.x, step.branches[POSITIVE], step.level, step.position
        slope = gradient(self.objective, *at, step.gradient_context, step.watch)
        change = expand(self.factor(step), step.x) * self._direction(slope, step.level)
        if self.cap:
            longest = self.cap * noise_left(step.level, change)
            change = change * ratio(longest, norm(change), at_zero=1.0).clamp(max=1.0)
        return change.to(step.x.dtype), state

    def factor(self, step: Step) -> Tensor:
        """What the gradient is multiplied with, float64 [B]."""
        shift = mean_shift(step.level, step.following) if self.mean_shift else 1.0
        return step.strength * shift * (1.0 if self.normalise else step_size(self.objective, step.level))

    def _direction(self, slope: Tensor, level: NoiseLevel) -> Tensor:
        return ratio(noise_left(level, slope), norm(slope)) * slope if self.normalise else slope

    def explain(self) -> str:
        words = self.objective.words if self.objective else "nothing yet"
        extras = ", normalised" * self.normalise + ", mean shift" * self.mean_shift
        return f"Gradient: {words}, s = {self.scale:g}{extras}" + (f", cap {self.cap:g}" if self.cap else "")
