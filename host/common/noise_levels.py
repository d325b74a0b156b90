"""Noise levels at the border: ComfyUI's sigmas, percents and prediction families <-> NoiseLevel.

Source: comfy/model_sampling.py. Flow models (CONST) have x = (1 - sigma) x0 + sigma noise_scale n; every other family
has x = x0 + sigma n. Percent is a position in the model's own training timesteps, 0 = pure noise.
"""

from __future__ import annotations

import math

import comfy.model_sampling as families
import torch

from ...guidance.noise_level import SMALLEST_SIGNAL, NoiseLevel, change_coordinates
from ...guidance.schedule import Unit

# x is not "picture + sigma noise" for these, so that no other family can be evaluated on the same x.
PICTURE_TO_PICTURE = (families.IMG_TO_IMG, families.IMG_TO_IMG_FLOW)
UNCONVERTIBLE = (*PICTURE_TO_PICTURE, families.V_PREDICTION_DDPM)


def level_of(model_sampling, sigma: torch.Tensor) -> NoiseLevel:
    """The noise level of a model's own sigmas [B]."""
    if isinstance(model_sampling, families.CONST):
        return NoiseLevel.flow(sigma, getattr(model_sampling, "noise_scale", 1.0))
    return NoiseLevel.variance_exploding(sigma)


def sigma_of(model_sampling, level: NoiseLevel) -> torch.Tensor:
    """The model's own sigma [B] at a noise level, float64."""
    if isinstance(model_sampling, families.CONST):
        return level.sigma / (getattr(model_sampling, "noise_scale", 1.0) + level.sigma)
    return level.sigma


def same_coordinates(first, second) -> bool:
    """Whether two models mean the same noisy input by the same x and sigma."""
    flows = [isinstance(ms, families.CONST) for ms in (first, second)]
    scales = [getattr(ms, "noise_scale", 1.0) for ms in (first, second)]
    odd = [next((f for f in UNCONVERTIBLE if isinstance(ms, f)), None) for ms in (first, second)]
    return flows[0] == flows[1] and odd[0] is odd[1] and (not flows[0] or scales[0] == scales[1])


def prediction(model_sampling) -> str:
    """What ComfyUI calls the way in which a model's output is read, such as EPS or V_PREDICTION."""
    kinds = [kind for kind in type(model_sampling).__mro__ if "calculate_denoised" in vars(kind)]
    return kinds[0].__name__


def read_alike(first, second) -> bool:
    """Whether two of a model's samplings give its network the same input and read its output alike.

    They may differ in which levels they know (a shift). Tried at some levels that both know, not told by their names.
    """
    low = max(float(ms.sigma_min) for ms in (first, second))
    high = min(float(ms.sigma_max) for ms in (first, second))
    if first is second or low >= high:
        return first is second
    share = torch.linspace(0.1, 0.9, 5)
    sigma = low * (high / low) ** share
    x, out = torch.ones(5, 1), torch.full((5, 1), 0.5)

    def reading(ms) -> list[torch.Tensor]:
        at = sigma.to(ms.sigma_max.device)
        given = [ms.calculate_input(at, x.to(at)), ms.timestep(at), ms.calculate_denoised(at, out.to(at), x.to(at))]
        return [value.float().cpu() for value in given]

    return all(torch.allclose(a, b, rtol=1e-4) for a, b in zip(reading(first), reading(second), strict=True))


def convertible(model_sampling) -> bool:
    """Whether the model's x can be carried over to another family."""
    return not isinstance(model_sampling, UNCONVERTIBLE)


def carry(x: torch.Tensor, level: NoiseLevel, source, target) -> tuple[torch.Tensor, torch.Tensor]:
    """x [B, ...] at `level` of the source model -> (x, sigma [B]) of the target model at the same noise.

    Where a flow model has no signal, another family sees SMALLEST_SIGNAL of it.
    """
    floor = torch.as_tensor(SMALLEST_SIGNAL, dtype=torch.float64)
    seen = NoiseLevel(torch.maximum(level.a, floor), level.b)
    sigma = sigma_of(target, seen)
    moved = change_coordinates(x, seen, level_of(target, sigma))
    return moved, sigma.to(torch.float32).to(x.device)


class ModelPositions:
    """What a model's `model_sampling` knows about units (implements guidance.schedule.Positions)."""

    def __init__(self, model_sampling):
        self.model_sampling = model_sampling

    def edge(self, value: float, unit: Unit) -> float:
        if unit == "percent" and value <= 0.0:
            return math.inf
        sigma = self.model_sampling.percent_to_sigma(value) if unit == "percent" else value
        return self._variance_exploding(float(sigma))

    def knot(self, value: float, unit: Unit) -> float:
        sigma = float(self.model_sampling.percent_to_sigma(value)) if unit == "percent" else value
        low, high = float(self.model_sampling.sigma_min), float(self.model_sampling.sigma_max)
        inside = self._variance_exploding(min(max(sigma, low), high))
        return min(inside, 1.0 / SMALLEST_SIGNAL) if isinstance(self.model_sampling, families.CONST) else inside

    def _variance_exploding(self, sigma: float) -> float:
        if isinstance(self.model_sampling, families.CONST) and sigma >= 1.0:
            return math.inf
        return float(level_of(self.model_sampling, torch.tensor([sigma], dtype=torch.float64)).sigma)
