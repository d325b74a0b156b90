"""Feedback guidance: the weight of CFG from how well a run already follows its prompt (Koulischer et al. 2025)."""

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from ..feedback import FeedbackRule, Trail
from ..rule import NEGATIVE, POSITIVE, Step, Weigher, rule


@rule("feedback")
@dataclass(frozen=True)
class Feedback(FeedbackRule, Weigher):
    """w = 1 + (w_f - 1) + sum_i (w_i - 1),  w_f = p / (p - (1 - pi))   2506.06085 (its code)

    p as in `guidance.feedback`. Alone it is the weight of CFG in place of the sampler's; with CFG Combine (w_i) beside
    it the paper's hybrid.
    """

    title = "Adaptive Weight"
    uses = frozenset({POSITIVE, NEGATIVE})
    alone = True

    def weigh(self, cfg: Tensor, chosen: Tensor) -> Tensor:
        return cfg + (chosen - 1.0)

    def learn(self, step: Step, state: Trail | None) -> Any:
        return self.trail(step, step.branches[POSITIVE], step.branches[NEGATIVE], state)

    def explain(self) -> str:
        return f"Feedback: CFG with a weight up to {self.max_weight:g}, chosen in the run (not the sampler's cfg)"
