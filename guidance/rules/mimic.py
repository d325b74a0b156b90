"""Dynamic thresholding with a mimic scale (mcmonkeyprojects 2023, after Imagen, Saharia et al. 2022, 2205.11487)."""

from dataclasses import dataclass

from torch import Tensor

from ..algebra import quantile, ratio
from ..rule import NEGATIVE, POSITIVE, Step, param, rule
from ..shaping import UpdateShape, beyond, update


@rule("mimic")
@dataclass(frozen=True)
class Mimic(UpdateShape):
    """D' = m + clip(G, -r, r) r_mimic / r,  r = max(r_mimic, q)     github.com/mcmonkeyprojects/sd-dynamic-thresholding

    Per channel of a sample: G is CFG's estimate less its mean m, q the quantile of |G|, r_mimic the largest |M| of the
    estimate M (less its mean) that the lower weight would give. So detail is CFG's and its range the lower weight's.
    """

    title, paper = "dynamic thresholding", "github.com/mcmonkeyprojects/sd-dynamic-thresholding"
    sees = "channels"

    mimic: float = param(
        3.0, "The weight whose range of values is kept (mimic scale). Below the cfg in effect, or it does nothing.",
        low=0.0, high=100.0, step=0.1,
    )
    quantile: float = param(
        1.0, "What of CFG's values is brought into that range; the rest is cut off. 1 = all; lower lets fewer outliers "
        "flatten the picture (0.995).", low=0.0, high=1.0, step=0.005,
    )  # fmt: skip

    def change(self, step: Step) -> Tensor:
        plain = (step.branches[POSITIVE] + beyond(step) * update(step)).flatten(2)
        lower = (step.branches[NEGATIVE] + self.mimic * update(step)).flatten(2)
        spread, wanted = (values - values.mean(2, keepdim=True) for values in (plain, lower))
        reach = wanted.abs().amax(2, keepdim=True)
        found = quantile(spread.abs().flatten(0, 1), self.quantile).reshape(reach.shape)
        edge = found.maximum(reach)
        shaped = spread.clamp(-edge, edge) * ratio(reach, edge, at_zero=1.0)
        return (beyond(step) != 0.0) * (shaped - spread).reshape(step.x.shape)
