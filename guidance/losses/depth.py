"""Depth of any scale: the shape of the scene counts, not the units of the depth network."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from ..loss import Loss, fit, loss

FLAT = 1e-8  # share of a map's mean square below which its variance counts as none


@loss("depth")
@dataclass(frozen=True)
class Depth(Loss):
    """L = 1/2 mean_i (p_i - t_i)^2      both maps aligned to mean 0 and variance 1, after MiDaS, 1907.01341 Section 5

    Equals 1 - correlation, 0 to 2, and goes with the least-squares alignment min_{s,h} mean (s d_i + h - t_i)^2 =
    1 - correlation^2, but an inverted map (s < 0) does not count as agreement. The target is a map [B, 1, h, w] or
    [B, h, w] of any scale, in the guide's own sense: MiDaS and DPT give the inverse of depth, large where it is near.
    """

    title = "depth map"
    reads = frozenset({"depth"})

    def compare(self, output: Tensor, target: Tensor) -> Tensor:
        return (_align(output) - _align(fit(target, output))).square().flatten(1).mean(1) / 2


def _align(depth: Tensor) -> Tensor:
    centred = depth - depth.mean((1, 2, 3), keepdim=True)
    variance = centred.square().mean((1, 2, 3), keepdim=True)
    floor = FLAT * (1 + depth.square().mean((1, 2, 3), keepdim=True))
    return centred / (variance + floor).sqrt()
