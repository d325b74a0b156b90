"""A recorded run as a plot: updates, strengths, agreement, losses, evaluations and time, one column per evaluation."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from ..recording.record import Evaluation, Record, mean
from ..recording.text import MB, score_labels, score_of, shown_terms, summary, term_of
from .chart import (  # fmt: skip
    COLOURS,
    GRADIENT_BAR,
    GUIDE_BAR,
    INK,
    LEFT,
    MAIN_BAR,
    QUIET,
    RIGHT,
    WIDTH,
    Canvas,
    Legend,
    ValueAxis,
    columns,
    round_step,
    sigma_labels,
)

TITLE, CAPTION, ROW, GAP, FOOT = 48, 26, 22, 26, 36  # heights of words and gaps
TIME = "#c3cad6"
LEGEND = Legend(line=20, size=14, longest=60)


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
    xs, top = columns(len(evaluations)), TITLE
    for panel, row, above in zip(panels, rows, words, strict=True):
        canvas.text(LEFT, top + 10, panel.words, QUIET, 14)
        for place, lines in enumerate(row, 1):
            names = [(line.label, line.colour) for line in lines]
            LEGEND.row(canvas, names, top + 10 + ROW * place, boxes=bool(panel.stacks))
        _draw(canvas, panel, xs, top + above)
        top += above + panel.height + GAP
    sigma_labels(canvas, xs, [mean(e.sigma) for e in evaluations], top - GAP + 12, most=12)
    canvas.text(LEFT - 10, top - GAP + 12, "sigma", QUIET, 13, "rm")
    return canvas.picture()


def _panels(evaluations: list[Evaluation]) -> list[Panel]:
    terms = shown_terms(evaluations)
    colours = {label: COLOURS[i % len(COLOURS)] for i, label in enumerate(terms)}
    found = [[term_of(e, label) for e in evaluations] for label in terms]
    updates = [Line(t[0].label, tuple(100 * mean(term.update) for term in t), colours[t[0].label]) for t in found]
    if len(updates) > 1:
        updates.append(Line("all together", tuple(100 * mean(e.total) for e in evaluations), INK))
    strengths = [Line(t[0].label, tuple(mean(term.strength) for term in t), colours[t[0].label]) for t in found]
    panels = [Panel("update, relative to the unguided estimate", 190, tuple(updates), least=(0.0, 1.0), scale=" %")]
    if len(strengths) > 1 and any(e.effective for e in evaluations):
        effective = tuple(None if e.effective is None else mean(e.effective) for e in evaluations)
        strengths.append(Line("effective weight", effective, INK))
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
    axis = _axis(panel, top)
    axis.grid(canvas, panel.scale, 13)
    for line in panel.lines:
        axis.curve(canvas, xs, line.values, line.colour, 3.2, most=60)
    if panel.stacks:
        axis.bars(canvas, xs, [(line.values, line.colour) for line in panel.stacks], widest=40.0)


def _axis(panel: Panel, top: float) -> ValueAxis:
    """It begins and ends at a line; the step between its lines is 1, 2 or 5 times a power of ten."""
    values = [v for line in panel.lines for v in line.values if v is not None]
    values += [sum(v or 0.0 for v in column) for column in zip(*(s.values for s in panel.stacks), strict=True)]
    values = [v for v in values if math.isfinite(v)]
    values += panel.least
    low, high = min(values, default=0.0), max(values, default=1.0)
    span, most = max(high - low, 1e-6), max(2, panel.height // 40)
    step = round_step(span, most)
    first, last = math.floor(low / step + 1e-6), math.ceil(high / step - 1e-6)
    return ValueAxis(top, top + panel.height, step * first, step * max(last, first + 1), step)


def _legend_rows(panel: Panel) -> list[list[Line]]:
    """The lines of a panel that its legend names, as many in a row as there is room for."""
    rows: list[list[Line]] = []
    room = 0.0
    for line in (*panel.lines, *panel.stacks) if panel.named else ():
        width = LEGEND.width(line.label)
        if width > room:
            rows.append([])
            room = float(WIDTH - RIGHT - LEFT)
        rows[-1].append(line)
        room -= width
    return rows
