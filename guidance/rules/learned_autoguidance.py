"""A learned weight of autoguidance (Galashov et al. 2025)."""

from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from ..learned import LearnedRule
from ..rule import POSITIVE, GuideTerm, Step, reuse_param, rule


@rule("learned_autoguidance")
@dataclass(frozen=True)
class LearnedAutoguidance(LearnedRule, GuideTerm):
    """D' = D + (w - w0) (D_main - D_guide)      2510.00815 in 2406.02507 Eq. 3; w as in `guidance.learned`

    Beside an autoguidance rule of weight w0 and the same guide the weight is w.
    """

    title = "Learned Weight"
    uses = frozenset({POSITIVE})

    guide: str = field(default="guide")  # the name of the weaker network among the branches
    reuse: int = reuse_param()

    def displacement(self, step: Step, state: Any) -> tuple[Tensor, Any]:
        difference = self.difference(step, state)
        return self.push(step, difference), difference if self.reuse > 1 else None
