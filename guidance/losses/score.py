"""A guide's own score of the picture: how beautiful it finds it, for instance."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from ..loss import Loss, loss


@loss("score")
@dataclass(frozen=True)
class GuideScore(Loss):
    """L = - s      minus the number that the guide gives, 2210.08402 Section 3.3 (aesthetic scores); our own as a loss

    Wants no target. There is no best picture: a larger score is always better.
    """

    title = "score of the picture"
    reads = frozenset({"score"})
    wants_target = False

    def compare(self, output: Tensor, target: None) -> Tensor:
        return -output.flatten(1).mean(1)
