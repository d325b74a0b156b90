"""Learned weights: a small network that says, at every step and for every picture, how much a difference counts.

    w = max(0, w0 + reach tanh(f(v_noise, v_gap) / reach))
    v_noise = ln(sigma) / 2        v_gap = ln(gap + 0.001) / 2        gap = |D - D_rival| / (sigma sqrt(n))

The rival is what the difference is taken to: the negative prompt, or a weaker network. f is a small network of the
numbers v, cos v, cos 2v, cos 3v of both (the embedding of 2506.24108); its last layer begins as zeros, so that it
begins as the constant w0. Weights that are learned for a model and depend on the noise: 2510.00815. As theirs, f may
also read what a picture is asked to be: its class, or the pooled vector of its prompt, each as a vector of length 1.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from .algebra import norm
from .asked import Asked
from .guide import LONGEST_LABEL
from .noise_level import NoiseLevel, expand
from .rule import NEGATIVE, Rule, param, schedule_field
from .schedule import Schedule, interpolate
from .step import Step

FEATURES = 4  # of each number
KNOTS = 25  # noise levels at which a file says which gap is usual
EXAMPLES = 8  # prompts of the training that a file keeps, for a curve
LARGEST_WEIGHT, WIDEST = 100.0, 1024
MOST_SHOWN = 50  # classes in the mean of a curve
MOST_CLASSES, LONGEST_POOLED = 100_000, 65_536
SMALLEST_GAP, QUIETEST, NOISIEST = 1e-3, 1e-4, 1e4


def _check_reading(classes: tuple[str, ...], pooled: int) -> None:
    """Raise ValueError for what no network reads."""
    named = all(isinstance(name, str) and len(name) <= LONGEST_LABEL for name in classes)
    if not named or len(classes) > MOST_CLASSES:
        raise ValueError(f"classes must be at most {MOST_CLASSES} names of up to {LONGEST_LABEL} characters")
    if type(pooled) is not int or not 0 <= pooled <= LONGEST_POOLED or (classes and pooled):
        raise ValueError(f"pooled {pooled} must be a whole number up to {LONGEST_POOLED}, and 0 beside classes")


class WeightNetwork(nn.Module):
    """The weight of one difference. It works in float64 on the CPU, so that a picture's weight depends on it alone.

    Args:
        constant: w0. reach: by how much the weight may leave it. width: of the two hidden layers.
        classes, pooled: the names of the classes, or the length of the pooled vector, that it reads; neither as a rule.

    Attributes:
        noise, gaps: ln sigma, rising, and ln of the gap that is usual there, [KNOTS]: for a curve of the weights.
        examples: where it reads pooled vectors, some of the training's, [EXAMPLES, pooled].

    Raises:
        ValueError: a number that cannot be.
    """

    noise: Tensor
    gaps: Tensor
    examples: Tensor

    def __init__(
        self, *, operations: Any = nn, device: Any = None, dtype: Any = None, constant: float = 2.0,
        reach: float = 4.0, width: int = 32, classes: Sequence[str] = (), pooled: int = 0,
    ) -> None:  # fmt: skip
        super().__init__()
        self.classes, self.pooled = tuple(classes), pooled
        _check_reading(self.classes, pooled)
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
        self.ask: Any = operations.Linear(self.reading, width, bias=False, **factory) if self.reading else None
        if pooled:
            self.register_buffer("examples", torch.zeros(EXAMPLES, pooled, **factory))
        self.register_buffer("noise", torch.linspace(math.log(0.01), math.log(100.0), KNOTS, **factory))
        self.register_buffer("gaps", torch.full((KNOTS,), math.log(0.1), **factory))

    @property
    def config(self) -> dict[str, Any]:
        """What it is built with."""
        read = {"classes": list(self.classes), "pooled": self.pooled}
        found = {"constant": self.constant, "reach": self.reach, "width": self.width}
        return found | {name: value for name, value in read.items() if value}

    @property
    def reading(self) -> int:
        """The length of what it reads of a prompt; 0 where it reads nothing of it."""
        return len(self.classes) or self.pooled

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
            if self.ask is not None:
                self.ask.weight.zero_()

    def vectors(self, asked: Asked | None) -> Tensor | None:
        """What it reads of what pictures are asked to be, float64 [K, reading] of length 1 each; None where it reads
        nothing of it. No class is a vector of zeros.

        Raises:
            ValueError: that is not there, or not what it was trained on, in words.
        """
        if not self.reading:
            return None
        if self.classes:
            return self._of_classes(None if asked is None else asked.classes)
        given = None if asked is None else asked.pooled
        if given is None or given.shape[1] != self.pooled:
            came = "has none" if given is None else f"has one of {given.shape[1]} numbers"
            raise ValueError(
                f"These weights read the prompt's pooled vector of {self.pooled} numbers, and the positive prompt "
                f"{came}. Use them with the model and the text encoder that they were learned for."
            )
        return nn.functional.normalize(given.detach().double())

    def _of_classes(self, given: Tensor | None) -> Tensor:
        count = len(self.classes)
        if given is None or bool((given > count).any()):
            came = "none" if given is None else f"class {int(given.max())}"
            raise ValueError(
                f"These weights were learned for {count} classes ({', '.join(self.classes[:3])}, ...), and the "
                f"positive prompt asks for {came}. Connect Class Label of the model that they were learned for."
            )
        return _one_hot(given, count)

    def forward(self, level: NoiseLevel, gap: Tensor, vectors: Tensor | None = None) -> Tensor:
        """The weights [B], float64, at levels [B] and gaps [B] (`gap_of`), for `vectors` [B, reading]."""
        numbers = (level.sigma.clamp(QUIETEST, NOISIEST).log() / 2, (gap + SMALLEST_GAP).log() / 2)
        hidden = torch.cat([_embedded(number) for number in numbers], 1)
        for place, layer in enumerate(self.layers[:-1]):
            hidden = layer(hidden)
            if place == 0 and self.ask is not None and vectors is not None:
                hidden = hidden + self.ask(vectors)
            hidden = nn.functional.silu(hidden)
        found = self.layers[-1](hidden).flatten()
        return (self.constant + self.reach * (found / self.reach).tanh()).clamp_min(0.0)

    def usual(self, level: NoiseLevel, example: int | None = None) -> Tensor:
        """The weights [B] at the gaps that were usual at these levels in training.

        example: the class among `shown_count`, or the prompt of the training; None = the mean over them.
        """
        place = level.sigma.clamp(QUIETEST, NOISIEST).log()
        gaps = interpolate(place, self.noise, self.gaps).exp()
        with torch.no_grad():
            if not self.reading:
                return self(level, gaps)
            places = range(self.shown_count) if example is None else (example,)
            return torch.stack([self(level, gaps, self._example(p).expand(len(gaps), -1)) for p in places]).mean(0)

    def _example(self, place: int) -> Tensor:
        """[1, reading]"""
        if not self.classes:
            return self.examples[place : place + 1]
        return _one_hot(torch.tensor([place * len(self.classes) // self.shown_count]), len(self.classes))

    @property
    def shown_count(self) -> int:
        """How many classes, spread over all of them, or prompts `usual` is about."""
        return min(len(self.classes), MOST_SHOWN) or EXAMPLES

    @property
    def shown_for(self) -> str:
        """Whose weights `usual` gives, in words; empty where they are the same for every prompt."""
        if self.classes:
            some = "the" if self.shown_count == len(self.classes) else f"{self.shown_count} of"
            return f"the mean over {some} {len(self.classes)} classes"
        return f"the mean over {EXAMPLES} prompts of the training" if self.pooled else ""


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
        vectors = self.weights.vectors(step.asked)
        with torch.no_grad():
            beyond = self.weights(step.level, gap_of(difference, step.level), vectors) - self.weights.constant
        return expand(step.strength * beyond, difference) * difference

    def explain(self) -> str:
        used = "" if self.amount == 1.0 else f", {self.amount:g} of what was learned"
        kind = "CFG" if NEGATIVE in self.uses else "autoguidance"
        by = f", by {'class' if self.weights.classes else 'prompt'}" if self.reads_prompt else ""
        return f"Learned weight of {kind} ({self.weights.fingerprint}) in place of {self.weights.constant:g}{by}{used}"

    @property
    def reads_prompt(self) -> bool:
        return bool(self.weights.reading)

    def check_prompt(self, asked: Asked) -> None:
        self.weights.vectors(asked)

    def shown(self, level: NoiseLevel) -> Tensor:
        constant = self.weights.constant
        learned = constant + self.amount * (self.weights.usual(level) - constant)
        return 1.0 + self.schedule(level) * (learned - 1.0)


def _one_hot(numbers: Tensor, count: int) -> Tensor:
    """[K] -> float64 [K, count]; the number `count` is none of them."""
    return nn.functional.one_hot(numbers.long(), count + 1)[:, :count].double()


def _embedded(number: Tensor) -> Tensor:
    """[B] -> [B, FEATURES]"""
    return torch.stack([number, *((number * times).cos() for times in range(1, FEATURES))], 1)
