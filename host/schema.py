"""From a rule's fields to the inputs of its node: a name, its words and its range are written once, in the rule."""

from __future__ import annotations

import math
from dataclasses import fields

from comfy_api.latest import io

from ..guidance.rule import Rule
from ..guidance.schedule import Interval, Schedule, Unit
from .plan import scheduled

ScheduleSocket = io.Custom("GUIDANCE_SCHEDULE")
UNITS = ["percent", "sigma"]


def inputs_of(rule: type[Rule]) -> list[io.Input]:
    """One number input per `param` of the rule, in the rule's order."""
    return [
        io.Float.Input(
            f.name, default=getattr(rule, f.name), min=f.metadata["min"], max=f.metadata["max"],
            step=f.metadata["step"], round=0.001, tooltip=f.metadata["doc"],
        )
        for f in fields(rule)
        if "min" in f.metadata
    ]


def interval_inputs() -> list[io.Input]:
    """Where a component acts: unit, noisy start, clean end, and a SCHEDULE socket."""
    return [
        io.Combo.Input(
            "unit", options=UNITS,
            tooltip="What start and end are: percent of the model's training timesteps (0 = pure noise, 1 = clean) or "
            "the model's own sigma (large = noisy).",
        ),
        io.Float.Input(
            "start", default=0.0, min=0.0, max=100000.0, step=0.01, round=0.0001,
            tooltip="Noisy end of the interval, included. In percent 0 is the beginning; in sigma it is the larger "
            "number.",
        ),
        io.Float.Input(
            "end", default=1.0, min=0.0, max=100000.0, step=0.01, round=0.0001,
            tooltip="Clean end of the interval, not included. In percent 1 is the end; in sigma it is the smaller "
            "number. Outside the interval the component is off and costs nothing.",
        ),
        ScheduleSocket.Input(
            "schedule", optional=True, tooltip="How strong the component is over noise (Guidance Schedule node)."
        ),
    ]


def schedule_of(unit: Unit, start: float, end: float, schedule: Schedule | None) -> Schedule:
    """The schedule that a node's interval inputs describe."""
    return scheduled(schedule, Interval(start, end, unit))


def interval_problem(unit: str | None, start: float | None, end: float | None) -> str | None:
    """What is wrong with interval widgets, in words; None if nothing is, or if a value is linked and not known yet."""
    if unit is not None and unit not in UNITS:
        return f"unit is {unit!r}; it can be {' or '.join(UNITS)}."
    if unit is None or start is None or end is None:
        return None
    if not (math.isfinite(start) and math.isfinite(end) and start >= 0.0 and end >= 0.0):
        return f"start is {start:g} and end is {end:g}; both must be 0 or more."
    if unit == "percent" and not start <= end <= 1.0:
        return (
            f"start is {start:g} and end is {end:g}; in percent, 0 <= start <= end <= 1 (0 = pure noise, 1 = clean). "
            f"For numbers above 1 choose unit = sigma."
        )
    if unit == "sigma" and start < end:
        return (
            f"start is {start:g} and end is {end:g}; in sigma the noisy start is the larger number. "
            f"Swap them, or choose unit = percent."
        )
    return None
