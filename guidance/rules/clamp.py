"""Clamp: keep the estimate inside the range of pictures (ADM's clip_denoised; Saharia et al. 2022, 2205.11487)."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..algebra import quantile
from ..rule import Schedule, Stage, Step, Transform, expand, param, rule, schedule_field


@rule("clamp")
@dataclass(frozen=True)
class Clamp(Transform):
    """D' = L clip(D, -s, s) / s,  s = max(L, quantile_p |D|)      2205.11487 Section 2.3; p = 0: clip(D, -L, L)

    The quantile is that of each sample over all its dimensions. It acts on what the networks estimate together, before
    gradients: ADM, P2 and PPAP clamp the model's estimate and then add the classifier's push, without clamping again
    (2105.05233, the released code); GLIDE and Imagen clamp what CFG has combined.
    """

    paper, stage = "2205.11487", Stage.BOUNDS
    off = {"limit": 0.0}
    uses = frozenset()
    compares = False
    strength = Transform.switch

    limit: float = param(
        1.0, "Largest value that the estimate may have, up or down. Pictures go from -1 to 1. 0 = off.",
        low=0.0, high=100.0,
    )
    quantile: float = param(
        0.0, "0 = cut off what lies outside (ADM, P2, PPAP, GLIDE). Otherwise this share of each estimate is brought "
        "inside by shrinking all of it, and the rest cut off (Imagen's dynamic thresholding: 0.995).",
        low=0.0, high=1.0, step=0.005,
    )  # fmt: skip
    schedule: Schedule = schedule_field()

    def transform(self, denoised: Tensor, step: Step, state: Any) -> tuple[Tensor, Any]:
        if self.quantile:
            size = quantile(denoised.abs(), self.quantile).clamp(min=self.limit).to(denoised.dtype)
            inside = denoised.clamp(-size, size) / (size / self.limit)
        else:
            inside = denoised.clamp(-self.limit, self.limit)
        return torch.lerp(denoised, inside, expand(step.strength, denoised)), state

    def explain(self) -> str:
        dynamic = f", of each estimate's quantile {self.quantile:g}" if self.quantile else ""
        return f"Clamp: the networks' estimate to [-{self.limit:g}, {self.limit:g}]{dynamic}, before gradients"
