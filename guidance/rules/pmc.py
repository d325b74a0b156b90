"""PMC-CFG: the largest step whose estimate grows no longer than a limit (Peng & Ma 2026, 2609.24287)."""

from dataclasses import dataclass

from torch import Tensor

from ..algebra import dot, ratio
from ..rule import POSITIVE, Step, param, rule
from ..shaping import UpdateShape, beyond, update


@rule("pmc")
@dataclass(frozen=True)
class PMC(UpdateShape):
    """w' = 1 + min(w - 1, t),  t the largest with |D_positive + t Delta| <= limit |D_positive|      2609.24287"""

    title, paper = "PMC-CFG", "2609.24287"

    limit: float = param(
        1.05, "How long the guided estimate may be, times the positive prompt's own. The paper uses 1.05 to 1.15.",
        low=1.0, high=10.0,
    )  # fmt: skip

    def change(self, step: Step) -> Tensor:
        positive, delta = step.branches[POSITIVE], update(step)
        square, along = dot(delta, delta), dot(positive, delta)
        room = (self.limit**2 - 1.0) * dot(positive, positive)
        # Of the two forms of a quadratic's root, the one that subtracts nothing alike.
        root = (along.square() + square * room).sqrt()
        longest = (along <= 0) * ratio(root - along, square) + (along > 0) * ratio(room, root + along)
        wanted = beyond(step).to(longest.dtype)
        return (wanted.minimum(longest) - wanted) * delta
