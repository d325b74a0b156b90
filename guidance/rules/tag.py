"""TAG: amplify the part of every step that is tangential to the noisy picture (Cho et al. 2025, 2510.04533)."""

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from ..algebra import parallel
from ..rule import Step, param, rule
from ..shaping import EstimateShape


@rule("tag")
@dataclass(frozen=True)
class TAG(EstimateShape):
    """D' = D_along + eta (D - D_along),  D_along the part of D along x      2510.04533, on the denoised estimate

    The paper splits the sampler's step x' - x. What a deterministic step adds is a combination of x and D, so its part
    across x is D's but for a factor, in all coordinates. Noise that a sampler adds is not amplified.
    """

    title, paper = "TAG", "2510.04533"
    uses = frozenset()
    compares = False

    eta: float = param(
        1.15, "How much the part of the estimate across the noisy picture is amplified. 1 = not at all; good: 1.05 to "
        "1.25.", low=0.0, high=4.0,
    )  # fmt: skip

    def shaped(self, denoised: Tensor, step: Step, state: Any) -> tuple[Tensor, Any]:
        along = parallel(denoised, step.x)
        return along + self.eta * (denoised - along), state
