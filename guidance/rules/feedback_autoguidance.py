"""Feedback over autoguidance: the weight from how far a run already is from a weaker network's mistakes."""

from dataclasses import dataclass, field

from torch import Tensor

from ..feedback import FeedbackRule, Trail
from ..rule import POSITIVE, GuideTerm, Step, expand, reuse_param, rule


@rule("feedback_autoguidance")
@dataclass(frozen=True)
class FeedbackAutoguidance(FeedbackRule, GuideTerm):
    """D' = D + (w_f - 1) (D_main - D_guide)      2506.06085 (its code) in 2406.02507 Eq. 3

    The guide stands where the paper has the unconditional network; w_f as in `guidance.feedback`.
    """

    title = "Adaptive Weight"
    uses = frozenset({POSITIVE})

    guide: str = field(default="guide")  # the name of the weaker network among the branches
    reuse: int = reuse_param()

    def displacement(self, step: Step, state: Trail | None) -> tuple[Tensor, Trail | None]:
        if self.branch in step.branches:
            state = self.trail(step, step.branches[POSITIVE], step.branches[self.branch], state)
        assert state is not None, "asked for the guide where nothing is kept"
        return expand(step.strength - 1.0, step.x) * state.difference, state

    def explain(self) -> str:
        kept = f", the guide at every {self.reuse} levels" if self.reuse > 1 else ""
        return f"Feedback: autoguidance ({self.guide}) with a weight up to {self.max_weight:g}, chosen in the run{kept}"
