"""Cross-entropy of classes: the log-probability that classifier guidance climbs."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from ..loss import Loss, loss


@loss("cross_entropy")
@dataclass(frozen=True)
class CrossEntropy(Loss):
    """L = - sum_c q_c log softmax(logits)_c      with one class wanted: - log p(y | x), 2105.05233 Algorithm 1

    The target q is [B, K]: the weight of each class, 1 for the one that is wanted. Not divided by anything, so that its
    gradient is that of the log-probability itself.
    """

    title = "class"
    reads = frozenset({"classification"})

    def compare(self, output: Tensor, target: Tensor) -> Tensor:
        return -(target * output.log_softmax(1)).sum(1)
