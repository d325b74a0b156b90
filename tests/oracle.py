"""An exact denoiser: a mixture of Gaussians, whose density, score and posterior are known at every noise level.

Everything is float64 and in VE coordinates x = x0 + sigma n. Denoised, score and log density are written from separate
formulas, so that one can be tested against the other.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from guidance_pack.guidance.branch import NEGATIVE, POSITIVE, Branch

GUIDE = Branch(network="guide")


@dataclass(frozen=True)
class Mixture:
    """Round Gaussians, each of a class. means: [K, N]; variances, weights: [K]; classes: int64 [K]."""

    means: Tensor
    variances: Tensor
    weights: Tensor
    classes: Tensor

    def only(self, label: int) -> Mixture:
        """The distribution of one class."""
        mine = self.classes == label
        weights = self.weights[mine] / self.weights[mine].sum()
        return Mixture(self.means[mine], self.variances[mine], weights, self.classes[mine])

    def blurred(self, variance: float) -> Mixture:
        """The same with every Gaussian wider: what a weaker network of this data might have learnt."""
        return Mixture(self.means, self.variances + variance, self.weights, self.classes)

    def log_density(self, x: Tensor, sigma: Tensor) -> Tensor:
        """log p(x; sigma), [B]. x: [B, N]; sigma: [B]."""
        return self._logits(x, sigma).logsumexp(1)

    def log_posterior(self, x: Tensor, sigma: Tensor, label: int) -> Tensor:
        """log p(class | x; sigma), [B]."""
        logits = self._logits(x, sigma)
        return logits[:, self.classes == label].logsumexp(1) - logits.logsumexp(1)

    def score(self, x: Tensor, sigma: Tensor) -> Tensor:
        """The gradient of log p(x; sigma), [B, N], in closed form."""
        share = self._logits(x, sigma).softmax(1)
        pull = (self.means - x[:, None]) / self._spread(sigma)[..., None]
        return (share[..., None] * pull).sum(1)

    def denoised(self, x: Tensor, sigma: Tensor) -> Tensor:
        """E[x0 | x], [B, N], as the mean of each Gaussian's own posterior mean."""
        share = self._logits(x, sigma).softmax(1)
        noise = (sigma**2)[:, None, None]
        own = (self.means * noise + x[:, None] * self.variances[:, None]) / self._spread(sigma)[..., None]
        return (share[..., None] * own).sum(1)

    def covariance(self, x: Tensor, sigma: Tensor) -> Tensor:
        """Cov[x0 | x], [B, N, N]: within each Gaussian's own posterior, and between their means."""
        share = self._logits(x, sigma).softmax(1)
        noise = (sigma**2)[:, None]
        own = (self.means * noise[..., None] + x[:, None] * self.variances[:, None]) / self._spread(sigma)[..., None]
        away = own - (share[..., None] * own).sum(1, keepdim=True)
        within = (share * self.variances * noise / self._spread(sigma)).sum(1)
        between = torch.einsum("bk,bki,bkj->bij", share, away, away)
        return within[:, None, None] * torch.eye(x.shape[1], dtype=x.dtype) + between

    def _spread(self, sigma: Tensor) -> Tensor:
        return self.variances + (sigma**2)[:, None]

    def _logits(self, x: Tensor, sigma: Tensor) -> Tensor:
        spread = self._spread(sigma)
        distance = (x[:, None] - self.means).square().sum(2)
        return self.weights.log() - distance / (2 * spread) - (2 * math.pi * spread).log() * self.means.shape[1] / 2


FIVE = Mixture(
    means=torch.tensor([(1, 0.5), (0.4, -1), (-1, 0.3), (-0.6, -0.8), (0.1, 1.2)], dtype=torch.float64),
    variances=torch.tensor([0.05, 0.1, 0.08, 0.03, 0.06], dtype=torch.float64),
    weights=torch.tensor([0.2, 0.25, 0.15, 0.3, 0.1], dtype=torch.float64),
    classes=torch.tensor([0, 0, 1, 1, 1]),
)


def points(count: int = 64, sigma: float = 0.7, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Noisy points of FIVE to evaluate at: x [count, 2] and sigma [count]."""
    generator = torch.Generator().manual_seed(seed)
    x = 1.5 * torch.randn(count, 2, generator=generator, dtype=torch.float64)
    return x, torch.full((count,), sigma, dtype=torch.float64)


def exact_branches(x: Tensor, sigma: Tensor) -> Callable[[Branch], Tensor]:
    """An `evaluate` over exact networks: class 0 as positive, everything as negative, a blurred class 0 as guide."""
    networks = {POSITIVE: FIVE.only(0), NEGATIVE: FIVE, GUIDE: FIVE.only(0).blurred(0.2)}
    return lambda branch: networks[branch].denoised(x, sigma)
