"""Total variation: large where neighbouring pixels differ, so that a picture becomes smooth."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from ..loss import Loss, loss


@loss("total_variation")
@dataclass(frozen=True)
class TotalVariation(Loss):
    """L = mean |x_{i+1,j} - x_{i,j}| + mean |x_{i,j+1} - x_{i,j}|      1412.0035 Section 3 with beta = 1, per axis

    Wants no target.
    """

    title = "smoothness (total variation)"
    reads = frozenset({"picture"})
    wants_target = False

    def compare(self, output: Tensor, target: None) -> Tensor:
        from kornia.losses import total_variation

        return total_variation(output, reduction="mean").mean(1)
