"""MAMBO-G: less weight while the two predictions are far apart (Zhu et al. 2025, 2508.03442)."""

from dataclasses import dataclass

from torch import Tensor

from ..algebra import norm, ratio
from ..rule import NEGATIVE, Step, param, rule
from ..shaping import UpdateShape, beyond, noise_part, update


@rule("mambo_g")
@dataclass(frozen=True)
class MamboG(UpdateShape):
    """w' = 1 + (w - 1) exp(-alpha |v_positive - v_negative| / |v_negative|)      2508.03442; v as in CFG-Zero*"""

    title, paper = "MAMBO-G", "2508.03442"

    alpha: float = param(
        8.0, "How fast the weight falls with the distance between the two predictions, relative to their size. "
        "0 = plain CFG; the paper uses 8 with a cfg of 10.", low=0.0, high=100.0, step=0.1,
    )  # fmt: skip

    def change(self, step: Step) -> Tensor:
        delta, negative = update(step), noise_part(step, step.branches[NEGATIVE])
        share = (-self.alpha * ratio(norm(delta), norm(negative))).exp()
        return beyond(step) * (share - 1.0) * delta
