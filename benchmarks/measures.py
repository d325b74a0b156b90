"""Measures of picture quality that do not depend on what guides the sampling. Plain torch, no files, no networks."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class PrecisionRecall:
    """precision: share of samples among the real pictures; recall: share of real pictures among the samples."""

    precision: float
    recall: float


def class_accuracy(scores: Tensor, labels: Tensor) -> float:
    """Share of samples that the judge takes for the class they were asked to be.

    Args:
        scores: [N, classes].
        labels: int64 [N].
    """
    return (scores.argmax(1) == labels).double().mean().item()


def frechet_distance(real: Tensor, samples: Tensor) -> float:
    """Squared Frechet distance of the two Gaussians with the features' means and covariances.

    |m_r - m_s|^2 + tr(C_r + C_s - 2 (C_r C_s)^(1/2)): Heusel et al. 2017, Eq. 6. The trace of the root is taken as the
    sum of the roots of the eigenvalues of C_r^(1/2) C_s C_r^(1/2), which is symmetric.

    Args:
        real, samples: [N, F] and [M, F] with N, M > F, or the covariances are singular and the result is biased.
    """
    real, samples = real.double(), samples.double()
    gap = (real.mean(0) - samples.mean(0)).square().sum()
    cov_real, cov_samples = real.T.cov(), samples.T.cov()
    values, vectors = torch.linalg.eigh(cov_real)
    root = vectors * values.clamp(min=0).sqrt() @ vectors.T
    shared = torch.linalg.eigvalsh(root @ cov_samples @ root).clamp(min=0).sqrt().sum()
    return (gap + cov_real.trace() + cov_samples.trace() - 2 * shared).item()


def precision_recall(real: Tensor, samples: Tensor, neighbours: int = 3) -> PrecisionRecall:
    """Precision and recall by k nearest neighbours: Kynkaanniemi et al. 2019, Eqs. 1-3, with its k = 3.

    A set's manifold is the union of balls around its points, each reaching to the point's k-th nearest neighbour.

    Args:
        real, samples: [N, F] and [M, F], N and M above `neighbours`.
    """
    real, samples = real.double(), samples.double()
    between = torch.cdist(samples, real)
    precision = (between <= _reach(real, neighbours)).any(1).double().mean().item()
    recall = (between.T <= _reach(samples, neighbours)).any(1).double().mean().item()
    return PrecisionRecall(precision, recall)


def _reach(points: Tensor, neighbours: int) -> Tensor:
    """Distance [N] of each point to its k-th nearest neighbour, itself not counted."""
    return torch.cdist(points, points).kthvalue(neighbours + 1, dim=1).values
