"""HiGS: away from the average of the estimates so far, in what is fine (Sadat et al. 2025, 2509.22300)."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..algebra import fine, parallel
from ..rule import NoiseLevel, Step, expand, param, rule
from ..shaping import EstimateShape


@rule("higs")
@dataclass(frozen=True)
class HiGS(EstimateShape):
    """D' = D + w(t) fine(Delta),  Delta = D - g less 1 - along of its part along D      2509.22300 Algorithm 2

    Then g = recent D + (1 - recent) g; the first step only begins it, from 0. w(t) = history sqrt((t - to_noise) /
    (from_noise - to_noise)) in (to_noise, from_noise], t = b / (a + b) the share of noise. fine: its Eq. 8.
    """

    title, paper = "HiGS", "2509.22300"
    uses = frozenset()
    sees = "space"
    compares = False

    history: float = param(
        1.75, "How far the fine detail goes away from the average of the earlier steps. 0 = off; the paper uses 1.75. "
        "With samplers of several steps (dpmpp_2m, res_multistep) begin at 0.5.", low=0.0, high=5.0, step=0.05,
    )
    recent: float = param(
        0.75, "How much of the average is the last step's.", low=0.01, high=1.0, advanced=True,
    )
    along: float = param(
        0.0, "How much of the push along the estimate itself stays. 0 keeps colours calm; 1 = all of it.",
        low=0.0, high=1.0, advanced=True,
    )
    cutoff: float = param(
        0.05, "What counts as fine: frequencies above this share of the highest. 0 = all.", low=0.0, high=1.0,
        advanced=True,
    )
    from_noise: float = param(
        1.0, "The share of noise at which it is strongest and begins.", low=0.0, high=1.0, advanced=True
    )
    to_noise: float = param(
        0.4, "The share of noise down to which it acts, ever weaker.", low=0.0, high=1.0, advanced=True
    )  # fmt: skip

    def weight(self, level: NoiseLevel) -> Tensor:
        """w(t), float64 [B]."""
        share = level.b / (level.a + level.b)
        inside = (share > self.to_noise) & (share <= self.from_noise)
        part = (share - self.to_noise) / max(self.from_noise - self.to_noise, 1e-9)
        return torch.where(inside, self.history * part.clamp_min(0.0).sqrt(), 0.0)

    def shaped(self, denoised: Tensor, step: Step, state: Any) -> tuple[Tensor, Any]:
        if state is None:
            return denoised.clone(), self.recent * denoised
        delta = denoised - state
        delta = delta - (1.0 - self.along) * parallel(delta, denoised)
        shaped = denoised + expand(self.weight(step.level), denoised) * fine(delta, self.cutoff)
        return shaped, torch.lerp(state, denoised, self.recent)
