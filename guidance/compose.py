"""Guidance: an ordered tuple of rules, and the law that joins them."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from .branch import NEGATIVE, POSITIVE, Branch
from .noise_level import NoiseLevel
from .objective import GradientContext
from .rule import Rule, Term, Transform
from .rules.cfg import CFG
from .schedule import Positions
from .step import Step, StepWatch

Evaluate = Callable[[Branch], Tensor]


@dataclass
class Memory:
    """The states of the rules during one run.

    A sampler may evaluate one noise level several times (Heun, SDE). A state therefore moves on only when the run has
    moved on to another position, and every evaluation at one position starts from the same state.
    """

    position: int = -1
    before: dict[int, Any] = field(default_factory=dict)
    after: dict[int, Any] = field(default_factory=dict)

    def move_to(self, position: int) -> None:
        """Start (or repeat) the evaluation at a position: the index of the noise level in the sampler's list."""
        if position != self.position:
            self.position = position
            self.before = dict(self.after)


@dataclass(frozen=True)
class Guidance:
    """Rules in chain order. Terms add and commute; transforms run last, in order."""

    rules: tuple[Rule, ...] = ()

    def resolve(self, positions: Positions) -> Guidance:
        """The same guidance with every schedule in VE sigma."""
        return Guidance(tuple(rule.resolve(positions) for rule in self.rules))

    def over(self, levels: NoiseLevel) -> Guidance:
        """The same (resolved) guidance for a run over these noise levels, noisy to clean."""
        return Guidance(tuple(rule.over(levels) for rule in self.rules))

    @cached_property
    def combines(self) -> tuple[CFG, ...]:
        """The CFG rules: they set the weight with which the positive and the negative branch are combined."""
        return tuple(rule for rule in self.rules if isinstance(rule, CFG))

    def cfg(self, level: NoiseLevel, sampler: float = 1.0) -> Tensor:
        """The weight of CFG per sample, float64 [B]: `sampler` where no CFG rule is given, else what the rules say.

        Rules with intervals of their own add up; where intervals do not overlap, that is the one in charge.
        """
        if not self.combines:
            return torch.full_like(level.b, sampler)
        return sum((rule.weights(level, sampler) - 1.0 for rule in self.combines), start=torch.ones_like(level.b))

    def needs(self, level: NoiseLevel, cfg: Tensor) -> frozenset[Branch]:
        """The branches that the rules beside CFG need at this level."""
        return frozenset().union(*(r.needs(level, cfg) for r in self.rules if not isinstance(r, CFG)))

    def steer(self, denoised: Tensor, step: Step, memory: Memory) -> Tensor:
        """The law: add every term's displacement to the combined estimate, then transform. [B, ...]"""
        total, watch = denoised, step.watch
        if watch is not None:
            watch.combined(denoised, step)
        for index, rule in enumerate(self.rules):
            if isinstance(rule, Term) and not isinstance(rule, CFG) and rule.needs(step.level, step.cfg):
                displacement, memory.after[index] = rule.displacement(step, memory.before.get(index))
                total = total + displacement
                if watch is not None:
                    watch.moved(index, displacement)
        for index, rule in enumerate(self.rules):
            if isinstance(rule, Transform) and rule.needs(step.level, step.cfg):
                before = total
                total, memory.after[index] = rule.transform(total, step, memory.before.get(index))
                if watch is not None:
                    watch.moved(index, total - before)
        if watch is not None:
            watch.guided_to(total)
        return total

    def denoise(
        self, evaluate: Evaluate, x: Tensor, level: NoiseLevel, sampler: float = 1.0, memory: Memory | None = None,
        *, position: int = 0, following: NoiseLevel | None = None, gradient_context: GradientContext | None = None,
        watch: StepWatch | None = None,
    ) -> Tensor:
        """The guided estimate from bare branches, evaluating only what is needed.

        evaluate: gives the denoised estimate [B, ...] of a branch at (x, level); asked at most once per branch.
        sampler: the sampler's own cfg, used where no CFG rule is given.
        position, following, gradient_context, watch: as in `Step`.
        """
        cfg = self.cfg(level, sampler)
        branches = {POSITIVE: evaluate(POSITIVE)}
        if bool((cfg != 1.0).any()):
            branches[NEGATIVE] = evaluate(NEGATIVE)
        for branch in self.needs(level, cfg) - branches.keys():
            branches[branch] = evaluate(branch)
        step = Step(x, level, branches, cfg, position, following, gradient_context, watch)
        return self.steer(combine(step), step, Memory() if memory is None else memory)


def combine(step: Step) -> Tensor:
    """Classifier-free guidance at the step's weight; the positive branch itself, bit for bit, where the weight is 1."""
    rule = CFG()
    if NEGATIVE not in step.branches or not rule.needs(step.level, step.cfg):
        return step.branches[POSITIVE]
    return step.branches[POSITIVE] + rule.displacement(step, None)[0]


def overlap(first: tuple[float, float], second: tuple[float, float]) -> bool:
    """Whether two half-open intervals (end, start] in sigma share a noise level. Each is (start, end)."""
    return min(first[0], second[0]) > max(first[1], second[1])


def uniform(values: Tensor) -> float | None:
    """The one value that all samples share, or None."""
    first = float(values[0])
    return first if all(math.isclose(first, float(v), rel_tol=1e-12) for v in values) else None
