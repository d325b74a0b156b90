"""Which noise levels a denoiser is trained on: samplers called with (count, generator) that return sigma [count]."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from guidance_pack.guidance.noise_schedule import NoiseSchedule


class NoiseSampler(Protocol):
    """float32 [count] noise levels, drawn from the generator alone."""

    def __call__(self, count: int, generator: torch.Generator) -> Tensor: ...


@dataclass(frozen=True)
class LogNormal:
    """ln sigma ~ N(mean, std^2): Karras et al. 2022, Table 1 (EDM), with its P_mean and P_std as defaults."""

    mean: float = -1.2
    std: float = 1.2

    def __call__(self, count: int, generator: torch.Generator) -> Tensor:
        return (self.mean + self.std * torch.randn(count, generator=generator)).exp()


@dataclass(frozen=True)
class LogitNormal:
    """logit t ~ N(mean, std^2): Esser et al. 2024 (Stable Diffusion 3), Section 3.1. t lies in (0, 1); 1 is
    pure noise."""

    mean: float = 0.0
    std: float = 1.0

    def __call__(self, count: int, generator: torch.Generator) -> Tensor:
        return (self.mean + self.std * torch.randn(count, generator=generator)).sigmoid()


@dataclass(frozen=True)
class Uniform:
    """sigma uniform in (low, high]: with the defaults, all times of a flow alike."""

    low: float = 0.0
    high: float = 1.0

    def __call__(self, count: int, generator: torch.Generator) -> Tensor:
        return self.high - (self.high - self.low) * torch.rand(count, generator=generator)


@dataclass(frozen=True)
class Timesteps:
    """The VE sigmas of a discrete schedule's timesteps, all alike: how DDPM, ADM and P2 weighting train."""

    schedule: NoiseSchedule

    def __call__(self, count: int, generator: torch.Generator) -> Tensor:
        return self.schedule.sigmas[torch.randint(len(self.schedule), (count,), generator=generator)].float()
