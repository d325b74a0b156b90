"""The data of the 2-D toy experiment: two trees of Gaussians with exact density and score at every noise level.

Source: Karras et al. 2024 (autoguidance, 2406.02507), Section 3 and Appendix C. A class is a tree of depth 7; each of
its 127 branches is a row of 8 thin Gaussians whose weight halves with every fork. Both trees grow from one stream of
seeded random numbers, so "A" is the same alone and beside "B".
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

DEPTHS = 7
PER_BRANCH = 8
ORIGIN = np.array([0.0030, 0.0325])
SCALE = np.array([1.3136, 1.3844])
ROOT_ANGLES = {"A": math.pi / 4, "B": 5 * math.pi / 4}
PIECE = 128  # samples at a time, so that the tables of all components stay in the processor's cache


@dataclass(frozen=True)
class Mixture:
    """Gaussians by their means and the axes of their covariances, which smoothing by sigma leaves alone.

    Attributes:
        means: [K, 2]. axes: [K, 2, 2], the unit vectors in columns. variances: [K, 2] along them.
        weights: [K], summing to 1. depths: int64 [K], 0 at the root of the tree.
    """

    means: Tensor
    axes: Tensor
    variances: Tensor
    weights: Tensor
    depths: Tensor

    def sample(self, count: int, generator: torch.Generator) -> Tensor:
        """Points of the data itself, [count, 2]."""
        chosen = torch.multinomial(self.weights, count, replacement=True, generator=generator)
        noise = torch.randn(count, 2, 1, generator=generator, dtype=self.means.dtype)
        return self.means[chosen] + (self.axes[chosen] @ (self.variances[chosen, :, None].sqrt() * noise))[..., 0]

    def log_density(self, x: Tensor, sigma: Tensor) -> Tensor:
        """log p(x; sigma) of the data with noise, [B]. x: [B, 2]; sigma: [B]."""
        return torch.cat([self._logits(*piece)[0].logsumexp(1) for piece in _pieces(x, sigma)])

    def score(self, x: Tensor, sigma: Tensor) -> Tensor:
        """The gradient of the log density, [B, 2]. x: [B, 2]; sigma: [B]."""
        parts = []
        for piece in _pieces(x, sigma):
            logits, first, second = self._logits(*piece)
            share = logits.softmax(1)
            parts.append(-(first.mul_(share) @ self.axes[:, :, 0]) - second.mul_(share) @ self.axes[:, :, 1])
        return torch.cat(parts)

    def depth(self, x: Tensor) -> Tensor:
        """How deep in the tree the component lies that most likely made each point, int64 [B]."""
        pieces = _pieces(x, torch.zeros_like(x[:, 0]))
        return torch.cat([self.depths[self._logits(*piece)[0].argmax(1)] for piece in pieces])

    def _logits(self, x: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """log(weight x Gaussian) [B, K], and the distances along both axes over their variances, [B, K] each."""
        noise = sigma[:, None] ** 2
        ahead, across = (torch.addmm((self.means * a).sum(1), x, a.T, beta=-1) for a in self.axes.unbind(2))
        wide, thin = self.variances[:, 0] + noise, self.variances[:, 1] + noise
        first, second = ahead / wide, across / thin
        # In place from here on: this is nearly all of the training's work, and new tables cost more than sums.
        logits = ahead.mul_(first).add_(across.mul_(second)).add_(wide.mul_(thin).log_()).mul_(-0.5)
        return logits.add_(self.weights.log() - math.log(2 * math.pi)), first, second


def world(classes: str, dtype: torch.dtype = torch.float32) -> Mixture:
    """The mixture of the classes "A", "B" or "AB". Over both, the mean is 0 and the standard deviation 1/2."""
    random = np.random.RandomState(2)
    rows = [(label, row) for label, angle in ROOT_ANGLES.items() for row in _grow(random, 0, ORIGIN, angle)]
    means, covariances, weights, depths = zip(*(row for label, row in rows if label in classes), strict=True)
    variances, axes = np.linalg.eigh(np.stack(covariances))
    share = np.array(weights) / np.sum(weights)
    tensors = (torch.as_tensor(part).to(dtype) for part in (np.stack(means), axes, variances, share))
    return Mixture(*tensors, torch.tensor(depths))


def _grow(random: np.random.RandomState, depth: int, start: np.ndarray, angle: float) -> Iterator[tuple]:
    """The Gaussians (mean, covariance, weight, depth) of a branch and of all that grows on it."""
    if depth == DEPTHS:
        return
    length = 0.292 * 0.8**depth * (1 + 0.2 * random.randn())
    thickness = 0.2 * 0.8**depth / length
    ahead = np.array([math.cos(angle), math.sin(angle)])
    along = np.outer(ahead, ahead)
    size = SCALE * length * 0.06
    covariance = (along + (np.eye(2) - along) * thickness**2) * np.outer(size, size)
    for share in np.linspace(0.07, 0.93, PER_BRANCH):
        yield (start + ahead * length * share) * SCALE, covariance, length * 0.5**depth, depth
    for side in (1, -1):
        turn = side * 0.7**depth * (1 + 0.2 * random.randn())
        yield from _grow(random, depth + 1, start + ahead * length, angle + turn)


def _pieces(x: Tensor, sigma: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    return zip(x.split(PIECE), sigma.split(PIECE), strict=True)
