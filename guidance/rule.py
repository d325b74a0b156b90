"""Rule: one guidance rule as frozen data, and the register that finds every rule by itself.

The law: everything happens in denoised (x0) space. The sampler's own step gives D; every active term adds a
displacement, so terms commute and add. A transform changes the estimate as a whole and depends on order:

    D' = D + sum_i displacement_i of the networks' own estimates     then bounds (Clamp)
           + sum_j displacement_j of gradients                       then the other transforms, in chain order

A weigher changes the weight of CFG, with which D is combined, from what the run has shown so far. What acts within
the network changes what its estimates are.

A rule is one frozen dataclass in one file of `rules/`: its equation in the docstring with the paper's number, its
fields with their words beside the default, the branches it needs, and one method. All that such a file usually names
can be imported from here.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, fields, replace
from enum import IntEnum
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from .asked import Asked
from .branch import EMPTY, NEGATIVE, POSITIVE, Branch
from .noise_level import NoiseLevel, expand
from .region import Region
from .register import Register
from .schedule import ALWAYS, Positions, Schedule
from .step import Step

__all__ = [
    "EMPTY", "NEGATIVE", "POSITIVE", "Branch", "GuideTerm", "NoiseLevel", "Region", "Rule", "Schedule", "Stage", "Step",
    "Term", "Transform", "Weigher", "Within", "exactly_one", "expand", "flag", "is_one", "param", "region_field",
    "reuse_param", "rule", "rules", "schedule_field",
]  # fmt: skip

Sees = Literal["sample", "channels", "space"]  # numbers in any order; also which is of which channel; where they lie


class Stage(IntEnum):
    """Where in the law a rule acts. Within a stage terms add up, and transforms follow the chain."""

    NETWORKS = 0  # differences of what networks estimate
    BOUNDS = 1  # what an estimate may hold: the papers bound it before guides push it (2105.05233 `clip_denoised`)
    GRADIENTS = 2  # what guides and losses ask for
    WHOLE = 3  # the guided estimate


@dataclass(frozen=True)
class Rule:
    """What every rule has. Subclass `Term`, `Transform`, `Weigher` or `Within`, not this."""

    name: ClassVar[str]
    stage: ClassVar[Stage]
    paper: ClassVar[str]
    off: ClassVar[dict[str, Any]]  # the settings at which the rule does nothing
    uses: ClassVar[frozenset[Branch]]  # the main network's branches that it may ever need
    neutral: ClassVar[float] = 0.0  # the strength that is off: 0 of a scale, 1 of a weight
    sees: ClassVar[Sees] = "sample"
    compares: ClassVar[bool] = True  # whether it moves an estimate only by how branches differ
    with_cfg: ClassVar[bool] = False  # whether it does nothing where there is no CFG (weight 1)
    adaptive: ClassVar[bool] = False  # whether it chooses its strength by itself, from its state

    def __post_init__(self) -> None:
        """Raises ValueError when a number is outside the range of its `param`."""
        check_ranges(self)

    @property
    def schedule(self) -> Schedule:
        """How strong over noise; every rule has it as its field `schedule`."""
        raise NotImplementedError

    @property
    def region(self) -> Region | None:
        """Where in the picture it acts, as a field of the rules that can be held to a part; None = everywhere."""
        return None

    @property
    def title(self) -> str:
        """Its name in sentences."""
        return self.name.replace("_", " ").capitalize()

    @property
    def inert(self) -> bool:
        """Whether its settings are those of `off`."""
        return all(getattr(self, name) == value for name, value in self.off.items())

    @property
    def label(self) -> str:
        """Its name in plots and tables."""
        guide = getattr(self, "guide", None)
        return self.name.replace("_", " ") + (f" ({guide})" if guide else "")

    @property
    def reads_prompt(self) -> bool:
        """Whether it must know what each picture is asked to be (`Step.asked`)."""
        return False

    def check_prompt(self, asked: Asked) -> None:
        """Raises ValueError, in words, where it cannot read what pictures are asked to be."""

    def acts(self, strength: Tensor, cfg: Tensor) -> bool:
        """Whether the rule does anything for any sample. strength: its own [B]. cfg: the weight of CFG, [B]."""
        active = strength != self.neutral
        return bool((active & (cfg != 1.0) if self.with_cfg else active).any())

    def needs(self, turn: int, kept: bool) -> frozenset[Branch]:
        """The branches that must be evaluated where the rule acts.

        turn: at how many positions of the run before this one it has acted. kept: whether it has a state.
        """
        return self.uses

    def resolve(self, positions: Positions) -> Rule:
        """The same rule with its schedule in VE sigma."""
        return replace(self, **{"schedule": self.schedule.resolve(positions)})

    def over(self, levels: NoiseLevel) -> Rule:
        """The same rule in a run over these noise levels [N + 1], in the sampler's order."""
        return self

    def strength(self, level: NoiseLevel) -> Tensor:
        """The effective weight (1 = off) or scale (0 = off) per sample, float64 [B]: what a plot shows.

        The law asks it once in an evaluation and hands it over as `Step.strength`. Here: where `off` names one number,
        the schedule leads from its value there to the rule's own; otherwise the rule is on as the schedule says.
        Of an adaptive rule it is what that begins with, and neutral exactly where it is off.
        """
        if len(self.off) != 1:
            return self.switch(level)
        amount = getattr(self, *self.off)
        return self.scheduled(self.neutral if amount is None else amount, self.schedule(level))  # None: not the rule's

    def shown(self, level: NoiseLevel) -> Tensor:
        """What a curve shows over noise, float64 [B]: the strength; of an adaptive rule how much of it may act."""
        return self.schedule(level) if self.adaptive else self.strength(level)

    def scheduled(self, amount: float | Tensor, share: Tensor) -> Tensor:
        """A weight or scale (or one per sample [B]) of which the schedule lets a share [B] act, float64 [B]."""
        return exactly_one(1.0 + (amount - 1.0) * share) if self.neutral else amount * share

    def switch(self, level: NoiseLevel) -> Tensor:
        """The schedule itself, or 0 where the settings are off: the strength of a rule that is on or off. [B]"""
        return torch.zeros_like(level.b) if self.inert else self.schedule(level)

    def choose(self, x: Tensor, level: NoiseLevel, position: int, state: Any) -> Tensor:
        """The strength of an adaptive rule in one evaluation, [B] on any device.

        x: [B, ...] the noisy input, not looked at without a state. position: as in `Step`.
        """
        return self.strength(level)

    def explain(self) -> str:
        """One line in words for a report. Here: the title and every number."""
        numbers = [(f.name, getattr(self, f.name)) for f in fields(self) if "min" in f.metadata]
        return f"{self.title}: " + ", ".join(f"{name.replace('_', ' ')} {value:g}" for name, value in numbers)


