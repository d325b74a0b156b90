"""How much each noise level counts in the loss on the denoised. Each weighting maps sigma [B] to weights [B]."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

Weighting = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class EDMWeight:
    """lambda(sigma) = (s^2 + sd^2) / (s sd)^2: Karras et al. 2022, Table 1. The network's own output then has the
    same expected loss at every noise level when training starts."""

    sigma_data: float = 0.5

    def __call__(self, sigma: Tensor) -> Tensor:
        return (sigma**2 + self.sigma_data**2) / (sigma * self.sigma_data) ** 2


@dataclass(frozen=True)
class VelocityWeight:
    """1 / t^2, which turns a flow's loss on the denoised D = x - t F into the plain loss on its velocity F."""

    def __call__(self, sigma: Tensor) -> Tensor:
        return 1 / sigma**2


@dataclass(frozen=True)
class UniformWeight:
    """Every noise level's denoised counts alike."""

    def __call__(self, sigma: Tensor) -> Tensor:
        return torch.ones_like(sigma)
