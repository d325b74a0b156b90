"""Classifier-free guidance (Ho & Salimans 2022, 2207.12598)."""

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from ..rule import NEGATIVE, POSITIVE, Region, Schedule, Step, Term, expand, param, region_field, rule, schedule_field


@rule("cfg")
@dataclass(frozen=True)
class CFG(Term):
    """D' = D + (w - 1) (D_positive - D_negative)      2207.12598 Eq. 6, with w = 1 + its w

    Where the sampler evaluates and combines the two branches by itself, this rule sets the weight it uses, so that
    other people's CFG hooks keep working and w = 1 skips the negative branch.
    """

    title, paper = "CFG", "2207.12598"
    off, neutral = {"weight": 1.0}, 1.0
    uses = frozenset({POSITIVE, NEGATIVE})

    weight: float | None = param(
        4.0, "Guidance weight. 1 = off: the negative prompt is not evaluated. Higher follows the prompt more.",
        low=0.0, high=100.0, step=0.1,
    )  # None = the sampler's own cfg
    schedule: Schedule = schedule_field()
    region: Region | None = region_field()

    def weights(self, share: Tensor, sampler: float | Tensor) -> Tensor:
        """What the schedule lets a share [B] of act where the sampler's own cfg is `sampler` (or [B]): float64 [B]."""
        return self.scheduled(sampler if self.weight is None else self.weight, share)

    def displacement(self, step: Step, state: Any) -> tuple[Tensor, Any]:
        return expand(step.cfg - 1.0, step.x) * (step.branches[POSITIVE] - step.branches[NEGATIVE]), state

    def explain(self) -> str:
        weight = "the sampler's cfg" if self.weight is None else f"{self.weight:g}"
        return f"CFG: D + (w - 1)(D_positive - D_negative), w = {weight}"
