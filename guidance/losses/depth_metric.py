"""Depth in the guide's own units."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from ..loss import Loss, fit, loss


@loss("depth_metric")
@dataclass(frozen=True)
class DepthMetric(Loss):
    """L = mean_i |d_i - t_i|      1812.11941 Eq. 2

    The target is a map [B, 1, h, w] or [B, h, w] in the units of the guide's output.
    """

    title = "depth map in the guide's own units"
    reads = frozenset({"depth"})

    def compare(self, output: Tensor, target: Tensor) -> Tensor:
        return (output - fit(target, output)).abs().flatten(1).mean(1)
