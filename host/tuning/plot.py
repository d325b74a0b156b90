"""The pictures of a search: what each parameter does to the judge, the front of two judges, and the strip."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch

from ..compare.sheet import Sheet, Words
from ..report.chart import COLOURS, GRID, INK, LEFT, QUIET, RIGHT, WIDTH, Canvas, round_step
from .problem import Problem
from .result import Candidate, Tuned, pictures_of
from .space import Dimension

ACROSS, HIGH, GAP, HEAD, FOOT = 3, 230, 54, 74, 44
BEST, OTHER, PASSED, FIRST = COLOURS[2], COLOURS[0], "#c92a2a", COLOURS[1]
Point = tuple[float, float, float, Candidate]  # x, y, half the bar of the spread


def draw_tuning(tuned: Tuned, problem: Problem) -> torch.Tensor:
    """A panel for each parameter, and first the front of several judges, as an IMAGE [1, H, 960, 3] in [0, 1]."""
    panels = [*(["front"] if len(problem.judges) > 1 else []), *problem.space]
    rows = -(-len(panels) // ACROSS)
    canvas = Canvas(HEAD + rows * (HIGH + GAP + FOOT))
    _legend(canvas, problem.judges[0].name, front=len(problem.judges) > 1)
    width = (WIDTH - LEFT - RIGHT + GAP) / ACROSS
    for place, panel in enumerate(panels):
        row, column = divmod(place, ACROSS)
        box = (LEFT + column * width, HEAD + row * (HIGH + GAP + FOOT) + 24)
        frame = (box[0], box[1], box[0] + width - GAP, box[1] + HIGH)
        if isinstance(panel, Dimension):
            share = tuned.importance.get(panel.name)
            title = panel.name + (f" (explains {share:.0%})" if share is not None else "")
            _panel(canvas, frame, title, _points(tuned, panel), _ticks(panel), panel.log, tuned.winner)
        else:
            title = f"{problem.judges[1].name} over {problem.judges[0].name}"
            _panel(canvas, frame, title, _front_points(tuned), None, False, tuned.winner)
    return canvas.picture()


def draw_rows(tuned: Tuned, size: int) -> torch.Tensor:
    """The winner, the settings that the MODEL came with and unguided, from the same new seeds, as an IMAGE.

    size: of the longest side of a picture, in pixels.
    """
    count = len(tuned.strip[0])
    names = ("best" if tuned.winner is not None else "as it came", "as it came", "unguided")
    rows = list(zip(names, tuned.strip, strict=True))[tuned.winner is None :]
    words = Words(("",) * count, tuple(name for name, _ in rows), below="The same new seeds in every row.")
    sheet = Sheet(words, (1, *tuned.strip[0].shape[1:]), size)
    for row, (_, pictures) in enumerate(rows):
        for column in range(count):
            sheet.put(column, row, pictures[column : column + 1])
    return sheet.picture()


def _legend(canvas: Canvas, name: str, front: bool) -> None:
    canvas.text(LEFT, 24, f"{name}: mean over the pictures, and its standard error; higher is better", INK, 15)
    x, came = float(LEFT), [("as it came", FIRST)] if front else []
    for words, colour in (("best", BEST), ("tried", OTHER), ("passes a limit", PASSED), *came):
        canvas.dot(x + 6, 50, 5, colour)
        canvas.text(x + 18, 50, words, QUIET, 14)
        x += 44 + 8 * len(words)
    canvas.text(x, 50, "small: stopped early", QUIET, 14)


def _points(tuned: Tuned, dimension: Dimension) -> list[Point]:
    """Of every candidate: where it lies, its mean and the mean's standard error."""
    found = []
    for candidate in tuned.candidates:
        if not math.isfinite(candidate.means[0]):
            continue
        value = candidate.values[dimension.name]
        if dimension.choices:
            value = next(i for i, choice in enumerate(dimension.choices) if choice.setting == value)
        error = _error(pictures_of(candidate.readings, candidate.judges)[0]) if candidate.whole else 0.0
        found.append((float(value), candidate.means[0], error, candidate))
    return found


def _front_points(tuned: Tuned) -> list[Point]:
    shown = [c for c in (tuned.first, *tuned.candidates) if all(map(math.isfinite, c.means[:2]))]
    return [(c.means[0], c.means[1], 0.0, c) for c in shown]


def _error(values: Sequence[float]) -> float:
    count = len(values)
    if count < 2:
        return 0.0
    mean = sum(values) / count
    return math.sqrt(sum((value - mean) ** 2 for value in values) / (count - 1) / count)


def _ticks(dimension: Dimension) -> list[tuple[float, str]]:
    if dimension.choices:
        return [(float(index), choice.heading) for index, choice in enumerate(dimension.choices)]
    low, high = dimension.low, dimension.high
    if dimension.log:
        return [(value, f"{value:.3g}") for value in (low, math.sqrt(low * high), high)]
    return [(value, f"{value:g}") for value in _steps(low, high, 5)]


def _steps(low: float, high: float, most: int) -> list[float]:
    step = round_step(high - low, most)
    first, last = math.ceil(low / step - 1e-6), math.floor(high / step + 1e-6)
    return [round(step * index, 9) for index in range(first, last + 1)]


def _panel(canvas: Canvas, frame, title: str, points: list[Point], ticks, log: bool, winner: Candidate | None) -> None:
    """Dots in a frame (left, top, right, bottom). ticks: of the horizontal axis with the first and the last value; None
    = as the points lie."""
    left, top, right, bottom = frame
    if not points:
        return
    xs = _span([x for x, *_ in points] if ticks is None else [x for x, _ in ticks] + [x for x, *_ in points])
    ys = _span([y + side * error for _, y, error, _ in points for side in (-1, 1)])

    def across(x: float) -> float:
        low, high, x = (math.log(v) for v in (*xs, x)) if log else (*xs, x)
        return left + 10 + (x - low) / (high - low) * (right - left - 20)

    def up(y: float) -> float:
        return bottom - 6 - (y - ys[0]) / (ys[1] - ys[0]) * (bottom - top - 12)

    canvas.text(left, top - 14, title, INK, 14)
    for value in _steps(*ys, 5):
        canvas.line([(left, up(value)), (right, up(value))], GRID)
        canvas.text(left - 6, up(value), f"{value:g}", QUIET, 12, "rm")
    for value, words in ticks or [(v, f"{v:g}") for v in _steps(*xs, 4)]:
        canvas.text(across(value), bottom + 14, words[:12], QUIET, 12, "mm")
    for x, y, error, candidate in sorted(points, key=lambda point: point[3] is winner):
        colour = _colour(candidate, winner)
        if error:
            canvas.line([(across(x), up(y - error)), (across(x), up(y + error))], colour, 1.0)
        canvas.dot(across(x), up(y), 5 if candidate.whole else 2.5, colour)


def _colour(candidate: Candidate, winner: Candidate | None) -> str:
    if candidate is winner:
        return BEST
    return FIRST if candidate.number is None else OTHER if candidate.kept else PASSED


def _span(values: Sequence[float]) -> tuple[float, float]:
    low, high = min(values), max(values)
    return (low, high) if high > low else (low - 0.5, high + 0.5)
