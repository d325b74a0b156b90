"""CFG++: combine by a share of the way, and add the noise back that the negative prompt sees (2406.08070)."""

from dataclasses import dataclass

import torch
from torch import Tensor

from ..rule import Step, expand, param, rule
from ..shaping import UpdateShape, update


@rule("cfg_pp")
@dataclass(frozen=True)
class CFGPlusPlus(UpdateShape):
    """w' = share / (1 - sigma' / sigma),  from sigma to sigma', VE      2406.08070 Algorithm 2, as a weight

    A step of CFG++ goes to a' (D_negative + share Delta) + b' n, with n = (x - a D_negative) / b. The sampler that
    takes a deterministic step with D' and its own noise arrives there exactly if CFG's weight is w' (Euler, DDIM; flows
    alike). So it replaces the cfg in effect, and needs the negative prompt at any.
    """

    title, paper = "CFG++", "2406.08070"
    with_cfg = False

    share: float = param(
        0.6, "How far the estimate goes from the negative prompt's to the positive prompt's; it takes the place of the "
        "sampler's cfg. The paper uses 0.4 to 1.", low=0.0, high=2.0,
    )  # fmt: skip

    def change(self, step: Step) -> Tensor:
        sigma, after = step.level.sigma, 0.0 if step.following is None else step.following.sigma
        left = torch.where(sigma > 0, 1.0 - after / sigma, 0.0)
        weight = torch.where(left > 0, self.share / left, step.cfg)
        return expand(weight - step.cfg, step.x) * update(step)
