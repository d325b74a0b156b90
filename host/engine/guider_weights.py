"""The weights with which a guider combines its prompts: what it says, and what the CFG rules make of that.

The host's guiders keep one number or two. Guiders of other packs also keep a list with a number per step, or anything
else, which nobody but they can read.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from numbers import Real
from typing import Any

import torch
from comfy.samplers import CFGGuider

from ...guidance.compose import Guidance, common_value
from ...guidance.noise_level import NoiseLevel

EQUAL = 1e-6  # relative: weights pass through other packs' float32


@dataclass(frozen=True)
class GuiderWeights:
    """The weights of a guider in one call, as it keeps them."""

    stated: tuple[Any, ...]
    wanted: tuple[Any, ...]  # what the rules make of them; the very same where they leave them alone
    each: torch.Tensor | None = None  # [B] of a batch whose samples want different ones; the guider gets the farthest

    @property
    def changed(self) -> bool:
        return self.wanted is not self.stated

    @property
    def number(self) -> float:
        """The weight of CFG, nan where only the guider knows it."""
        known = numbers(self.wanted[-1])
        return known[0] if len(known) == 1 else math.nan

    def allow(self, used: float) -> bool:
        """Whether `used` is a weight that was wanted."""
        return any(_equal(used, number) for weight in self.wanted for number in numbers(weight))


def weight_names(guider: CFGGuider) -> tuple[str, ...]:
    """Where the guider keeps the weights that it combines with: one, or the two of a dual-prompt guider."""
    return ("cfg1", "cfg2") if hasattr(guider, "cfg1") else ("cfg",)


def stated_weights(guider: CFGGuider) -> tuple[Any, ...]:
    """The guider's weights now."""
    return tuple(getattr(guider, name) for name in weight_names(guider))


def weights_at(
    guider: CFGGuider, guidance: Guidance, level: NoiseLevel, chosen: Mapping[int, torch.Tensor]
) -> GuiderWeights:
    """The weights for a call at these levels [B]. chosen: by the adaptive rules for this call.

    Raises ValueError where samples want different ones, and the guider has several itself.
    """
    stated = stated_weights(guider)
    cfg = guidance.cfg_at(level, chosen)
    if not (guidance.combines or guidance.weighers) or _leaves_alone(cfg):
        return GuiderWeights(stated, stated)
    wanted = tuple(_each(weight, lambda number: common_value(cfg(number))) for weight in stated)
    if all(map(numbers, wanted)):
        return GuiderWeights(stated, wanted)
    if len(stated) > 1 or len(numbers(stated[0])) > 1:
        raise ValueError(
            "The pictures of this batch want different weights of CFG (Adaptive Weight, or several noise levels at "
            "once), and the guider has several itself. Use KSampler or CFGGuider, or make one picture at a time."
        )
    each = cfg(numbers(stated[0])[0])
    return GuiderWeights(stated, (float(each[(each - 1.0).abs().argmax()]),), each)


def numbers(weight: Any) -> list[float]:
    """A weight as numbers: one, or one per step; empty if it is something else."""
    plain = weight.tolist() if isinstance(weight, torch.Tensor) else weight
    listed = plain if isinstance(plain, (list, tuple)) else [plain]
    return [float(number) for number in listed] if all(isinstance(number, Real) for number in listed) else []


@contextmanager
def combining_with(guider: CFGGuider, values: tuple[Any, ...]):
    """The guider combines with these weights while inside."""
    names = weight_names(guider)
    before = [getattr(guider, name) for name in names]
    for name, value in zip(names, values, strict=True):
        setattr(guider, name, value)
    try:
        yield
    finally:
        for name, value in zip(names, before, strict=True):
            setattr(guider, name, value)


def _leaves_alone(cfg: Callable[[float], torch.Tensor]) -> bool:
    """Whether the CFG rules want what the guider does by itself, whatever that is."""
    tried = (2.0, 3.0)  # of a guider's weights; a rule that keeps both keeps all
    return all(bool((cfg(number) - number).abs().max() <= EQUAL) for number in tried)


def _each(weight: Any, change: Callable[[float], float | None]) -> Any:
    """The weight, changed; of a list every number."""
    changed = [change(number) for number in numbers(weight)]
    return changed if isinstance(weight, (list, tuple)) or len(changed) != 1 else changed[0]


def _equal(first: float, second: float) -> bool:
    return math.isclose(first, second, rel_tol=EQUAL, abs_tol=EQUAL)
