"""A recorded run as a plot: pushes, strengths, agreement, losses, evaluations and time, one column per evaluation."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from ..recording.record import Evaluation, Record, mean
from ..recording.text import MB, score_labels, score_of, shown_terms, summary, term_of
from .plot import (  # fmt: skip
    COLOURS,
    GRADIENT_BAR,
    GRID,
    GUIDE_BAR,
    INK,
    LEFT,
    MAIN_BAR,
    QUIET,
    RIGHT,
    WIDTH,
    Canvas,
    extent,
)

TITLE, CAPTION, ROW, GAP, FOOT = 48, 26, 22, 26, 36  # heights of words and gaps
TIME = "#c3cad6"
LONGEST = 60  # letters of a name in the legend


@dataclass(frozen=True)
class Line:
    """One value per evaluation; None where there is none."""

    label: str
    values: tuple[float | None, ...]
    colour: str


@dataclass(frozen=True)
class Panel:
    """Lines over one axis, or bars standing on it."""

    words: str
    height: int
    lines: tuple[Line, ...] = ()
    stacks: tuple[Line, ...] = ()
    least: tuple[float, ...] = ()  # what the axis shows at least
    scale: str = ""  # what follows a number of the axis
    named: bool = True  # whether its lines are in a legend


def draw_record(record: Record) -> torch.Tensor:
    """The run as an IMAGE [1, H, 960, 3] in [0, 1]; values are means over the samples."""
    evaluations = record.evaluations
    panels = _panels(evaluations)
    rows = [_legend_rows(panel) for panel in panels]
    words = [CAPTION + ROW * len(row) for row in rows]
    canvas = Canvas(TITLE + sum(words) + sum(panel.height + GAP for panel in panels) + FOOT - GAP)
    canvas.text(LEFT, 26, summary(record), INK, 15)
    width = (WIDTH - RIGHT - LEFT) / len(evaluations)
    xs = [LEFT + width * (i + 0.5) for i in range(len(evaluations))]
    top = TITLE
    for panel, row, above in zip(panels, rows, words, strict=True):
        canvas.text(LEFT, top + 10, panel.words, QUIET, 14)
        _legend(canvas, row, top + 10 + ROW, bool(panel.stacks))
        _draw(canvas, panel, xs, top + above)
        top += above + panel.height + GAP
    _feet(canvas, xs, evaluations, top - GAP)
    return canvas.picture()


def _panels(evaluations: list[Evaluation]) -> list[Panel]:
    terms = shown_terms(evaluations)
    colours = {label: COLOURS[i % len(COLOURS)] for i, label in enumerate(terms)}
    found = [[term_of(e, label) for e in evaluations] for label in terms]
    pushes = [Line(t[0].label, tuple(100 * mean(term.push) for term in t), colours[t[0].label]) for t in found]
    if len(pushes) > 1:
        pushes.append(Line("all together", tuple(100 * mean(e.total) for e in evaluations), INK))
    strengths = [Line(t[0].label, tuple(mean(term.strength) for term in t), colours[t[0].label]) for t in found]
    panels = [Panel("push, relative to the unguided estimate", 190, tuple(pushes), least=(0.0, 1.0), scale=" %")]
    if strengths:
        panels.append(Panel("weight (1 = off) or scale (0 = off)", 90, tuple(strengths), least=(0.0, 1.0), named=False))
    return [*panels, *_answers(evaluations, len(terms)), *_costs(evaluations)]


def _answers(evaluations: list[Evaluation], used: int) -> list[Panel]:
    """What prompts and guides say: the cosine, all probabilities, and each loss on an axis of its own."""
    fresh = (COLOURS[i % len(COLOURS)] for i in range(used, used + 1000))
    panels, chances = [], []
    if any(e.cosine is not None for e in evaluations):
        values = tuple(None if e.cosine is None else mean(e.cosine) for e in evaluations)
        line = Line("cosine", values, next(fresh))
        panels.append(Panel("cosine between the positive and the negative estimate", 80, (line,), named=False))
    for label, is_probability in score_labels(evaluations):
        said = [score_of(e, label) for e in evaluations]
        scale = 100.0 if is_probability else 1.0
        line = Line(label, tuple(None if s is None else scale * mean(s.values) for s in said), next(fresh))
        if is_probability:
            chances.append(line)
        else:
            panels.append(Panel("loss, as the guide sees it", 90, (line,)))
    if chances:
        panels.append(Panel("probability, as the guide sees it", 90, tuple(chances), least=(0.0, 100.0), scale=" %"))
    return panels


def _costs(evaluations: list[Evaluation]) -> list[Panel]:
    counts = [
        Line("main", tuple(e.main for e in evaluations), MAIN_BAR),
        Line("guide", tuple(e.guides for e in evaluations), GUIDE_BAR),
        Line("gradient", tuple(len(e.scores) for e in evaluations), GRADIENT_BAR),
    ]
    kinds = tuple(line for line in counts if any(line.values))
    times = Line("time", tuple(1000 * e.seconds for e in evaluations), TIME)
    most = max(e.memory for e in evaluations) / MB
    return [
        Panel("evaluations of networks", 60, stacks=kinds, least=(0.0, 1.0)),
        Panel(f"time, ms; memory up to {most:.0f} MB", 60, stacks=(times,), named=False),
    ]


def _draw(canvas: Canvas, panel: Panel, xs: list[float], top: float) -> None:
    bottom = top + panel.height
    low, high, step = _axis(panel)
    for i in range(round((high - low) / step) + 1):
        value = low + i * step
        y = bottom - (value - low) / (high - low) * panel.height
        canvas.line([(LEFT, y), (WIDTH - RIGHT, y)], GRID)
        canvas.text(LEFT - 10, y, f"{round(value, 9):g}{panel.scale}", QUIET, 13, "rm")
    for line in panel.lines:
        ys = [None if v is None else bottom - (v - low) / (high - low) * panel.height for v in line.values]
        _curve(canvas, xs, ys, line.colour)
    _stack(canvas, xs, panel.stacks, bottom, panel.height / high)


def _axis(panel: Panel) -> tuple[float, float, float]:
    """Where the axis begins and ends, and the step between its lines: 1, 2 or 5 times a power of ten."""
    values = [v for line in panel.lines for v in line.values if v is not None]
    values += [sum(v or 0.0 for v in column) for column in zip(*(s.values for s in panel.stacks), strict=True)]
    values = [v for v in values if math.isfinite(v)]
    values += panel.least
    low, high = min(values, default=0.0), max(values, default=1.0)
    span, most = max(high - low, 1e-6), max(2, panel.height // 40)
    power = 10.0 ** math.floor(math.log10(span / most))
    step = next(power * m for m in (1, 2, 5, 10, 20) if span / (power * m) <= most)
    first, last = math.floor(low / step + 1e-6), math.ceil(high / step - 1e-6)
    return step * first, step * max(last, first + 1), step


def _curve(canvas: Canvas, xs: list[float], ys: Sequence[float | None], colour: str) -> None:
    points: list[tuple[float, float]] = []
    for x, y in [*zip(xs, ys, strict=True), (0.0, None)]:
        if y is not None and math.isfinite(y):
            points.append((x, y))
        else:
            if len(points) > 1:
                canvas.line(points, colour, 2.4)
            points = []
    for x, y in zip(xs, ys, strict=True):
        if y is not None and math.isfinite(y) and len(xs) <= 60:
            canvas.dot(x, y, 3.2, colour)


def _stack(canvas: Canvas, xs: list[float], stacks: tuple[Line, ...], bottom: float, unit: float) -> None:
    half = min((xs[1] - xs[0]) * 0.38 if len(xs) > 1 else 40.0, 40.0)
    for x, column in zip(xs, zip(*(s.values for s in stacks), strict=True), strict=True) if stacks else ():
        y = bottom
        for value, line in zip(column, stacks, strict=True):
            if value:
                canvas.box(x - half, y - value * unit, x + half, y, line.colour)
                y -= value * unit


def _legend_rows(panel: Panel) -> list[list[Line]]:
    """The lines of a panel that its legend names, as many in a row as there is room for."""
    rows: list[list[Line]] = []
    room = 0.0
    for line in (*panel.lines, *panel.stacks) if panel.named else ():
        width = _width(line)
        if width > room:
            rows.append([])
            room = float(WIDTH - RIGHT - LEFT)
        rows[-1].append(line)
        room -= width
    return rows


def _legend(canvas: Canvas, rows: list[list[Line]], y: float, boxes: bool) -> None:
    for row in rows:
        x = float(LEFT)
        for line in row:
            if boxes:
                canvas.box(x + 6, y - 7, x + 20, y + 7, line.colour)
            else:
                canvas.line([(x, y), (x + 20, y)], line.colour, 3)
            canvas.text(x + 28, y, _short(line.label), INK, 14)
            x += _width(line)
        y += ROW


def _width(line: Line) -> float:
    """What a line takes of its legend's row."""
    return 28 + extent(_short(line.label), 14) + 26


def _feet(canvas: Canvas, xs: list[float], evaluations: list[Evaluation], y: float) -> None:
    """The noise levels under the columns."""
    every = max(1, -(-len(xs) // 12))
    for x, evaluation in list(zip(xs, evaluations, strict=True))[::every]:
        canvas.text(x, y + 12, f"{mean(evaluation.sigma):.3g}", QUIET, 13, "mm")
    canvas.text(LEFT - 10, y + 12, "sigma", QUIET, 13, "rm")


def _short(words: str) -> str:
    return words if len(words) <= LONGEST else f"{words[: LONGEST - 3]}..."
