"""Guidance: an ordered tuple of rules, and the law that joins them."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from .asked import Asked
from .branch import NEGATIVE, POSITIVE, Branch
from .noise_level import NoiseLevel, expand
from .objective import GradientContext
from .rule import Rule, Term, Transform, Weigher, Within, exactly_one
from .rules.cfg import CFG
from .schedule import Positions
from .step import Step, StepWatch

Evaluate = Callable[[Branch], Tensor]


@dataclass
class Memory:
    """The states of the rules during one run, and how often each has acted.

    A sampler may evaluate one noise level several times (Heun, SDE). A state therefore moves on only when the run has
    moved on to another position, and every evaluation at one position starts from the same state. What a sampler
    evaluates between two levels, on its way to the next, leaves the state that the level itself has given.
    """

    position: int = 0
    between: bool = False  # whether the evaluation is between this level and the next
    before: dict[int, Any] = field(default_factory=dict)
    after: dict[int, Any] = field(default_factory=dict)
    turns: Counter[int] = field(default_factory=Counter)  # at how many earlier positions a rule has acted
    acted: set[int] = field(default_factory=set)  # which rules have acted at this position

    def move_to(self, position: int, between: bool = False) -> None:
        """Start (or repeat) the evaluation at a position: of the noise level in the sampler's list, 1 = the first."""
        self.between = between
        if position != self.position:
            self.position = position
            self.before = dict(self.after)
            self.turns.update(self.acted)
            self.acted.clear()

    def keep(self, index: int, state: Any) -> None:
        """A rule has acted at this position, and this is its state."""
        if not (self.between and index in self.acted):
            self.after[index] = state
        self.acted.add(index)


@dataclass(frozen=True)
class Acting:
    """A rule that does something in an evaluation."""

    index: int  # its place in the chain
    rule: Rule
    strength: Tensor  # [B]
    needs: frozenset[Branch]

    def sees(self, step: Step) -> Step:
        """The step as this rule sees it: with its own strength, and the branches that it asked for."""
        return replace(step, strength=self.strength, branches={b: step.branches[b] for b in self.needs})


@dataclass(frozen=True)
class Guidance:
    """Rules in chain order. The law takes them stage by stage, and within a stage as they are chained."""

    rules: tuple[Rule, ...] = ()

    def resolve(self, positions: Positions) -> Guidance:
        """The same guidance with every schedule in VE sigma."""
        return Guidance(tuple(rule.resolve(positions) for rule in self.rules))

    def over(self, levels: NoiseLevel) -> Guidance:
        """The same guidance in a run over these noise levels [N + 1], in the sampler's order."""
        return Guidance(tuple(rule.over(levels) for rule in self.rules))

    @cached_property
    def combines(self) -> tuple[CFG, ...]:
        """The CFG rules: they set the weight with which the positive and the negative branch are combined."""
        return tuple(rule for rule in self.rules if isinstance(rule, CFG))

    @property
    def regional(self) -> bool:
        """Whether CFG is held to a part of the picture."""
        return any(rule.region is not None for rule in self.combines)

    @cached_property
    def weighers(self) -> tuple[tuple[int, Weigher], ...]:
        """The rules that change the weight of CFG, with their places in the chain: those that set it come first."""
        placed = [(index, rule) for index, rule in enumerate(self.rules) if isinstance(rule, Weigher)]
        return tuple(sorted(placed, key=lambda pair: not pair[1].alone))

    def choose(self, x: Tensor, level: NoiseLevel, memory: Memory) -> dict[int, Tensor]:
        """What the adaptive rules choose for one evaluation, by their places in the chain: float64 [B] each.

        This waits for the device, at the start of an evaluation, where what was seen before it is there.
        """
        adaptive = [(index, rule) for index, rule in enumerate(self.rules) if rule.adaptive]
        found = {i: rule.choose(x, level, memory.position, memory.before.get(i)) for i, rule in adaptive}
        return {index: strength.cpu().to(level.b.dtype) for index, strength in found.items()}

    def cfg(self, level: NoiseLevel, sampler: float = 1.0, chosen: Mapping[int, Tensor] | None = None) -> Tensor:
        """The weight of CFG per sample, float64 [B]: `sampler` where no rule sets it, else what the rules say.

        Rules with intervals of their own add up; where intervals do not overlap, that is the one in charge.
        chosen: what `choose` gave; None for what a run begins with.
        """
        return self.cfg_at(level, chosen)(sampler)

    def cfg_at(self, level: NoiseLevel, chosen: Mapping[int, Tensor] | None = None) -> Callable[[float], Tensor]:
        """`cfg` for any weight of the sampler: what the rules say is asked once."""
        start = torch.ones_like(level.b)
        parts = [(rule, rule.schedule(level)) for rule in self.combines]
        own = bool(parts) or any(rule.alone for _, rule in self.weighers)
        choices = self.choose(level.b, level, Memory()) if chosen is None else chosen

        def weight(sampler: float) -> Tensor:
            found = sum((rule.weights(s, sampler) - 1.0 for rule, s in parts), start=start) if own else start * sampler
            for index, rule in self.weighers:
                found = rule.weigh(found, choices[index])
            return exactly_one(found)

        return weight

    def acting(
        self, level: NoiseLevel, cfg: Tensor, memory: Memory, chosen: Mapping[int, Tensor] | None = None
    ) -> tuple[Acting, ...]:
        """The rules beside CFG that do something at this level, in the order of the law, and what they need."""
        found = []
        for index, rule in self._ordered:
            strength = rule.strength(level)
            if rule.acts(strength, cfg):
                needs = rule.needs(memory.turns[index], memory.before.get(index) is not None)
                found.append(Acting(index, rule, (chosen or {}).get(index, strength), needs))
        return tuple(found)

    @cached_property
    def _ordered(self) -> tuple[tuple[int, Rule], ...]:
        """The rules beside CFG with their places in the chain, stage by stage."""
        placed = [(index, rule) for index, rule in enumerate(self.rules) if not isinstance(rule, CFG)]
        return tuple(sorted(placed, key=lambda pair: pair[1].stage))

    def steer(self, denoised: Tensor, step: Step, memory: Memory, acting: tuple[Acting, ...]) -> Tensor:
        """The law: add what every acting term moves the combined estimate by, or transform it, in order. [B, ...]"""
        held = self._cfg_region(step)
        total, watch = denoised if held is None else step.branches[POSITIVE].lerp(denoised, held), step.watch
        if watch is not None:
            watch.combined(total, step)
        for one in (one for one in acting if not isinstance(one.rule, Within)):
            before, kept, change = total, memory.before.get(one.index), None
            if isinstance(one.rule, Weigher):
                state = one.rule.learn(one.sees(step), kept)
            elif isinstance(one.rule, Term):
                change, state = one.rule.displacement(one.sees(step), kept)
                change = _inside(one.rule, change, held)
                total = before + change
            else:
                assert isinstance(one.rule, Transform), "a rule is one of four"
                total, state = one.rule.transform(before, one.sees(step), kept)
                region = one.rule.region
                total = total if region is None else before.lerp(total, region.over(before))
            memory.keep(one.index, state)
            if watch is not None and one.rule.adaptive:
                watch.chose(one.index, one.strength)
            if watch is not None and not isinstance(one.rule, Weigher):
                watch.moved(one.index, total - before if change is None else change)
        if watch is not None:
            watch.guided_to(total)
        return total

    def _cfg_region(self, step: Step) -> Tensor | None:
        """Where CFG acts, [B, 1, ...] with 1 wherever it does; None for everywhere. One CFG rule acts at a level."""
        found = None
        for rule, region in ((rule, rule.region) for rule in self.combines if rule.region is not None):
            active = rule.schedule(step.level) != 0.0
            if bool((active & (step.cfg != 1.0)).any()):
                mask = torch.where(expand(active, step.x) != 0, region.over(step.x), 1.0)
                found = mask if found is None else found * mask
        return found

    def denoise(
        self, evaluate: Evaluate, x: Tensor, level: NoiseLevel, sampler: float = 1.0, memory: Memory | None = None,
        *, position: int = 0, following: NoiseLevel | None = None, gradient_context: GradientContext | None = None,
        watch: StepWatch | None = None, asked: Asked | None = None,
    ) -> Tensor:
        """The guided estimate from bare branches, evaluating only what is needed.

        evaluate: gives the denoised estimate [B, ...] of a branch at (x, level); asked at most once per branch.
        sampler: the sampler's own cfg, used where no CFG rule is given.
        position, following, gradient_context, watch, asked: as in `Step`.
        """
        memory = Memory() if memory is None else memory
        chosen = self.choose(x, level, memory)
        cfg = self.cfg(level, sampler, chosen)
        branches = {POSITIVE: evaluate(POSITIVE)}
        if bool((cfg != 1.0).any()):
            branches[NEGATIVE] = evaluate(NEGATIVE)
        acting = self.acting(level, cfg, memory, chosen)
        for branch in needs_of(acting) - branches.keys():
            branches[branch] = evaluate(branch)
        step = Step(x, level, branches, cfg, position or memory.position, following, gradient_context, watch, asked)
        return self.steer(combine(step), step, memory, acting)


