"""Classifier and loss guidance: the gradient of a guide's opinion (Dhariwal & Nichol 2021, 2105.05233)."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..algebra import norm, ratio, shorten
from ..noise_level import SMALLEST_SIGNAL, mean_shift
from ..objective import Objective, gradient, noise_left, step_size
from ..rule import POSITIVE, NoiseLevel, Schedule, Stage, Step, Term, expand, flag, param, rule, schedule_field


@rule("gradient")
@dataclass(frozen=True)
class GradientGuidance(Term):
    """D' = D + s r grad log p      2105.05233 Algorithm 2 in denoised space; a loss L is log p = -L

    Gradient at x: r = b^2/a. Gradient at the denoised estimate, held fixed: r = b^2/(a^2 + b^2), the posterior variance
    for data of unit variance (Song et al., ICLR 2023, PiGDM), which stands in for the denoiser's Jacobian.
    """

    paper, stage = "2105.05233", Stage.GRADIENTS
    off = {"scale": 0.0}
    uses = frozenset({POSITIVE})
    compares = False

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

    @property
    def label(self) -> str:
        return super().label if self.objective is None else self.objective.words

    def strength(self, level: NoiseLevel) -> Tensor:
        # Where no signal is left (a flow's first step) there is nothing to have an opinion about.
        return torch.where(level.a > SMALLEST_SIGNAL, super().strength(level), 0.0)

    def displacement(self, step: Step, state: Any) -> tuple[Tensor, Any]:
        assert self.objective and step.gradient_context, "a gradient needs an objective and a context"
        at = step.x, step.branches[POSITIVE], step.level, step.position
        slope = gradient(self.objective, *at, step.gradient_context, step.watch)
        shift = mean_shift(step.level, step.following) if self.mean_shift else 1.0
        size = 1.0 if self.normalise else step_size(self.objective, step.level)
        direction = ratio(noise_left(step.level, slope), norm(slope)) * slope if self.normalise else slope
        change = expand(step.strength * shift * size, step.x) * direction
        if self.cap:
            change = shorten(change, self.cap * noise_left(step.level, change))
        return change.to(step.x.dtype), state

    def explain(self) -> str:
        words = self.objective.words if self.objective else "nothing yet"
        extras = ", normalised" * self.normalise + ", mean shift" * self.mean_shift
        return f"Gradient: {words}, s = {self.scale:g}{extras}" + (f", cap {self.cap:g}" if self.cap else "")
