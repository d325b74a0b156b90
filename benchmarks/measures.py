"""Measures of picture quality that do not depend on what guides the sampling; more in `guidance.tuning.sets`."""

from __future__ import annotations

from torch import Tensor


def class_accuracy(scores: Tensor, labels: Tensor) -> float:
    """Share of samples that the judge takes for the class they were asked to be.

    Args:
        scores: [N, classes].
        labels: int64 [N].
    """
    return (scores.argmax(1) == labels).double().mean().item()