class Term(Rule):
    """A rule that adds a displacement to the denoised estimate."""

    stage = Stage.NETWORKS

    def displacement(self, step: Step, state: Any) -> tuple[Tensor, Any]:
        """The displacement [B, ...] and the state after it. `state` is None at the start of a run.

        Asked only where the rule acts; the law keeps it out everywhere else.
        """
        raise NotImplementedError


class GuideTerm(Term):
    """A term that compares the main network with a guide, and may keep the difference for some noise levels."""

    @property
    def guide(self) -> str:
        """The guide's name among the branches: a field."""
        raise NotImplementedError

    @property
    def reuse(self) -> int:
        """The field made by `reuse_param()`."""
        raise NotImplementedError

    @property
    def branch(self) -> Branch:
        """The guide's."""
        return Branch(network=self.guide)

    def difference(self, step: Step, kept: Tensor | None) -> Tensor:
        """D_main - D_guide [B, ...]; where the guide is not evaluated, the one that was kept."""
        if self.branch in step.branches:
            return step.branches[POSITIVE] - step.branches[self.branch]
        assert kept is not None, "asked for the guide where nothing is kept"
        return kept

    def needs(self, turn: int, kept: bool) -> frozenset[Branch]:
        fresh = turn % self.reuse == 0 or not kept
        return self.uses | {self.branch} if fresh else self.uses


