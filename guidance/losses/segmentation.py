"""Cross-entropy of a segmentation: every pixel is to show the thing that the map asks for."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from ..loss import Loss, fit, loss


@loss("segmentation")
@dataclass(frozen=True)
class Segmentation(Loss):
    """L = - mean_i log softmax(logits_i)_{c_i}      over the pixels i that are asked for; 1411.4038 Section 4

    The target c is a map of class numbers, [B, 1, h, w] or [B, h, w]. Pixels with a negative number are free.
    """

    title = "segmentation map"
    reads = frozenset({"segmentation"})

    def compare(self, output: Tensor, target: Tensor) -> Tensor:
        classes = fit(target, output, "nearest").round().long()
        asked = classes >= 0
        found = output.log_softmax(1).gather(1, classes.clamp(min=0))
        return -(found * asked).flatten(1).sum(1) / asked.flatten(1).sum(1).clamp(min=1)
