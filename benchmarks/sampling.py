"""A pure-torch sampler of the embedded networks with guidance, for benchmarks that must not depend on the host."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from guidance_pack.guidance.branch import MAIN, Branch
from guidance_pack.guidance.compose import Guidance
from guidance_pack.guidance.noise_level import NoiseLevel
from guidance_pack.guidance.rules.autoguidance import Autoguidance
from guidance_pack.guidance.rules.cfg import CFG
from guidance_pack.guidance.schedule import Interval

Denoiser = Callable[[Tensor, Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Setting:
    """One way to guide. Weight 1 is off.

    Attributes:
        name: what the table calls it.
        cfg: weight of classifier-free guidance.
        autoguidance: weight of autoguidance.
        interval: sigma_ve in (low, high] where CFG acts (Kynkaanniemi et al. 2024); sigma_ve is t / (1 - t) for a flow.
    """

    name: str
    cfg: float = 1.0
    autoguidance: float = 1.0
    interval: tuple[float, float] = (0.0, math.inf)


class Guided:
    """The denoiser that a setting makes of a main and a weak one; `evaluations` counts the networks' runs per sample.

    The pack's own rules decide what is evaluated and how it is combined.

    Args:
        main, weak: functions of (x, sigma, y).
        prediction: "edm" or "flow", what sigma means.
        null: the index of the null class.
    """

    def __init__(self, main: Denoiser, weak: Denoiser, setting: Setting, prediction: str, null: int) -> None:
        self.networks = {MAIN: main, "guide": weak}
        self.prediction, self.null = prediction, null
        low, high = setting.interval
        cfg = CFG(setting.cfg, Interval(high, low, "sigma_ve"))
        self.guidance = Guidance((cfg, Autoguidance(setting.autoguidance)))
        self.evaluations = 0

    def __call__(self, x: Tensor, sigma: float, y: Tensor) -> Tensor:
        s = torch.full((len(x),), sigma)
        level = NoiseLevel.variance_exploding(s) if self.prediction == "edm" else NoiseLevel.flow(s)

        def evaluate(branch: Branch) -> Tensor:
            self.evaluations += 1
            labels = torch.full_like(y, self.null) if branch.condition == "negative" else y
            return self.networks[branch.network](x, s, labels)

        return self.guidance.denoise(evaluate, x, level)


def noise_levels(prediction: str, steps: int, rho: float = 7.0) -> list[float]:
    """`steps` levels falling from pure noise, and a final 0: Karras et al. 2022, Eq. 5 for "edm"; even for "flow"."""
    if prediction == "flow":
        return [1 - i / steps for i in range(steps)] + [0.0]
    low, high = 0.002 ** (1 / rho), 80.0 ** (1 / rho)
    return [(high + i / (steps - 1) * (low - high)) ** rho for i in range(steps)] + [0.0]


@torch.no_grad()
def heun(denoise: Callable[[Tensor, float, Tensor], Tensor], noise: Tensor, y: Tensor, levels: list[float]) -> Tensor:
    """Heun's second-order method on dx/dsigma = (x - D) / sigma, which holds for "edm" and, with t for sigma, "flow".

    Karras et al. 2022, Algorithm 1, without the correction where the next level is 0.

    Args:
        noise: standard normal [B, C, H, W].
    """
    x = noise * levels[0]
    for sigma, following in zip(levels[:-1], levels[1:], strict=True):
        slope = (x - denoise(x, sigma, y)) / sigma
        ahead = x + (following - sigma) * slope
        if following > 0:
            slope = (slope + (ahead - denoise(ahead, following, y)) / following) / 2
            ahead = x + (following - sigma) * slope
        x = ahead
    return x


@torch.no_grad()
def ancestral(
    denoise: Callable[[Tensor, float, Tensor], Tensor], noise: Tensor, y: Tensor, levels: list[float],
    generator: torch.Generator,
) -> Tensor:
    """DDPM's sampling on EDM levels: from each level a draw of the posterior of the next, given the denoised estimate.

    q(x' | x, D) = N(D + (s'/s)^2 (x - D), s'^2 (1 - (s'/s)^2)): Ho et al. 2020, Equation 7, for x = x0 + s n;
    k-diffusion calls it Euler ancestral at eta 1.

    Args:
        noise: standard normal [B, C, H, W].
        generator: draws the noise of every step.
    """
    x = noise * levels[0]
    for sigma, following in zip(levels[:-1], levels[1:], strict=True):
        denoised = denoise(x, sigma, y)
        kept = (following / sigma) ** 2
        fresh = torch.randn(x.shape, generator=generator)
        x = denoised + kept * (x - denoised) + following * (1 - kept) ** 0.5 * fresh
    return x