class Transform(Rule):
    """A rule that changes the guided estimate as a whole."""

    stage = Stage.WHOLE

    def transform(self, denoised: Tensor, step: Step, state: Any) -> tuple[Tensor, Any]:
        """The changed estimate [B, ...] and the state after it. `state` is None at the start of a run.

        Asked only where the rule acts, as a displacement is.
        """
        raise NotImplementedError


class Weigher(Rule):
    """A rule that changes the weight of CFG in every evaluation. It looks on where there is CFG, and adds nothing."""

    stage = Stage.NETWORKS
    adaptive = True
    alone: ClassVar[bool] = False  # whether the sampler's own cfg is not used beside it

    def weigh(self, cfg: Tensor, chosen: Tensor) -> Tensor:
        """The weight of CFG with this rule, from the weight without it and what it has chosen, float64 [B] each."""
        raise NotImplementedError

    def learn(self, step: Step, state: Any) -> Any:
        """The state after an evaluation. `state` is that before it, None at the start of a run."""
        raise NotImplementedError


class Within(Rule):
    """A rule that acts within the main network, while it is evaluated: the law finds D as the rule has made it.

    No file of `rules/` has one: each needs a way of its own into the networks (host/negative).
    """

    stage = Stage.NETWORKS
    uses = frozenset()


def is_one(weight: float) -> bool:
    """Whether a weight is off: 1 up to rounding, by ComfyUI's own measure (comfy/samplers.py, sampling_function)."""
    return math.isclose(weight, 1.0)


def exactly_one(weights: Tensor) -> Tensor:
    """The same weights with 1 itself where `is_one` says so. float64 [B]."""
    return torch.where((weights - 1.0).abs() <= 1e-9 * weights.abs().clamp_min(1.0), 1.0, weights)


def param(default: Any, doc: str, *, low: float, high: float, step: float = 0.01, advanced: bool = False) -> Any:
    """A number of a rule that people set: its default, what it does, its range, the step of its widget, and whether
    few people need it."""
    return field(default=default, metadata={"doc": doc, "min": low, "max": high, "step": step, "advanced": advanced})


def flag(doc: str) -> Any:
    """A choice of a rule that few people need: off, unless it is switched on; what it does."""
    return field(default=False, metadata={"doc": doc})


def reuse_param() -> Any:
    """At how many noise levels a guide's difference is used."""
    return param(
        1, "Evaluate the guide at every so many noise levels, and keep its difference in between. 1 = at every one.",
        low=1, high=16, step=1, advanced=True,
    )  # fmt: skip


def schedule_field() -> Any:
    """The schedule field that every rule has."""
    return field(default=ALWAYS)


def region_field() -> Any:
    """The field of a rule that can be held to a part of the picture."""
    return field(default=None, kw_only=True, metadata={"doc": "Where in the picture it acts; None = everywhere."})


def check_ranges(checked: Rule) -> None:
    """Raise ValueError when a number of the rule is outside the range of its `param`."""
    for f in fields(checked):
        value = getattr(checked, f.name)
        if "min" in f.metadata and value is not None and not f.metadata["min"] <= value <= f.metadata["max"]:
            raise ValueError(
                f"{checked.title}: {f.name} is {value:g}; it can be {f.metadata['min']:g} to {f.metadata['max']:g}."
            )


rule: Register[Rule] = Register("rule", f"{__package__}.rules")  # the decorator of every rule class


def rules() -> dict[str, type[Rule]]:
    """Every rule of the package `rules`, by name."""
    return rule.all()
