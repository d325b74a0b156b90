"""Where experts hand over, as a node's widgets say it."""

from __future__ import annotations

import math
from collections.abc import Sequence

from ...guidance.noise_schedule import NAMES, NoiseSchedule, noise_schedule
from ...guidance.routing import Experts, equal_ranges
from .guides import LoadedGuide, switch

ADM = "adm linear"
OWN = "own schedule"
KNOWN_SCHEDULES = [ADM if name == "linear" else name for name in NAMES]
SCHEDULES = [*KNOWN_SCHEDULES, OWN]
DEFAULT_EDGES = "500"
TIMESTEPS, SIGMA, SNR = "timesteps", "sigma", "snr"
EDGES_FROM = [*SCHEDULES, TIMESTEPS, SIGMA, SNR]


def expert_switch(
    guides: Sequence[LoadedGuide], edges_from: str, edges: str, schedule: str, handover: float
) -> LoadedGuide:
    """Guides that take turns, the first in charge of the cleanest pictures.

    edges_from: one of EDGES_FROM: equal ranges of a schedule's timesteps, or what the numbers of `edges` are.
    edges: numbers with commas, read where edges_from is timesteps, sigma or snr. schedule: counts the timesteps.

    Raises:
        ValueError: edges that do not part the guides, or guides that cannot take turns, in words.
    """
    counting = _counting(edges_from, schedule)
    counted = None if counting is None else _schedule(counting, guides)
    return switch(guides, _experts(len(guides), edges_from, edges, counted, handover))


def edges_problem(
    guides: int | None, edges_from: str | None, edges: str | None, schedule: str | None, handover: float | None
) -> str | None:
    """What is wrong with the widgets, in words; None if nothing is, or if a value is linked and not known yet.

    guides: how many are connected.
    """
    for word, value, options in (("edges_from", edges_from, EDGES_FROM), ("schedule", schedule, SCHEDULES)):
        if value is not None and value not in options:
            return f"{word} is {value!r}; it can be {', '.join(options)}."
    if handover is not None and not 0 <= handover < math.inf:
        return f"handover is {handover:g}; it must be 0 (at once) or a width in ln sigma."
    if guides is None or edges_from is None or edges is None or schedule is None or handover is None:
        return None
    counting = _counting(edges_from, schedule)
    if counting == edges_from == OWN:
        return None
    try:
        if counting == OWN:  # not known before it is loaded; the edges' number and order can be judged without it
            _experts(guides, edges_from, edges, None, 0.0)
        else:
            _experts(guides, edges_from, edges, None if counting is None else _schedule(counting, ()), handover)
    except ValueError as error:
        return str(error)
    return None


def _experts(
    count: int, edges_from: str, edges: str, counted: NoiseSchedule | None, handover: float
) -> Experts:
    if edges_from in SCHEDULES and counted is not None:
        return equal_ranges(count, counted, handover)
    numbers = _numbers(edges)
    if len(numbers) != count - 1:
        raise ValueError(
            f"{count} guides need {count - 1} edges between them; edges has {len(numbers)}: {edges!r}. Write one "
            f"number for each hand-over from a guide to the next, from clean to noisy, with commas."
        )
    return Experts(_sigmas(numbers, edges_from, counted), handover)


def _counting(edges_from: str, schedule: str) -> str | None:
    """The name of the schedule that counts the timesteps; None where there are none."""
    return None if edges_from in (SIGMA, SNR) else schedule if edges_from == TIMESTEPS else edges_from


def _numbers(edges: str) -> list[float]:
    found = []
    for part in edges.replace(";", ",").split(","):
        if not part.strip():
            continue
        try:
            number = float(part)
        except ValueError:
            number = math.nan
        if not (math.isfinite(number) and number > 0):
            raise ValueError(f"edges has {part.strip()!r}; it must be numbers above 0 with commas, such as 250, 500.")
        found.append(number)
    return found


def _sigmas(numbers: list[float], kind: str, counted: NoiseSchedule | None) -> tuple[float, ...]:
    """VE sigmas that rise. An SNR falls where sigma rises, so it may be written in either order."""
    if kind == SNR:
        numbers = sorted(numbers, reverse=True) if numbers == sorted(numbers) else numbers
        numbers, shown = [number**-0.5 for number in numbers], numbers
    else:
        shown = numbers
    if numbers != sorted(set(numbers)):
        order = "one way, from the first guide's edge on" if kind == SNR else "from clean to noisy"
        raise ValueError(
            f"edges is {', '.join(f'{number:g}' for number in shown)}; {kind} must go {order}, each number once."
        )
    return tuple(numbers) if counted is None else tuple(_edge(number, counted) for number in numbers)


def _edge(timestep: float, schedule: NoiseSchedule) -> float:
    if timestep != int(timestep) or not 1 <= timestep < len(schedule):
        raise ValueError(
            f"edges has the timestep {timestep:g}; the schedule {schedule.name!r} can be parted at whole numbers from "
            f"1 to {len(schedule) - 1}: the noisier guide's first timestep."
        )
    return schedule.below(int(timestep))


def _schedule(name: str, guides: Sequence[LoadedGuide]) -> NoiseSchedule:
    if name != OWN:
        return noise_schedule("linear" if name == ADM else name)
    own = [member.schedule for guide in guides for member in guide.guide.members if member.schedule is not None]
    if not own:
        raise ValueError("None of the guides has a noise schedule of its own; choose a named one.")
    return own[0]
