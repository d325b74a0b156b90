"""How much each noise level counts in the loss on the denoised.

Two kinds. A `Weighting` maps a family's own sigma [B] to weights [B]: what the loop takes. A `LevelWeight` maps a
NoiseLevel to weights and so means the same for every family; `OverSigma` makes a Weighting of it.

The plain losses differ by a factor of the noise level alone, whatever the network predicts. With x = a x0 + b n,
SNR = a^2 / b^2 (unit-variance data, as in the papers; no sigma_data), t = b / (a + b) and D the denoised:

    L_x0 = |D - x0|^2     L_eps = SNR L_x0     L_v = (1 + SNR) L_x0     L_flow = L_x0 / t^2

v is the velocity of Salimans and Ho 2022 (2202.00512), flow the velocity n - x0 at the same SNR.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor

from ..networks.tiny.preconditioning import Prediction, check_prediction
from ..noise_level import NoiseLevel

Weighting = Callable[[Tensor], Tensor]
LevelWeight = Callable[[NoiseLevel], Tensor]  # float64 [B], the weight of the loss on the denoised
Target = Literal["x0", "eps", "v", "flow"]
TARGETS: tuple[Target, ...] = get_args(Target)


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


@dataclass(frozen=True)
class Plain:
    """The plain loss on a target, as a weight on the loss on the denoised: 1, SNR, 1 + SNR or 1 / t^2.

    All but x0 grow without bound towards a clean picture, and are infinite at b = 0.

    Raises:
        ValueError: an unknown target.
    """

    target: Target = "x0"

    def __post_init__(self) -> None:
        if self.target not in TARGETS:
            raise ValueError(f"target is {self.target!r}; it can be {', '.join(TARGETS)}.")

    def __call__(self, level: NoiseLevel) -> Tensor:
        a, b = level.a, level.b
        if self.target == "eps":
            return (a / b) ** 2
        if self.target == "v":
            return (a / b) ** 2 + 1.0
        return ((a + b) / b) ** 2 if self.target == "flow" else torch.ones_like(b)


@dataclass(frozen=True)
class P2:
    """Perception prioritized weighting, Choi et al. 2022 (2204.00227): the eps-loss times 1 / (k + SNR)^gamma.

    On the denoised SNR / (k + SNR)^gamma, written so that it is right without signal (0) and without noise (infinite,
    1 or 0 for gamma below, at or above 1). gamma = 0 is the plain eps-loss. The paper trains with
    k = 1 and gamma = 0.5 or 1.

    Raises:
        ValueError: k is not above 0, or gamma is below 0.
    """

    k: float = 1.0
    gamma: float = 1.0

    def __post_init__(self) -> None:
        if not (math.isfinite(self.k) and self.k > 0.0):
            raise ValueError(f"k is {self.k:g}; it must be above 0. The paper: 1.")
        if not (math.isfinite(self.gamma) and self.gamma >= 0.0):
            raise ValueError(f"gamma is {self.gamma:g}; it must be 0 (the plain eps-loss) or more. The paper: 0.5, 1.")

    def __call__(self, level: NoiseLevel) -> Tensor:
        signal = level.alpha_bar
        noise = level.b**2 / (level.a**2 + level.b**2)  # 1 - signal, without its rounding
        return signal * noise ** (self.gamma - 1.0) / (self.k * noise + signal) ** self.gamma


@dataclass(frozen=True)
class MinSNR:
    """Hang et al. 2023 (2303.09556): min(SNR, gamma) on the denoised, so min(SNR, gamma) / SNR on eps.

    Raises:
        ValueError: gamma is not above 0.
    """

    gamma: float = 5.0

    def __post_init__(self) -> None:
        if not (math.isfinite(self.gamma) and self.gamma > 0.0):
            raise ValueError(f"min-SNR's gamma is {self.gamma:g}; it must be above 0. The paper: 5.")

    def __call__(self, level: NoiseLevel) -> Tensor:
        return level.snr.clamp(max=self.gamma)


@dataclass(frozen=True)
class Scaled:
    """Another weight times a constant."""

    weight: LevelWeight
    factor: float

    def __call__(self, level: NoiseLevel) -> Tensor:
        return self.factor * self.weight(level)


@dataclass(frozen=True)
class OverSigma:
    """A LevelWeight as the Weighting that the loop takes: sigma is VE sigma for "edm", the time t for "flow".

    Computed in float64, returned in sigma's dtype and on its device. Raises ValueError for an unknown prediction.
    """

    weight: LevelWeight
    prediction: Prediction = "edm"

    def __post_init__(self) -> None:
        check_prediction(self.prediction)

    def __call__(self, sigma: Tensor) -> Tensor:
        flow = self.prediction == "flow"
        return self.weight(NoiseLevel.flow(sigma) if flow else NoiseLevel.variance_exploding(sigma)).to(sigma)


def on(target: Target, weight: LevelWeight, level: NoiseLevel) -> Tensor:
    """The weight on the loss on `target` that gives the same objective as `weight` on the denoised: float64 [B].

    Needs noise (b above 0) and, for eps, signal (a above 0). Raises ValueError for an unknown target.
    """
    return weight(level) / Plain(target)(level)


def normalise_weight(
    weight: LevelWeight, levels: NoiseLevel, target: Target = "x0", like: LevelWeight | None = None
) -> Scaled:
    """The weight times a constant, so that training with it keeps the learning rate that it would have with `like`.

    Args:
        levels: the noise levels that training meets, each as often as it meets it: a schedule's timesteps, or draws.
        target: on which loss the weights are averaged. An untrained network errs about equally at every noise level
            on v, so there the mean weight is the size of the loss; on x0 or eps few levels may make up the mean.
        like: the weight whose mean it shall have; without one, the mean is 1.

    Raises:
        ValueError: an unknown target, or a mean that is not finite and above 0 over these levels.
    """
    mean = float(on(target, weight, levels).mean())
    wanted = 1.0 if like is None else float(on(target, like, levels).mean())
    if not (math.isfinite(mean) and math.isfinite(wanted) and mean > 0.0):
        raise ValueError(
            f"The mean weight over these {len(levels.a)} noise levels is {mean:g}, which nothing can be divided by. "
            f"Leave out levels without noise, and for eps those without signal."
        )
    return Scaled(weight, wanted / mean)
