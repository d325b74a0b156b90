"""Autoguidance: guide a network with a weaker version of itself (Karras et al. 2024, 2406.02507)."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from ..branch import POSITIVE, Branch
from ..noise_level import NoiseLevel, expand
from ..rule import Step, Term, check_ranges, param, rule, scheduled, weighted
from ..schedule import Schedule


@rule("autoguidance")
@dataclass(frozen=True)
class Autoguidance(Term):
    """D' = D + (w - 1) (D_main - D_guide)      2406.02507 Eq. 3; with CFG beside it, Eq. 6

    Both networks see the same noisy input and the same prompt. Alone (D = D_main) it is D_guide + w (D_main - D_guide).
    """

    paper = "2406.02507"
    off = {"weight": 1.0}
    uses = frozenset({POSITIVE})

    weight: float = param(
        2.0,
        "Guidance weight. 1 = off: the guide is not evaluated. The paper's best values lie between 1.7 and 2.9.",
        low=0.0,
        high=20.0,
        step=0.05,
    )
    schedule: Schedule = scheduled()
    guide: str = field(default="guide")  # the name of the weaker network among the branches

    def __post_init__(self) -> None:
        check_ranges(self)

    @property
    def branch(self) -> Branch:
        return Branch(network=self.guide)

    def strength(self, level: NoiseLevel) -> Tensor:
        return weighted(self.weight, self.schedule, level)

    def needs(self, level: NoiseLevel, cfg: Tensor) -> frozenset[Branch]:
        return frozenset({POSITIVE, self.branch}) if bool((self.strength(level) != 1.0).any()) else frozenset()

    def displacement(self, step: Step, state: Any) -> tuple[Tensor, Any]:
        if not self.needs(step.level, step.cfg):
            return torch.zeros_like(step.x), state
        push = expand(self.strength(step.level) - 1.0, step.x)
        return push * (step.branches[POSITIVE] - step.branches[self.branch]), state

    def explain(self) -> str:
        return f"Autoguidance: D + (w - 1)(D_main - D_{self.guide}), w = {self.weight:g}"


def split(total: float, mix: float) -> tuple[float, float]:
    """The weights of CFG and of autoguidance for a total weight and a mix (2406.02507 Eq. 6).

    mix 0 is CFG alone, mix 1 autoguidance alone: w_cfg = (1 - mix)(total - 1) + 1, w_auto = mix (total - 1) + 1.
    """
    if not 0.0 <= mix <= 1.0:
        raise ValueError(f"mix is {mix:g}; it goes from 0 (CFG alone) to 1 (autoguidance alone).")
    return (1.0 - mix) * (total - 1.0) + 1.0, mix * (total - 1.0) + 1.0
