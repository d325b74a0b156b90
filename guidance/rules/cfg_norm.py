"""CFGNorm: at every place keep the guided estimate no longer than the unguided one (ComfyUI's node of that name)."""

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from ..algebra import length, ratio
from ..rule import POSITIVE, Step, rule
from ..shaping import EstimateShape


@rule("cfg_norm")
@dataclass(frozen=True)
class CFGNorm(EstimateShape):
    """D' = D min(1, |D_positive| / |D|) at every place, over its channels      github.com/comfyanonymous/ComfyUI"""

    title, paper = "CFGNorm", "github.com/comfyanonymous/ComfyUI"
    uses = frozenset({POSITIVE})
    sees = "channels"

    def shaped(self, denoised: Tensor, step: Step, state: Any) -> tuple[Tensor, Any]:
        shrink = ratio(length(step.branches[POSITIVE]), length(denoised), at_zero=1.0).clamp(max=1.0)
        return denoised * shrink, state
