"""Averages of a network's weights over its training."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from torch import nn
from torch.optim.swa_utils import AveragedModel

from guidance_pack.guidance.networks.edm2.posthoc_ema import power_exponent


class Decay(Protocol):
    """The share of the old average that stays at a step (the first step is 1)."""

    def __call__(self, step: int) -> float: ...


@dataclass(frozen=True)
class PlainDecay:
    """The same share at every step: avg <- decay avg + (1 - decay) weights."""

    decay: float = 0.999

    def __call__(self, step: int) -> float:
        return self.decay


@dataclass(frozen=True)
class PowerDecay:
    """(1 - 1/step)^(gamma + 1), so that weights from time t count by t^gamma: Karras et al. 2024
    (EDM2), Section 3.1.

    Attributes:
        relative_width: standard deviation of the averaging profile as a share of the training so far (the paper's
            sigma_rel); it fixes gamma. Must lie in (0, 0.2886), beyond which no gamma >= 0 exists.
    """

    relative_width: float = 0.1

    def __call__(self, step: int) -> float:
        return (1 - 1 / step) ** (power_exponent(self.relative_width) + 1)


def average_of(network: nn.Module, decay: Decay) -> AveragedModel:
    """A running average of a network's parameters, beside it, its `module`; `update_parameters` takes one step.

    The weights that it starts with count as the first, so `n_averaged` is the number of the next step.
    """
    average = AveragedModel(network, avg_fn=lambda kept, new, step: kept.lerp(new, 1 - decay(int(step))))
    average.n_averaged.fill_(1)
    return average
