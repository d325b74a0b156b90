"""Rescale: give the guided estimate the spread of the unguided one (Lin et al. 2023, 2305.08891)."""

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from ..algebra import ratio, std
from ..rule import POSITIVE, Schedule, Step, Transform, expand, param, rule, schedule_field


@rule("rescale")
@dataclass(frozen=True)
class Rescale(Transform):
    """D' = D (1 + phi (std(D_positive) / std(D) - 1))      2305.08891 Eq. 15-16, on the denoised estimate

    The standard deviation is that of each sample over all its dimensions.
    """

    paper = "2305.08891"
    off = {"phi": 0.0}
    uses = frozenset({POSITIVE})

    phi: float = param(
        0.7, "How far the spread is brought back to that of the unguided estimate. 0 = off, 1 = fully.",
        low=0.0, high=1.0,
    )
    schedule: Schedule = schedule_field()

    def transform(self, denoised: Tensor, step: Step, state: Any) -> tuple[Tensor, Any]:
        change = ratio(std(step.branches[POSITIVE]), std(denoised), at_zero=1.0) - 1.0
        factor = 1.0 + expand(step.strength, change) * change
        return denoised * factor.to(denoised.dtype), state

    def explain(self) -> str:
        return f"Rescale: spread of the unguided estimate, phi = {self.phi:g}"