def _inside(rule: Rule, change: Tensor, held: Tensor | None) -> Tensor:
    """What a term adds inside its region; if it changes CFG's push (`with_cfg`), inside that of CFG too. [B, ...]"""
    change = change if rule.region is None else change * rule.region.over(change)
    return change if held is None or not rule.with_cfg else change * held


def needs_of(acting: tuple[Acting, ...]) -> frozenset[Branch]:
    """All branches that these rules need."""
    return frozenset().union(*(one.needs for one in acting))


def combine(step: Step) -> Tensor:
    """Classifier-free guidance at the step's weight; the positive branch itself, bit for bit, where the weight is 1."""
    if NEGATIVE not in step.branches or not bool((step.cfg != 1.0).any()):
        return step.branches[POSITIVE]
    return step.branches[POSITIVE] + CFG().displacement(step, None)[0]


def split(total: float, mix: float) -> tuple[float, float]:
    """The weights of CFG and of autoguidance for a total weight and a mix (2406.02507 Eq. 6).

    mix 0 is CFG alone, mix 1 autoguidance alone: w_cfg = (1 - mix)(total - 1) + 1, w_auto = mix (total - 1) + 1.
    """
    if not 0.0 <= mix <= 1.0:
        raise ValueError(f"mix is {mix:g}; it goes from 0 (CFG alone) to 1 (autoguidance alone).")
    return (1.0 - mix) * (total - 1.0) + 1.0, mix * (total - 1.0) + 1.0


def each_at_its_own(denoised: Tensor, step: Step, used: float) -> Tensor:
    """The host's combination [B, ...] of all samples at the weight `used`, with each at the step's own instead."""
    difference = step.branches[POSITIVE] - step.branches[NEGATIVE]
    return denoised + expand(step.cfg - used, difference) * difference


def overlap(first: tuple[float, float], second: tuple[float, float]) -> bool:
    """Whether two half-open intervals (end, start] in sigma share a noise level. Each is (start, end)."""
    return min(first[0], second[0]) > max(first[1], second[1])


def common_value(values: Tensor) -> float | None:
    """The one value that all samples share, or None."""
    first = float(values[0])
    return first if all(math.isclose(first, float(v), rel_tol=1e-12) for v in values) else None
