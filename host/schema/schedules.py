"""From the widgets of the schedule node to a schedule, with every mistake answered in words."""

from __future__ import annotations

import math
from itertools import pairwise

from ...guidance.schedule import Curve, Interval, Schedule, Unit, ramp
from ..common.errors import quoted
from .inputs import LARGEST_SIGMA, UNITS, interval_problem

SHAPES = ["linear", "cosine", "interval", "points"]
LARGEST_STRENGTH = 10.0
SMALLEST_SIGMA = 1e-6  # curves run along log sigma, which has no 0


def make_schedule(
    shape: str, unit: Unit, start: float, end: float, start_strength: float, end_strength: float, points: str
) -> Schedule:
    """The schedule that the widgets describe. Raises ValueError with `schedule_problem`'s sentence if there is none."""
    problem = schedule_problem(shape, unit, start, end, points)
    if problem:
        raise ValueError(problem)
    if shape == "points":
        return Curve(tuple(_above_zero(p, v, unit) for p, v in parse_points(points)), unit)
    if shape == "interval":
        return Interval(start, end, unit)
    first, last = (max(v, SMALLEST_SIGMA) if unit == "sigma" else v for v in (start, end))
    return ramp(start_strength, end_strength, first, last, unit, cosine=shape == "cosine")


def schedule_problem(
    shape: str | None, unit: str | None, start: float | None, end: float | None, points: str | None
) -> str | None:
    """What is wrong with the widgets, in words, or None. A linked value is None here and is judged when it runs."""
    if shape is not None and shape not in SHAPES:
        return f"shape is {quoted(shape)}; it can be {', '.join(SHAPES)}."
    if shape is None or unit is None or unit not in UNITS:
        return interval_problem(unit, None, None)
    if shape != "points":
        return interval_problem(unit, start, end)
    return None if points is None else _points_problem(points, unit)


def _points_problem(text: str, unit: str) -> str | None:
    try:
        positions = [position for position, _ in parse_points(text)]
    except ValueError as error:
        return str(error)
    highest = 1.0 if unit == "percent" else LARGEST_SIGMA
    outside = next((position for position in positions if not 0.0 <= position <= highest), None)
    if outside is not None:
        way = " For larger numbers choose unit = sigma." if unit == "percent" else ""
        return f"points has the position {outside:g}, outside 0 to {highest:g} in {unit}.{way}"
    steps = pairwise(positions if unit == "percent" else [-position for position in positions])
    wrong = next((i for i, (first, second) in enumerate(steps) if first > second), None)
    if wrong is None:
        return None
    order = "rise from 0 (noisy) to 1 (clean)" if unit == "percent" else "fall from noisy to clean"
    return f"points has position {positions[wrong]:g} before {positions[wrong + 1]:g}; in {unit} they must {order}."


def parse_points(text: str) -> list[tuple[float, float]]:
    """"0: 1, 0.5: 0.2" -> [(0.0, 1.0), (0.5, 0.2)]. Raises ValueError with what came and what is allowed."""
    found = [_point(part.strip()) for part in text.replace("\n", ",").split(",") if part.strip()]
    if len(found) < 2:
        raise ValueError(f"points has {len(found)} point(s); a curve needs two or more, for instance 0: 1, 1: 0.")
    return found


def _point(pair: str) -> tuple[float, float]:
    try:
        position, strength = (float(number) for number in pair.split(":"))
    except ValueError:
        position = strength = math.nan
    if not (math.isfinite(position) and math.isfinite(strength)):
        raise ValueError(
            f"points has {quoted(pair)}; each point is position: strength, two numbers, for instance 0.3: 1."
        )
    if abs(strength) > LARGEST_STRENGTH:
        raise ValueError(
            f"points has the strength {strength:g}; it can be {-LARGEST_STRENGTH:g} to {LARGEST_STRENGTH:g}."
        )
    return position, strength


def _above_zero(position: float, strength: float, unit: Unit) -> tuple[float, float]:
    return (max(position, SMALLEST_SIGMA) if unit == "sigma" else position), strength
