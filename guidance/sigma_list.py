"""SigmaList: the noise levels that a sampler was given, and where among them an evaluation is."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property

ROUNDING = 1e-5  # samplers take their way through float32 logarithms; levels of a list are further apart than this


@dataclass(frozen=True)
class SigmaList:
    """The model's own sigmas in the sampler's order: falling, rising (unsampling), or one after the other.

    Positions count from 1, the first level. An evaluation between two levels belongs to the one that the sampler comes
    from, one beyond the list to the nearest level, and one at levels that follow each other equal to their last.
    """

    values: tuple[float, ...]

    @classmethod
    def of(cls, sigmas: Iterable) -> SigmaList:
        """From what a sampler is given, a tensor [n] or numbers."""
        return cls(tuple(map(float, sigmas)))

    def position(self, sigma: float, here: int = 0) -> int:
        """Where an evaluation at sigma is. here: where the run is, which tells levels apart that come more than once.

        Of several the nearest to `here`; of two as near, the later.
        """
        found = [i for i, (low, high) in enumerate(self._spans, 1) if low < sigma <= high] or self._nearest(sigma)
        return min(found, key=lambda position: (abs(position - here), position < here))

    def is_at(self, sigma: float, position: int) -> bool:
        """Whether an evaluation at sigma is at the level of its position, not on the way to the next."""
        value = self.values[position - 1]
        return abs(sigma - value) <= ROUNDING * abs(value)

    def following(self, position: int) -> float | None:
        """The level after a position; None after the last."""
        return self.values[position] if position < len(self.values) else None

    @property
    def walk(self) -> tuple[int, ...]:
        """The positions of a run that evaluates every level but the last once."""
        found: list[int] = []
        for sigma in self.values[:-1]:
            found.append(self.position(sigma, found[-1] if found else 0))
        return tuple(found)

    @cached_property
    def _spans(self) -> list[tuple[float, float]]:
        """What belongs to each level: itself, up to the next one not included, as (low, high] whatever the rounding."""
        up, down = 1 + ROUNDING, 1 - ROUNDING
        last = self.values[-1]
        inner = [(b * up, a * up) if a >= b else (a * down, b * down)
                 for a, b in zip(self.values, self.values[1:], strict=False)]
        return [*inner, (last * down, last * up)]

    def _nearest(self, sigma: float) -> list[int]:
        distances = [abs(value - sigma) for value in self.values]
        least = min(distances)
        return [i for i, distance in enumerate(distances, 1) if not distance > least]  # for NaN all are as near
