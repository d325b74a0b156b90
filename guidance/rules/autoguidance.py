"""Autoguidance: guide a network with a weaker version of itself (Karras et al. 2024, 2406.02507)."""

from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from ..rule import (
    POSITIVE,
    GuideTerm,
    Region,
    Schedule,
    Step,
    expand,
    param,
    region_field,
    reuse_param,
    rule,
    schedule_field,
)


@rule("autoguidance")
@dataclass(frozen=True)
class Autoguidance(GuideTerm):
    """D' = D + (w - 1) (D_main - D_guide)      2406.02507 Eq. 3; with CFG beside it, Eq. 6

    Both networks see the same noisy input and the same prompt. Alone (D = D_main) it is D_guide + w (D_main - D_guide).
    """

    paper = "2406.02507"
    off, neutral = {"weight": 1.0}, 1.0
    uses = frozenset({POSITIVE})

    weight: float = param(
        2.0, "Guidance weight. 1 = off: the guide is not evaluated. The paper's best values lie between 1.7 and 2.9.",
        low=0.0, high=20.0, step=0.05,
    )
    schedule: Schedule = schedule_field()
    guide: str = field(default="guide")  # the name of the weaker network among the branches
    reuse: int = reuse_param()
    region: Region | None = region_field()

    def displacement(self, step: Step, state: Any) -> tuple[Tensor, Any]:
        difference = self.difference(step, state)
        return expand(step.strength - 1.0, step.x) * difference, difference if self.reuse > 1 else None

    def explain(self) -> str:
        kept = f", the guide at every {self.reuse} levels" if self.reuse > 1 else ""
        return f"Autoguidance: D + (w - 1)(D_main - D_{self.guide}), w = {self.weight:g}{kept}"
