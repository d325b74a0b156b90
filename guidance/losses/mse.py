"""Mean squared difference of pictures."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from ..loss import Loss, loss


@loss("mse")
@dataclass(frozen=True)
class MeanSquared(Loss):
    """L = mean_i (x_i - t_i)^2      over pixels and channels; 2209.14687 Eq. 16 per pixel"""

    title = "squared difference"
    reads = frozenset({"picture"})

    def compare(self, output: Tensor, target: Tensor) -> Tensor:
        return (output - target).square().flatten(1).mean(1)
