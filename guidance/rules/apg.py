"""Adaptive projected guidance (Sadat et al. 2024, 2410.02416)."""

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from ..algebra import parallel, shorten
from ..rule import NEGATIVE, POSITIVE, Schedule, Step, Term, expand, param, rule, schedule_field


@rule("apg")
@dataclass(frozen=True)
class APG(Term):
    """D' = D + (w - 1) (Delta' - Delta),  Delta = D_positive - D_negative      2410.02416 Algorithm 1

    Delta' is Delta with momentum, shortened to a largest norm, its part along D_positive weakened; w is the weight of
    CFG in effect. So CFG with this rule gives D_positive + (w - 1) Delta'. Without CFG (w = 1) it does nothing.
    """

    title, paper = "APG", "2410.02416"
    off = {"eta": 1.0, "norm_threshold": 0.0, "momentum": 0.0}
    uses = frozenset({POSITIVE, NEGATIVE})
    with_cfg = True

    eta: float = param(
        0.0, "How much of the update's part along the prediction stays. 0 removes what burns colours; 1 = all of it.",
        low=-10.0, high=10.0,
    )
    norm_threshold: float = param(
        5.0, "Longest update, in norm over the whole sample. 0 = no limit.", low=0.0, high=10000.0, step=0.1
    )
    momentum: float = param(
        -0.5, "Share of the earlier updates added to this one; negative pushes away from them. 0 = off.",
        low=-1.0, high=0.99,
    )
    schedule: Schedule = schedule_field()

    def displacement(self, step: Step, state: Any) -> tuple[Tensor, Any]:
        positive = step.branches[POSITIVE]
        delta = positive - step.branches[NEGATIVE]
        average = delta if state is None else delta + self.momentum * state
        update = shorten(average, self.norm_threshold) if self.norm_threshold else average
        update = update - (1.0 - self.eta) * parallel(update, positive)
        return expand((step.cfg - 1.0) * step.strength, step.x) * (update - delta), average
