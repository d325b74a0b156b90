"""The plan of one patched MODEL: which rules, with which guides. Kept on the ModelPatcher, so that clones carry it.

A plan is a frozen value under one attachment key. Adding a component to a MODEL makes a clone with a longer plan; the
MODEL it came from, and every other branch of the graph that uses it, stay as they were.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from comfy.model_patcher import ModelPatcher

from ...guidance.compose import Guidance, overlap
from ...guidance.objective import Objective
from ...guidance.rules.cfg import CFG
from ...guidance.schedule import ALWAYS, Interval, Product, Schedule
from ..common.decoders import Decoder
from ..common.keys import KEY
from ..common.noise_levels import ModelPositions
from ..models.guides import LoadedGuide
from .targets import Target


@dataclass(frozen=True, eq=False)
class PlannedGuide:
    """A second network of the plan. Its ModelPatcher is held by the host under `key` and looked up at run time."""

    name: str
    positive: list | None = None  # CONDITIONING of its own; None = the sampler's positive
    source: tuple = ()  # what it was made from, to recognise the same guide connected twice
    alike: bool = True  # whether it and the MODEL read their network alike when it was added

    @property
    def key(self) -> str:
        return f"{KEY}/{self.name}"


@dataclass(frozen=True, eq=False)
class GradientRequest:
    """A gradient of the plan: what is asked of which networks. The host holds these; they are looked up at run time."""

    objective: Objective
    target: Target
    decoder: Decoder
    key: str = ""  # where the guide's ModelPatchers are held; empty without a guide
    guide: LoadedGuide | None = None  # what it was made from, to recognise the same guide connected twice


@dataclass(frozen=True, eq=False)
class Plan:
    """What the engine of a MODEL does, in chain order."""

    guidance: Guidance = field(default_factory=Guidance)
    guides: tuple[PlannedGuide, ...] = ()
    gradients: tuple[GradientRequest, ...] = ()
    negative: list | None = None  # CONDITIONING of Negative in Attention's own; None = the sampler's negative
    empty: list | None = None  # CONDITIONING without words, for rules that compare with it


def plan_of(model: ModelPatcher) -> Plan:
    """The plan of a MODEL; an empty one if it carries no component."""
    return model.get_attachment(KEY) or Plan()


def guides_of(model: ModelPatcher) -> dict[PlannedGuide, ModelPatcher]:
    """The plan's guides and their ModelPatchers, as this MODEL (perhaps a clone) holds them now."""
    return {guide: model.get_additional_models_with_key(guide.key)[0] for guide in plan_of(model).guides}


def check_combines(combines: tuple[CFG, ...], positions: ModelPositions) -> None:
    """Raise ValueError if two CFG rules act at the same noise level."""
    spans = [_span(rule.schedule.resolve(positions)) for rule in combines]
    for index, span in enumerate(spans):
        if any(overlap(span, other) for other in spans[:index]):
            raise ValueError(
                "Two CFG Combine (or CFG + Autoguidance, Learned Weight) nodes on this MODEL act at the same noise "
                "levels, so it is unclear which weight is meant. Give them intervals that do not overlap, or remove "
                "one."
            )


def _span(schedule: Schedule) -> tuple[float, float]:
    """The widest interval (start, end) in VE sigma outside which a resolved schedule is off."""
    if isinstance(schedule, Interval):
        return schedule.start, schedule.end
    parts = [_span(part) for part in schedule.parts] if isinstance(schedule, Product) else []
    return min((s for s, _ in parts), default=float("inf")), max((e for _, e in parts), default=0.0)


def schedule_within(schedule: Schedule | None, interval: Interval) -> Schedule:
    """The schedule of a node: its SCHEDULE input, if connected, inside its interval."""
    inside = ALWAYS if interval.everywhere else interval
    if schedule is None:
        return inside
    return schedule if inside is ALWAYS else schedule * inside
