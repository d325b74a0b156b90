"""Skimmed CFG: where CFG pushes too far, do what a lower weight would do (Extraltodeus 2024, Skimmed_CFG)."""

from dataclasses import dataclass

import torch
from torch import Tensor

from ..rule import NEGATIVE, POSITIVE, Step, expand, param, rule
from ..shaping import UpdateShape, beyond, update


@rule("skim")
@dataclass(frozen=True)
class Skim(UpdateShape):
    """D' = u' + w (c' - u'),  u' = skim(u, c), c' = skim(c, u')      github.com/Extraltodeus/Skimmed_CFG

    skim(a, b) = a - (1 - skim / w)(a - b) in the elements where a - b, b + w (a - b) and that minus x all have the
    sign of a: where the push goes outward already. Where w is lower than `skim` nothing changes.
    """

    title, paper = "skimmed CFG", "github.com/Extraltodeus/Skimmed_CFG"

    skim: float = param(
        3.0, "The lower weight that is used where CFG overshoots. Below the cfg in effect, or it does nothing.",
        low=0.0, high=100.0, step=0.1,
    )  # fmt: skip

    def change(self, step: Step) -> Tensor:
        positive, weight = step.branches[POSITIVE], expand(step.cfg, step.x)
        negative = self._skim(step.branches[NEGATIVE], positive, weight, step.x)
        skimmed = self._skim(positive, negative, weight, step.x)
        shaped = negative + weight * (skimmed - negative)
        return torch.where(weight == 1.0, 0.0, shaped - positive - beyond(step) * update(step))

    def _skim(self, a: Tensor, b: Tensor, weight: Tensor, x: Tensor) -> Tensor:
        push = a - b
        guided = b + weight * push
        side = a.sign()
        outward = (push.sign() == side) & (guided.sign() == side) & ((guided - x).sign() == side)
        cut = torch.where(weight > self.skim, 1.0 - self.skim / weight, 0.0)
        return a - cut * push * outward
