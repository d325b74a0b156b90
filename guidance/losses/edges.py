"""Edges: the picture is to have its outlines where the target has them, whatever its colours."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from ..loss import Loss, loss


@loss("edges")
@dataclass(frozen=True)
class Edges(Loss):
    """L = mean_i | |grad x|_i - |grad t|_i |      Sobel gradients of the brightness; kornia.filters.sobel"""

    title = "edges"
    reads = frozenset({"picture"})

    def compare(self, output: Tensor, target: Tensor) -> Tensor:
        from kornia.filters import sobel

        brightness = (picture.mean(1, keepdim=True) for picture in (output, target))
        found, wanted = map(sobel, brightness)
        return (found - wanted).abs().flatten(1).mean(1)
