"""NoiseLevel: the one currency for "how noisy", shared by every model family."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

SMALLEST_SIGNAL = 1e-4  # an a up to here counts as none; flows begin at 1 - t = 0, or at 6e-8 by rounding


@dataclass(frozen=True)
class NoiseLevel:
    """The coefficients of `x = a x0 + b n`, one pair per sample.

    VE models (eps, v, EDM in ComfyUI) have a = 1 and b = sigma; flow models a = 1 - t and b = t; the papers' VP
    coordinates a^2 + b^2 = 1. Two levels are the same noise exactly when their `sigma` is equal.

    a, b: float64 tensors [B] on the CPU, so that comparing a level with an edge is exact and needs no device sync.
    """

    a: Tensor  # [B]
    b: Tensor  # [B]

    def __post_init__(self) -> None:
        if self.a.shape != self.b.shape or self.a.ndim != 1:
            raise ValueError(
                f"A noise level holds one (a, b) pair per sample, two tensors of the same shape [B]; "
                f"got a {tuple(self.a.shape)} and b {tuple(self.b.shape)}."
            )

    @classmethod
    def variance_exploding(cls, sigma: Tensor) -> NoiseLevel:
        """x = x0 + sigma n. sigma: [B]."""
        sigma = _coefficients(sigma)
        return cls(torch.ones_like(sigma), sigma)

    @classmethod
    def flow(cls, t: Tensor, noise_scale: float = 1.0) -> NoiseLevel:
        """x = (1 - t) x0 + t noise_scale n. t: [B] in [0, 1]."""
        t = _coefficients(t)
        return cls(1.0 - t, t * noise_scale)

    @classmethod
    def variance_preserving(cls, alpha_bar: Tensor) -> NoiseLevel:
        """x = sqrt(alpha_bar) x0 + sqrt(1 - alpha_bar) n (DDPM, 2006.11239 Eq. 4). alpha_bar: [B] in [0, 1]."""
        alpha_bar = _coefficients(alpha_bar)
        return cls(alpha_bar.sqrt(), (1.0 - alpha_bar).sqrt())

    def __getitem__(self, rows: Tensor) -> NoiseLevel:
        """The levels of some samples. rows: int64 [K], indices into the batch."""
        return NoiseLevel(self.a[rows], self.b[rows])

    @property
    def sigma(self) -> Tensor:
        """Noise to signal, b / a: the VE sigma of this level, [B]; infinite where no signal is left."""
        return self.b / self.a

    @property
    def snr(self) -> Tensor:
        """a^2 / b^2, [B]."""
        return (self.a / self.b) ** 2

    @property
    def alpha_bar(self) -> Tensor:
        """a^2 / (a^2 + b^2), [B]."""
        return self.a**2 / (self.a**2 + self.b**2)


def change_coordinates(x: Tensor, source: NoiseLevel, target: NoiseLevel) -> Tensor:
    """The same noisy picture in another family's coordinates: x a_target / a_source.

    x: [B, ...] at `source`; both levels must be the same noise (equal sigma). Source a must be above 0: at a = 0 there
    is no signal to carry over.
    """
    return x * expand(target.a / source.a, x)


def mean_shift(level: NoiseLevel, following: NoiseLevel | None) -> Tensor:
    """What a guidance scale counts in ADM's mean-shift form, as a share of the score-shift form: float64 [B].

    Samplers that consume D' shift the score. DDPM's mean shift, mu + Sigma s grad (2105.05233 Algorithm 1), is weaker
    by Sigma sqrt(alpha) / beta, here with the posterior variance Sigma that ancestral samplers add:
    (1 - ab') / (1 - ab) sqrt(ab / ab') from alpha_bar ab to the following ab'. 1 where no following level is known.
    """
    if following is None:
        return torch.ones_like(level.b)
    now, then = level.alpha_bar, following.alpha_bar
    return (1 - then) / (1 - now) * (now / then).sqrt()


def expand(values: Tensor, like: Tensor) -> Tensor:
    """[B] -> [B, 1, ...] with the dtype and device of `like` [B, ...], ready to multiply it."""
    # Cast on the CPU first: not every device has float64.
    return values.to(like.dtype).to(like.device).reshape(-1, *[1] * (like.ndim - 1))


def _coefficients(values: Tensor) -> Tensor:
    return values.detach().cpu().to(torch.float64).reshape(-1)
