"""Experts: guides that take turns by noise level, chosen per sample (PPAP, 2212.05973, Section 4)."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from .noise_level import NoiseLevel
from .noise_schedule import NoiseSchedule


@dataclass(frozen=True)
class Experts:
    """Who is in charge at a noise level.

    Expert 0 is in charge of the cleanest pictures. Expert i covers edges[i-1] <= sigma < edges[i]: half-open, so that
    every level has one expert; levels beyond the outer experts' training belong to these.

    edges: VE sigmas, rising, one fewer than there are experts.
    handover: width of the zone around an edge, in ln sigma, over which charge passes smoothly; 0 = at once.
    """

    edges: tuple[float, ...] = ()
    handover: float = 0.0

    def __post_init__(self) -> None:
        if list(self.edges) != sorted(set(self.edges)) or not all(edge > 0 for edge in self.edges):
            raise ValueError(f"The edges between experts must rise from clean to noisy, above 0; got {self.edges}.")
        gaps = [b / a for a, b in zip(self.edges, self.edges[1:], strict=False)]
        if not (self.handover >= 0 and all(math.log(gap) >= self.handover for gap in gaps)):
            raise ValueError(
                f"handover is {self.handover:g} in ln sigma; it must be 0 or more, and no wider than the narrowest "
                f"expert's own range."
            )

    @property
    def count(self) -> int:
        return len(self.edges) + 1

    def gate_weights(self, level: NoiseLevel) -> Tensor:
        """How much of each sample's guidance each expert gives: float64 [B, count], rows summing to 1."""
        logs, edges = level.sigma.log(), torch.tensor(self.edges, dtype=torch.float64).log()
        distance = logs[:, None] - edges
        passed = (distance >= 0).to(torch.float64)
        if self.handover:
            passed = (distance / self.handover + 0.5).clamp(0.0, 1.0)
        one = torch.ones(len(logs), 1, dtype=torch.float64)
        return torch.cat([one, passed], 1) - torch.cat([passed, torch.zeros_like(one)], 1)


def equal_ranges(count: int, schedule: NoiseSchedule, handover: float = 0.0) -> Experts:
    """PPAP's partition: expert n of N covers timesteps n T / N up to (n + 1) T / N, the upper end not included.

    Edges lie between two whole timesteps, so that every whole timestep is on its own side whatever the rounding.
    """
    if not 1 <= count <= len(schedule):
        raise ValueError(f"There can be 1 to {len(schedule)} experts; got {count}.")
    edges = tuple(schedule.below(n * len(schedule) // count) for n in range(1, count))
    return Experts(edges, handover)
