"""Averages of a network's weights over its training."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn

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


class Average:
    """A running average of a network's parameters, kept in float32 beside it.

    Args:
        parameters: (name, tensor) pairs, such as `network.named_parameters()`.
        decay: the share of the old average at each step.
    """

    def __init__(self, parameters: Iterable[tuple[str, Tensor]], decay: Decay) -> None:
        self.decay = decay
        self.tensors = {name: tensor.detach().float().clone() for name, tensor in parameters}

    @torch.no_grad()
    def update(self, network: nn.Module, step: int) -> None:
        """Take in the network's weights after the given step (1 for the first)."""
        share = 1 - self.decay(step)
        for name, parameter in network.named_parameters():
            self.tensors[name].lerp_(parameter.float(), share)

    def copy_to(self, network: nn.Module) -> None:
        """Overwrite the network's parameters with the average."""
        network.load_state_dict(self.tensors)
