"""A learned weight of CFG (Galashov et al. 2025)."""

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from ..learned import LearnedRule
from ..rule import NEGATIVE, POSITIVE, Step, Term, rule


@rule("learned_weight")
@dataclass(frozen=True)
class LearnedWeight(LearnedRule, Term):
    """D' = D + (w - w0) (D_positive - D_negative)      2510.00815 (its omega is w - 1); w as in `guidance.learned`

    Beside a CFG rule of weight w0 the weight is w.
    """

    title = "Learned Weight"
    uses = frozenset({POSITIVE, NEGATIVE})

    def displacement(self, step: Step, state: Any) -> tuple[Tensor, Any]:
        return self.push(step, step.branches[POSITIVE] - step.branches[NEGATIVE]), state
