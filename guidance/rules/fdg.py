"""FDG: guide coarse shapes and fine detail by weights of their own (Sadat et al. 2025, 2506.19713)."""

from dataclasses import dataclass

from torch import Tensor

from ..algebra import coarse
from ..rule import Step, param, rule
from ..shaping import UpdateShape, beyond, update


@rule("fdg")
@dataclass(frozen=True)
class FDG(UpdateShape):
    """D' = D_positive + (w - 1)(low Delta_low + high (Delta - Delta_low))      2506.19713, a Laplacian pyramid of two

    Delta_low is one level of the pyramid down and up again, over height and width of every frame, or over time. The
    paper's own weights are w_low = 1 + (w - 1) low and w_high = 1 + (w - 1) high.
    """

    title, paper = "FDG", "2506.19713"
    sees = "space"

    low: float = param(
        0.4, "How much of the update's coarse part stays: layout, colours, and what oversaturates. 1 = all of it.",
        low=0.0, high=4.0, step=0.05,
    )
    high: float = param(
        1.0, "How much of the update's fine part stays: edges and detail. 1 = all of it, more sharpens.",
        low=0.0, high=4.0, step=0.05,
    )  # fmt: skip

    def change(self, step: Step) -> Tensor:
        delta = update(step)
        low = coarse(delta)
        return beyond(step) * ((self.low - 1.0) * low + (self.high - 1.0) * (delta - low))
