"""How a set of pictures lies beside others, in the features of a network: Frechet distance, precision and recall.

They are measures of a whole set. `parts` gives each picture a share of one, by leaving it out (the jackknife:
Quenouille 1956, Tukey 1958), so that what asks for the mean and the spread over pictures can ask it of them too.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor

Measure = Literal["frechet", "recall", "precision"]
MEASURES: tuple[Measure, ...] = get_args(Measure)
MOST_FEATURES = 64  # kept of a picture, of its network's
MOST_TOGETHER = 16  # of these in one covariance
EACH = 4  # pictures of a set for each number in one covariance
NEIGHBOURS = 3  # 1904.06991
LEAST_REAL, LEAST_MADE = 32, 16  # pictures; of fewer no measure says anything


@dataclass(frozen=True)
class PrecisionRecall:
    """precision: share of samples among the real pictures; recall: share of real pictures among the samples."""

    precision: float
    recall: float


@dataclass(frozen=True)
class Gaussian:
    """Means [..., K] and covariances [..., K, K] of sets of features."""

    mean: Tensor
    covariance: Tensor

    @classmethod
    def of(cls, points: Tensor) -> Gaussian:
        """Of points [N, K], or of several sets of as many [..., N, K]."""
        mean = points.mean(-2)
        apart = points - mean[..., None, :]
        return cls(mean, apart.mT @ apart / (points.shape[-2] - 1))

    @classmethod
    def without_each(cls, points: Tensor) -> Gaussian:
        """Of points [..., N, K] without the first, without the second, ...: [N, ..., K] and [N, ..., K, K]."""
        count, whole = points.shape[-2], cls.of(points)
        apart = (points - whole.mean[..., None, :]).movedim(-2, 0)
        outer = apart[..., :, None] * apart[..., None, :]
        covariance = ((count - 1) * whole.covariance - count / (count - 1) * outer) / (count - 2)
        return cls(whole.mean - apart / (count - 1), covariance)

    def distance(self, other: Gaussian) -> Tensor:
        """Squared Frechet distance [...] to others: Heusel et al. 2017, Eq. 6.

        |m - m'|^2 + tr(C + C' - 2 (C C')^(1/2)). The trace of the root is taken as the sum of the roots of the
        eigenvalues of C^(1/2) C' C^(1/2), which is symmetric.
        """
        values, vectors = torch.linalg.eigh(self.covariance)
        root = vectors * values.clamp(min=0).sqrt()[..., None, :] @ vectors.mT
        shared = torch.linalg.eigvalsh(root @ other.covariance @ root).clamp(min=0).sqrt().sum(-1)
        own, theirs = (c.diagonal(dim1=-2, dim2=-1).sum(-1) for c in (self.covariance, other.covariance))
        return (self.mean - other.mean).square().sum(-1) + own + theirs - 2 * shared


def frechet_distance(real: Tensor, samples: Tensor) -> float:
    """Squared Frechet distance of the two Gaussians with the features' means and covariances.

    Args:
        real, samples: [N, F] and [M, F] with N, M > F, or the covariances are singular and the result is biased.
    """
    return Gaussian.of(real.double()).distance(Gaussian.of(samples.double())).item()


def precision_recall(real: Tensor, samples: Tensor, neighbours: int = NEIGHBOURS) -> PrecisionRecall:
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


@dataclass(frozen=True, eq=False)
class RealPictures:
    """What pictures are compared with, float64 on the CPU.

    Attributes:
        turn: random directions [F, D], at right angles; the same for all that have F features.
        mean: [F] of the real pictures. scale: the root of their total variance, which becomes 1.
        features: theirs as `seen` gives them, [N, D].
    """

    turn: Tensor
    mean: Tensor
    scale: float
    features: Tensor

    @classmethod
    def of(cls, features: Tensor) -> RealPictures:
        """Of a network's features of the real pictures, [N, F]. Raises ValueError if they are all the same."""
        features = features.double()
        mean, wide = features.mean(0), features.shape[1]
        drawn = torch.randn(wide, min(wide, MOST_FEATURES), generator=torch.Generator().manual_seed(0))
        turn = torch.linalg.qr(drawn.double()).Q
        found = (features - mean) @ turn
        scale = float(found.var(0).sum().sqrt())
        if not 0.0 < scale < float("inf"):
            raise ValueError("to this network all of these pictures look the same")
        return cls(turn, mean, scale, found / scale)

    def seen(self, features: Tensor) -> Tensor:
        """A network's features of pictures [B, F] -> float16 [B, D]: turned, and in the real pictures' own spread."""
        return (((features.double() - self.mean) @ self.turn) / self.scale).half()


def together(pictures: int, features: int) -> int:
    """How many of the features go into one covariance, where the smaller set has so many pictures."""
    return max(1, min(MOST_TOGETHER, features, pictures // EACH))


def fewest(block: int) -> int:
    """The pictures of which something can be said, with so many numbers in one covariance."""
    return max(2 * block, 2 * (NEIGHBOURS + 1))


def parts(measure: Measure, real: RealPictures, made: Tensor, block: int) -> list[float]:
    """For each picture a number, more is better; their mean is the measure of the set, their spread its own.

    frechet: minus the distance, summed over groups of `block` features: never above the whole distance, and equal to it
    where the groups know nothing of each other. What few pictures add to it (in 1 / N) is taken off: 2002.07650 and
    1911.07023 have the reasons. recall: a share of the real pictures, uncorrected. precision: 1 or 0.

    Args:
        made: what `RealPictures.seen` gave, [N, D], N from `fewest` on.
    """
    made = made.double()
    count = len(made)
    if measure == "precision":
        inside = torch.cdist(made, real.features) <= _reach(real.features, NEIGHBOURS)
        return inside.any(1).double().tolist()
    if measure == "recall":
        whole, without = _recall(real.features, made)
        return (whole + (count - 1) * (without.mean() - without)).tolist()
    theirs = Gaussian.of(_groups(real.features, block))
    points = _groups(made, block)
    whole = theirs.distance(Gaussian.of(points)).sum()
    without = theirs.distance(Gaussian.without_each(points)).sum(-1)
    return ((count - 1) * without - count * whole).tolist()


def measures_in(chosen: str) -> Sequence[Measure]:
    """The measures in a text such as "frechet and recall"; none in another."""
    return [measure for measure in MEASURES if measure in chosen.split()]


def _groups(features: Tensor, block: int) -> Tensor:
    """[N, D] -> [D / block, N, block], without what is left over."""
    count = features.shape[1] // block
    return features[:, : count * block].unflatten(1, (count, block)).movedim(1, 0)


def _recall(real: Tensor, made: Tensor) -> tuple[Tensor, Tensor]:
    """The share of real pictures among the made ones; and without each of those, [N]."""
    between, apart = torch.cdist(made, real), torch.cdist(made, made)
    near = apart.topk(NEIGHBOURS + 2, dim=1, largest=False)
    reach, wider = near.values[:, NEIGHBOURS], near.values[:, NEIGHBOURS + 1]
    without = []
    for one in range(len(made)):
        known = (near.indices[:, : NEIGHBOURS + 1] == one).any(1)  # where it was a neighbour, the next one is
        inside = between <= torch.where(known, wider, reach)[:, None]
        inside[one] = False
        without.append(inside.any(0).double().mean())
    return (between <= reach[:, None]).any(0).double().mean(), torch.stack(without)


def _reach(points: Tensor, neighbours: int) -> Tensor:
    """Distance [N] of each point to its k-th nearest neighbour, itself not counted."""
    return torch.cdist(points, points).kthvalue(neighbours + 1, dim=1).values
