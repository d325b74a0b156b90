"""CFG-Zero*: scale the unconditional prediction to fit the conditional one (Fan et al. 2025, 2503.18886)."""

from dataclasses import dataclass

from torch import Tensor

from ..algebra import dot, ratio
from ..rule import NEGATIVE, POSITIVE, Step, rule
from ..shaping import UpdateShape, beyond, noise_part


@rule("cfg_zero")
@dataclass(frozen=True)
class CFGZero(UpdateShape):
    """v' = s v_negative + w (v_positive - s v_negative),  s = <v_positive, v_negative> / |v_negative|^2      2503.18886

    v is what the network predicts, x - D but for a factor: a flow's velocity, an eps model's noise. In denoised space
    that is D' = D + (w - 1)(s - 1)(x - D_negative). The paper's zero-init is a rule of its own (`zero_init`).
    """

    title, paper = "CFG-Zero*", "2503.18886"

    def change(self, step: Step) -> Tensor:
        positive, negative = (noise_part(step, step.branches[b]) for b in (POSITIVE, NEGATIVE))
        fit = ratio(dot(positive, negative), dot(negative, negative), at_zero=1.0)
        return beyond(step) * (fit - 1.0) * negative
