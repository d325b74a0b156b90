"""Noise schedules of discrete timesteps: how a noise-aware network counts noise.

Source: guided-diffusion (2105.05233), improved DDPM (2102.09672, cosine), latent diffusion (2112.10752) and rectified
flow (2209.03003). A network's timestep is found by matching the noise, never by copying another model's timestep.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache, cached_property

import torch
from torch import Tensor

STEPS = 1000


@dataclass(frozen=True, eq=False)
class NoiseSchedule:
    """Timesteps 0 (nearly clean) to T - 1 (nearly pure noise) and their VE sigmas.

    sigmas: float64 [T], rising.
    """

    name: str
    sigmas: Tensor

    @cached_property
    def _logs(self) -> Tensor:
        return self.sigmas.log()

    def __len__(self) -> int:
        return len(self.sigmas)

    def timestep(self, sigma: Tensor) -> Tensor:
        """The fractional timestep of VE sigmas, straight in ln sigma, kept inside 0 .. T - 1. float64 [B] -> [B]."""
        logs = sigma.to(torch.float64).log().clamp(self._logs[0], self._logs[-1])
        right = torch.searchsorted(self._logs, logs).clamp(1, len(self) - 1)
        below, above = self._logs[right - 1], self._logs[right]
        return right - 1 + (logs - below) / (above - below)

    def sigma(self, timestep: float) -> float:
        """The VE sigma of a timestep, straight in ln sigma between two. Raises ValueError outside 0 .. T - 1."""
        if not 0 <= timestep <= len(self) - 1:
            raise ValueError(f"timestep is {timestep:g}; the schedule {self.name!r} has 0 to {len(self) - 1}.")
        left = min(int(timestep), len(self) - 2)
        logs, part = self._logs, timestep - left
        return math.exp(float(logs[left] + (logs[left + 1] - logs[left]) * part))

    def below(self, timestep: int) -> float:
        """The VE sigma half-way, in ln sigma, between a timestep and the one below it: an edge that parts the two."""
        return self.sigma(timestep - 0.5)


def noise_schedule(name: str, steps: int = STEPS) -> NoiseSchedule:
    """One of NAMES, in so many timesteps; the same object for the same. Raises ValueError for another name."""
    if name not in NAMES:
        raise ValueError(f"There is no noise schedule {name!r}; there are {', '.join(NAMES)}.")
    return _schedule(name, steps)


@cache
def _schedule(name: str, steps: int) -> NoiseSchedule:
    if name == FLOW:
        return NoiseSchedule(name, _flow(steps))
    kept = torch.cumprod(1 - _BETAS[name](steps), 0)
    return NoiseSchedule(name, ((1 - kept) / kept).sqrt())


def _linear(steps: int) -> Tensor:
    """ADM and P2: betas from 1e-4 to 0.02 in 1000 steps; as much noise in all where there are fewer or more."""
    return torch.linspace(1e-4 * STEPS / steps, min(0.02 * STEPS / steps, 0.999), steps, dtype=torch.float64)


def _cosine(steps: int) -> Tensor:
    """ADM at 64 pixels, GLIDE, DeepFloyd-IF: alpha_bar(u) = cos^2((u + 0.008) / 1.008 pi / 2), betas at most 0.999."""
    u = torch.arange(steps + 1, dtype=torch.float64) / steps
    alpha_bar = ((u + 0.008) / 1.008 * math.pi / 2).cos() ** 2
    return (1 - alpha_bar[1:] / alpha_bar[:-1]).clamp(max=0.999)


def _stable_diffusion(steps: int) -> Tensor:
    """Stable Diffusion 1 to XL: straight in the square root of beta, from 0.00085 to 0.012."""
    return torch.linspace(0.00085**0.5, 0.012**0.5, steps, dtype=torch.float64) ** 2


def _flow(steps: int) -> Tensor:
    """Rectified flow, 2209.03003: (1 - u) x0 + u n, at the middles of equal ranges of u; sigma = u / (1 - u)."""
    u = (torch.arange(steps, dtype=torch.float64) + 0.5) / steps
    return u / (1 - u)


FLOW = "flow"
_BETAS = {"linear": _linear, "cosine": _cosine, "stable diffusion": _stable_diffusion}
NAMES = (*_BETAS, FLOW)
