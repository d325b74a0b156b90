"""Perp-Neg: away from the negative prompt only across the positive one (Armandpour et al. 2023, 2304.04968)."""

from dataclasses import dataclass

from torch import Tensor

from ..algebra import parallel
from ..rule import EMPTY, NEGATIVE, POSITIVE, NoiseLevel, Step, expand, param, rule
from ..shaping import UpdateShape, beyond


@rule("perp_neg")
@dataclass(frozen=True)
class PerpNeg(UpdateShape):
    """D' = D_empty + w (P - neg_scale (N - its part along P))      2304.04968 Eq. 8, for one negative prompt

    P = D_positive - D_empty, N = D_negative - D_empty: a third evaluation, of an empty prompt, where it acts.
    """

    title, paper = "Perp-Neg", "2304.04968"
    uses = frozenset({POSITIVE, NEGATIVE, EMPTY})

    neg_scale: float = param(
        1.0, "How strongly it goes away from what of the negative prompt lies across the positive one. 0 = the rule "
        "is off: plain CFG with the negative prompt.", low=0.0, high=100.0,
    )  # fmt: skip

    def strength(self, level: NoiseLevel) -> Tensor:
        return self.scheduled(self.amount if self.neg_scale else 0.0, self.schedule(level))

    def change(self, step: Step) -> Tensor:
        positive, negative = (step.branches[branch] - step.branches[EMPTY] for branch in (POSITIVE, NEGATIVE))
        across = negative - parallel(negative, positive)
        guided = expand(step.cfg != 1.0, step.x)
        return beyond(step) * negative - guided * (1.0 + beyond(step)) * self.neg_scale * across
