"""TCFG: damp what the unconditional prediction has across the conditional one (Kwon et al. 2025, 2503.18137)."""

from dataclasses import dataclass

import torch
from torch import Tensor

from ..algebra import dot, parallel
from ..rule import NEGATIVE, POSITIVE, Step, rule
from ..shaping import UpdateShape, beyond, noise_part


@rule("tcfg")
@dataclass(frozen=True)
class TCFG(UpdateShape):
    """v' = u' + w (c - u'),  u' = <u, v1> v1      2503.18137; c, u: x - D of the positive and the negative prompt

    v1 is the first right singular vector of the two rows [u; c]. Of two rows it is cos(f) u + sin(f) c but for its
    length, with tan(2f) = 2 <u, c> / (|u|^2 - |c|^2).
    """

    title, paper = "TCFG", "2503.18137"

    def change(self, step: Step) -> Tensor:
        c, u = (noise_part(step, step.branches[b]) for b in (POSITIVE, NEGATIVE))
        angle = torch.atan2(2.0 * dot(u, c), dot(u, u) - dot(c, c)) / 2.0
        main = angle.cos() * u + angle.sin() * c
        return beyond(step) * (parallel(u, main) - u)
