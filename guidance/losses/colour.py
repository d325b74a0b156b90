"""Mean colour: the tint of the whole picture, not what is where."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from ..loss import Loss, loss


@loss("colour")
@dataclass(frozen=True)
class Colour(Loss):
    """L = mean_c (mean_i x_ci - mean_i t_ci)^2      the mean of every channel c over the pixels i; our own"""

    title = "mean colour"
    reads = frozenset({"picture"})

    def compare(self, output: Tensor, target: Tensor) -> Tensor:
        return (output.mean((2, 3)) - target.mean((2, 3))).square().mean(1)
