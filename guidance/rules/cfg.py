"""Classifier-free guidance (Ho & Salimans 2022, 2207.12598)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from ..branch import NEGATIVE, POSITIVE
from ..noise_level import NoiseLevel, expand
from ..rule import Term, param, rule, schedule_field, scheduled_weight
from ..schedule import Schedule
from ..step import Step


@rule("cfg")
@dataclass(frozen=True)
class CFG(Term):
    """D' = D + (w - 1) (D_positive - D_negative)      2207.12598 Eq. 6, with w = 1 + its w

    Where the sampler evaluates and combines the two branches by itself, this rule sets the weight it uses, so that
    other people's CFG hooks keep working and w = 1 skips the negative branch.
    """

    title = "CFG"
    paper = "2207.12598"
    off = {"weight": 1.0}
    neutral = 1.0
    uses = frozenset({POSITIVE, NEGATIVE})

    weight: float | None = param(
        4.0,
        "Guidance weight. 1 = off: the negative prompt is not evaluated. Higher follows the prompt more.",
        low=0.0,
        high=100.0,
        step=0.1,
    )  # None = the sampler's own cfg
    schedule: Schedule = schedule_field()

    def weights(self, level: NoiseLevel, sampler: float | Tensor) -> Tensor:
        """The weight per sample where the sampler's own cfg is `sampler` (or [B]): float64 [B]."""
        return scheduled_weight(sampler if self.weight is None else self.weight, self.schedule, level)

    def strength(self, level: NoiseLevel) -> Tensor:
        return self.weights(level, 1.0)

    def acts(self, strength: Tensor, cfg: Tensor) -> bool:
        return bool((cfg != 1.0).any())

    def displacement(self, step: Step, state: Any) -> tuple[Tensor, Any]:
        return expand(step.cfg - 1.0, step.x) * (step.branches[POSITIVE] - step.branches[NEGATIVE]), state

    def explain(self) -> str:
        weight = "the sampler's cfg" if self.weight is None else f"{self.weight:g}"
        return f"CFG: D + (w - 1)(D_positive - D_negative), w = {weight}"
