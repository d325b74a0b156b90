"""From the widgets of the schedule node to a schedule, with every mistake answered in words."""

from __future__ import annotations

from ...guidance.schedule import Curve, Interval, Schedule, Unit, ramp
from .inputs import interval_problem

SHAPES = ["linear", "cosine", "interval", "points"]
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
        return f"shape is {shape!r}; it can be {', '.join(SHAPES)}."
    if shape != "points":
        return interval_problem(unit, start, end)
    if points is None or unit is None:
        return None
    try:
        positions = [position for position, _ in parse_points(points)]
    except ValueError as error:
        return str(error)
    if positions != sorted(positions, reverse=unit == "sigma"):
        order = "rise from 0 (noisy) to 1 (clean)" if unit == "percent" else "fall from noisy to clean"
        return f"points has positions {', '.join(f'{p:g}' for p in positions)}; in {unit} they must {order}."
    if unit == "percent" and not 0.0 <= positions[0] <= positions[-1] <= 1.0:
        return f"points has a position outside 0 to 1 in percent: {', '.join(f'{p:g}' for p in positions)}."
    return None


def parse_points(text: str) -> list[tuple[float, float]]:
    """"0: 1, 0.5: 0.2" -> [(0.0, 1.0), (0.5, 0.2)]. Raises ValueError with what came and what is allowed."""
    pairs = [part for part in text.replace("\n", ",").split(",") if part.strip()]
    found = []
    for pair in pairs:
        try:
            position, strength = (float(number) for number in pair.split(":"))
        except ValueError:
            raise ValueError(
                f"points has {pair.strip()!r}; each point is position: strength, for instance 0.3: 1."
            ) from None
        found.append((position, strength))
    if len(found) < 2:
        raise ValueError(f"points has {len(found)} point(s); a curve needs two or more, for instance 0: 1, 1: 0.")
    return found


def _above_zero(position: float, strength: float, unit: Unit) -> tuple[float, float]:
    return (max(position, SMALLEST_SIGMA) if unit == "sigma" else position), strength
