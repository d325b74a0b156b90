"""Structural similarity: local brightness, contrast and structure instead of single pixels."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from ..loss import Loss, loss

WINDOW = 11


@loss("ssim")
@dataclass(frozen=True)
class StructuralSimilarity(Loss):
    """L = mean_i (1 - SSIM_i)      windows of 11 pixels, per channel; 1511.08861 Section III.B

    0 to 2. Pictures must be larger than half a window, 6 pixels or more.
    """

    title = "structural similarity"
    reads = frozenset({"picture"})

    def compare(self, output: Tensor, target: Tensor) -> Tensor:
        from kornia.metrics import ssim

        # SSIM compares brightness, so black is 0.
        return 1 - ssim((output + 1) / 2, (target + 1) / 2, WINDOW, max_val=1.0).flatten(1).mean(1)
