"""Momentum guidance: away from the average of the steps so far (Liao et al. 2026, 2602.20360)."""

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from ..rule import Step, expand, param, rule
from ..shaping import EstimateShape, noise_part


@rule("momentum")
@dataclass(frozen=True)
class Momentum(EstimateShape):
    """v' = v + push (v - m),  then m = (1 - memory) v + memory m      2602.20360 Algorithm 1; m is v in the first step

    v = (x - D) / b is the velocity of a flow, or the noise that another model predicts, after all guidance.
    """

    title, paper = "momentum guidance", "2602.20360"
    uses = frozenset()
    compares = False

    push: float = param(
        0.5, "How far it goes away from the average of the earlier steps.", low=0.0, high=10.0, step=0.05,
    )  # fmt: skip
    memory: float = param(0.6, "How long the average remembers: 0 = the last step alone.", low=0.0, high=0.99)

    def shaped(self, denoised: Tensor, step: Step, state: Any) -> tuple[Tensor, Any]:
        noise = expand(step.level.b.clamp_min(1e-10), step.x)
        velocity = noise_part(step, denoised) / noise
        if state is None:
            return denoised.clone(), velocity
        shaped = denoised - noise * self.push * (velocity - state)
        return shaped, (1.0 - self.memory) * velocity + self.memory * state
