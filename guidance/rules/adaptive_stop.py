"""Adaptive stop: no CFG once the prompts agree (Castillo et al. 2023, 2312.12487)."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..algebra import cosine
from ..rule import NEGATIVE, POSITIVE, NoiseLevel, Schedule, Step, Weigher, param, rule, schedule_field

NOISIEST = 5.0  # noise to signal above which nothing is judged: there all prompts give the same grey


@rule("adaptive_stop")
@dataclass(frozen=True)
class AdaptiveStop(Weigher):
    """w = 1 from the level on after cos(D_positive, D_negative) >= similarity      2312.12487 (AG policy)

    Per sample and for good, from sigma `NOISIEST` down. The paper compares estimates of the noise, which agree wherever
    there is much of it; here it is the pictures.
    """

    title, paper = "Adaptive Weight", "2312.12487"
    off = {"similarity": 1.0}
    uses = frozenset({POSITIVE, NEGATIVE})
    with_cfg = True
    strength = Weigher.switch

    similarity: float = param(
        0.99, "How alike the pictures of both prompts must have become (their cosine, which Inspect Run shows) for CFG "
        "to stop. Lower = earlier and faster, 1 = never. Not looked at in the noisiest part.", low=0.0, high=1.0,
        step=0.001,
    )  # fmt: skip
    schedule: Schedule = schedule_field()

    def choose(self, x: Tensor, level: NoiseLevel, position: int, state: Tensor | None) -> Tensor:
        """0 = not stopped, 1 = stopped. [B]"""
        return torch.zeros_like(level.b) if state is None else self.strength(level).to(state) * state

    def weigh(self, cfg: Tensor, chosen: Tensor) -> Tensor:
        return torch.where(chosen == 0.0, cfg, 1.0 + (cfg - 1.0) * (1.0 - chosen))

    def learn(self, step: Step, state: Tensor | None) -> Any:
        found = cosine(step.branches[POSITIVE], step.branches[NEGATIVE]).flatten()
        looks = (self.strength(step.level) != 0.0) & (step.level.sigma <= NOISIEST)
        alike = torch.where(found >= self.similarity, looks.to(found), 0.0)
        return alike if state is None else torch.maximum(alike, state)

    def explain(self) -> str:
        return f"Adaptive stop: no CFG after the prompts agree to a cosine of {self.similarity:g}; evaluations at most"
