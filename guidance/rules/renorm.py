"""Renorm: keep the guided estimate no longer than the unguided one (Lumina-Image 2.0, Qin et al. 2025, 2503.21758)."""

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from ..algebra import norm, shorten
from ..rule import POSITIVE, Step, param, rule
from ..shaping import EstimateShape


@rule("renorm")
@dataclass(frozen=True)
class Renorm(EstimateShape):
    """D' = D min(1, longest |D_positive| / |D|)      2503.21758 (CFG-Renorm); the norm is that of the whole sample"""

    title, paper = "RenormCFG", "2503.21758"
    uses = frozenset({POSITIVE})

    longest: float = param(
        1.0, "How long the guided estimate may be, times the unguided one. 1 = no longer.", low=1.0, high=10.0,
    )  # fmt: skip

    def shaped(self, denoised: Tensor, step: Step, state: Any) -> tuple[Tensor, Any]:
        return shorten(denoised, self.longest * norm(step.branches[POSITIVE])), state
