"""Mean absolute difference of pictures: outliers count less than in the squared one."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from ..loss import Loss, loss


@loss("l1")
@dataclass(frozen=True)
class MeanAbsolute(Loss):
    """L = mean_i |x_i - t_i|      over pixels and channels; 1511.08861 Section III.A"""

    title = "absolute difference"
    reads = frozenset({"picture"})

    def compare(self, output: Tensor, target: Tensor) -> Tensor:
        return (output - target).abs().flatten(1).mean(1)
