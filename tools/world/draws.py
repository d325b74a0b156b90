"""Random numbers addressed by (seed, picture, field), so that a picture never depends on the batch it is drawn in.

The mixing function is the 64-bit finaliser of SplitMix64 (Steele, Lea and Flood, "Fast splittable pseudorandom number
generators", 2014), in wrapping int64 arithmetic.
"""

from __future__ import annotations

import torch
from torch import Tensor

_STEP = 0x9E3779B97F4A7C15 - (1 << 64)
_FIRST = 0xBF58476D1CE4E5B9 - (1 << 64)
_SECOND = 0x94D049BB133111EB - (1 << 64)


def _shift(bits: Tensor, places: int) -> Tensor:
    """Logical right shift: torch shifts int64 arithmetically, so the copied sign bits are masked away."""
    return (bits >> places) & ((1 << (64 - places)) - 1)


def _mix(bits: Tensor) -> Tensor:
    bits = (bits ^ _shift(bits, 30)) * _FIRST
    bits = (bits ^ _shift(bits, 27)) * _SECOND
    return bits ^ _shift(bits, 31)


class Draws:
    """Hands out one uniform number per picture for each call, always in the same order of calls.

    Args:
        seed: any int64; another seed is another, independent world.
        indices: int64 [B], the pictures' numbers.
    """

    def __init__(self, seed: int, indices: Tensor) -> None:
        world = _mix(torch.tensor(seed, dtype=torch.int64) * _STEP + _STEP)
        self._state = _mix(world + indices.to(torch.int64) * _STEP)

    def uniform(self, low: float = 0.0, high: float = 1.0) -> Tensor:
        """float32 [B], uniform in [low, high)."""
        self._state = self._state + _STEP
        unit = _shift(_mix(self._state), 40).to(torch.float32) * 2.0**-24
        return low + (high - low) * unit

    def integer(self, count: int) -> Tensor:
        """int64 [B], uniform in 0 .. count-1."""
        return (self.uniform() * count).to(torch.int64).clamp(max=count - 1)
