"""Learned weights: a small network that says, at every step and for every picture, how much a difference counts.

    w = max(0, w0 + reach tanh(f(v_noise, v_gap) / reach))
    v_noise = ln(sigma) / 2        v_gap = ln(gap + 0.001) / 2        gap = |D - D_rival| / (sigma sqrt(n))

The rival is what the difference is taken to: the negative prompt, or a weaker network. f is a small network of the
numbers v, cos v, cos 2v, cos 3v of both (the embedding of 2506.24108); its last layer begins as zeros, so that it
begins as the constant w0. Weights that are learned for a model and depend on the noise: 2510.00815.
"""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from .algebra import norm
from .noise_level import NoiseLevel, expand
from .rule import NEGATIVE, Rule, param, schedule_field
from .schedule import Schedule, interpolate
from .step import Step

FEATURES = 4  # of each number
KNOTS = 25  # noise levels at which a file says which gap is usual
LARGEST_WEIGHT, WIDEST = 100.0, 1024
SMALLEST_GAP, QUIETEST, NOISIEST = 1e-3, 1e-4, 1e4


class WeightNetwork(nn.Module):
    """The weight of one difference. It works in float64 on the CPU, so that a picture's weight depends on it alone.

    Args:
        constant: w0. reach: by how much the weight may leave it. width: of the two hidden layers.

    Attributes:
        noise, gaps: ln sigma, rising, and ln of the gap that is usual there, [KNOTS]: for a curve of the weights.

    Raises:
        ValueError: a number that cannot be.
    """

    noise: Tensor
    gaps: Tensor

    def __init__(
        self, *, operations: Any = nn, device: Any = None, dtype: Any = None, constant: float = 2.0,
        reach: float = 4.0, width: int = 32,
    ) -> None:  # fmt: skip
        super().__init__()
        if not 0.0 <= constant <= LARGEST_WEIGHT or not 0.0 < reach <= LARGEST_WEIGHT:
            raise ValueError(f"constant {constant} must be 0 to {LARGEST_WEIGHT:g}, reach {reach} above 0 and up to it")
        if not isinstance(width, int) or not 1 <= width <= WIDEST:
            raise ValueError(f"width {width} must be a whole number from 1 to {WIDEST}")
        self.constant, self.reach, self.width = float(constant), float(reach), width
        factory: dict[str, Any] = {"device": device, "dtype": torch.float64}
        sizes = (2 * FEATURES, width, width, 1)
        self.layers: Any = nn.ModuleList(
            operations.Linear(a, b, **factory) for a, b in zip(sizes[:-1], sizes[1:], strict=True)
        )
        self.register_buffer("noise", torch.linspace(math.log(0.01), math.log(100.0), KNOTS, **factory))
        self.register_buffer("gaps", torch.full((KNOTS,), math.log(0.1), **factory))

    @property
    def config(self) -> dict[str, Any]:
        """What it is built with."""
        return {"constant": self.constant, "reach": self.reach, "width": self.width}

    @property
    def fingerprint(self) -> str:
        """8 hexadecimal digits of its numbers: equal where the weights are."""
        digest = hashlib.sha256(f"{self.config}".encode())
        for tensor in self.state_dict().values():
            digest.update(tensor.detach().numpy().tobytes())
        return digest.hexdigest()[:8]

    def initialise(self, generator: torch.Generator) -> None:
        """Draw the hidden layers anew; the last one is zero, so that the weight is the constant."""
        with torch.no_grad():
            for layer in self.layers:
                bound = math.sqrt(3.0 / layer.weight.shape[1]) * (layer.out_features > 1)
                drawn = torch.rand(layer.weight.shape, generator=generator, dtype=torch.float64)
                layer.weight.copy_((2.0 * drawn - 1.0) * bound)
                layer.bias.zero_()

    def forward(self, level: NoiseLevel, gap: Tensor) -> Tensor:
        """The weights [B], float64, at levels [B] and gaps [B] (`gap_of`)."""
        numbers = (level.sigma.clamp(QUIETEST, NOISIEST).log() / 2, (gap + SMALLEST_GAP).log() / 2)
        hidden = torch.cat([_embedded(number) for number in numbers], 1)
        for layer in self.layers[:-1]:
            hidden = nn.functional.silu(layer(hidden))
        found = self.layers[-1](hidden).flatten()
        return (self.constant + self.reach * (found / self.reach).tanh()).clamp_min(0.0)

    def usual(self, level: NoiseLevel) -> Tensor:
        """The weights [B] at the gaps that were usual at these levels in training."""
        place = level.sigma.clamp(QUIETEST, NOISIEST).log()
        with torch.no_grad():
            return self(level, interpolate(place, self.noise, self.gaps).exp())


class LearnedWeights(nn.Module):
    """What a file holds: the weight of CFG and, where it was trained beside it, that of autoguidance.

    Args:
        cfg, autoguidance: what the networks are built with; autoguidance may be None.
    """

    def __init__(
        self, *, operations: Any = nn, device: Any = None, dtype: Any = None, cfg: dict[str, Any],
        autoguidance: dict[str, Any] | None = None,
    ) -> None:  # fmt: skip
        super().__init__()
        self.cfg = WeightNetwork(operations=operations, device=device, **cfg)
        self.autoguidance = (
            None if autoguidance is None else WeightNetwork(operations=operations, device=device, **autoguidance)
        )

    @property
    def config(self) -> dict[str, Any]:
        """What it is built with."""
        return {"cfg": self.cfg.config, "autoguidance": self.autoguidance and self.autoguidance.config}


def gap_of(difference: Tensor, level: NoiseLevel) -> Tensor:
    """How far two predictions are apart per number, over the noise: [B, ...] -> float64 [B] on the CPU.

    It is the root mean square of the difference between the noises that both see. This waits for the device.
    """
    each = norm(difference).flatten().cpu().double() / math.sqrt(difference[0].numel())
    return each * level.a / level.b


CONSTANT = WeightNetwork().requires_grad_(False)
CONSTANT.initialise(torch.Generator().manual_seed(0))


@dataclass(frozen=True)
class LearnedRule(Rule):
    """What rules with a learned weight share. The constant that it began with is another rule's: CFG, autoguidance."""

    paper = "2510.00815"
    off = {"amount": 0.0}

    amount: float = param(
        1.0, "How much of what was learned is used: 1 = the learned weights, 0 = the constant that they began with.",
        low=0.0, high=2.0, step=0.05,
    )  # fmt: skip
    schedule: Schedule = schedule_field()
    weights: WeightNetwork = field(default=CONSTANT, metadata={"doc": "The network that was trained."})

    def push(self, step: Step, difference: Tensor) -> Tensor:
        """What the learned weight adds to that of the constant, [B, ...]."""
        with torch.no_grad():
            beyond = self.weights(step.level, gap_of(difference, step.level)) - self.weights.constant
        return expand(step.strength * beyond, difference) * difference

    def explain(self) -> str:
        used = "" if self.amount == 1.0 else f", {self.amount:g} of what was learned"
        kind = "CFG" if NEGATIVE in self.uses else "autoguidance"
        return f"Learned weight of {kind} ({self.weights.fingerprint}) in place of {self.weights.constant:g}{used}"

    def shown(self, level: NoiseLevel) -> Tensor:
        constant = self.weights.constant
        learned = constant + self.amount * (self.weights.usual(level) - constant)
        return 1.0 + self.schedule(level) * (learned - 1.0)


def _embedded(number: Tensor) -> Tensor:
    """[B] -> [B, FEATURES]"""
    return torch.stack([number, *((number * times).cos() for times in range(1, FEATURES))], 1)
