"""Zero-init: let a run stand still in its first steps (CFG-Zero*, Fan et al. 2025, 2503.18886)."""

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from ..rule import NoiseLevel, Step, expand, param, rule
from ..shaping import EstimateShape


@rule("zero_init")
@dataclass(frozen=True)
class ZeroInit(EstimateShape):
    """D' = x / (a + b) in the first steps      2503.18886: the velocity of the straight path, n - D, is 0 there

    In a flow's coordinates a + b = 1, and the picture stays as it is; elsewhere it keeps to the same straight path.
    """

    title, paper = "zero-init", "2503.18886"
    off = {"zero_steps": 0}
    uses = frozenset()
    compares = False

    zero_steps: int = param(
        1, "In how many of the first steps nothing moves yet, whatever other guidance says. 0 = off; the paper uses 1 "
        "with flow models.", low=0, high=100, step=1,
    )  # fmt: skip

    def strength(self, level: NoiseLevel) -> Tensor:
        return self.scheduled(0.0 if self.inert else self.amount, self.schedule(level))

    def shaped(self, denoised: Tensor, step: Step, state: Any) -> tuple[Tensor, Any]:
        still = step.x * expand(1.0 / (step.level.a + step.level.b), step.x)
        return still if step.position <= self.zero_steps else denoised, state
