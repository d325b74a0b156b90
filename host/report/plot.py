"""Pictures of plans: weights over noise levels and, for a report, evaluations below them."""

from __future__ import annotations

import math

import torch

from .chart import (  # fmt: skip
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
    Legend,
    ValueAxis,
    columns,
    round_step,
    sigma_labels,
)
from .report import Report, Series

HEIGHT = 540
TOP, BOTTOM = 64, 404
BARS = (440, 500)
LEGEND = Legend(line=22, size=15, longest=32, letter=8.6)


def draw(report: Report) -> torch.Tensor:
    """The report as an IMAGE [1, H, W, 3] in [0, 1]."""
    canvas = Canvas(HEIGHT)
    xs = _curves(canvas, report.series, report.sigmas, "weight (1 = off) or strength, noisy to clean")
    _bars(canvas, xs, report)
    return canvas.picture()


def draw_curves(series: tuple[Series, ...], sigmas: tuple[float, ...], words: str) -> torch.Tensor:
    """Lines over noise levels, with what they show in words, as an IMAGE [1, H, W, 3] in [0, 1]."""
    canvas = Canvas(BARS[0])
    _curves(canvas, series, sigmas, words)
    return canvas.picture()


def draw_losses(curves: list[list[float]], longest: int) -> torch.Tensor:
    """The loss of experts over their trainings, side by side from clean to noisy, as an IMAGE [1, H, W, 3].

    longest: the number of values in the curve of an expert whose training is finished.
    """
    canvas = Canvas(BARS[0])
    values = [value for curve in curves for value in curve]
    axis = _axis(values or [0.0], least=0.0)  # those of depth lie far below 1
    axis.grid(canvas)
    width = (WIDTH - RIGHT - LEFT) / max(len(curves), 1)
    for index, curve in enumerate(curves):
        left = LEFT + width * index
        across = [left + width * (0.06 + 0.88 * i / max(longest - 1, 1)) for i in range(len(curve))]
        axis.curve(canvas, across, curve, COLOURS[index % len(COLOURS)], 0.0, most=0)
        canvas.line([(left, TOP), (left, BOTTOM)], GRID)
        canvas.text(left + width / 2, BOTTOM + 16, f"expert {index + 1}", QUIET, 13, "mm")
    canvas.text(WIDTH - RIGHT, 34, "loss over each expert's training, cleanest noise range first", QUIET, 14, "rm")
    return canvas.picture()


def _curves(canvas: Canvas, series: tuple[Series, ...], sigmas: tuple[float, ...], words: str) -> list[float]:
    """Axes, lines and legend; returns the column of every noise level."""
    axis, xs = _axis([value for s in series for value in s.values]), columns(len(sigmas))
    axis.grid(canvas, marked=1.0)
    sigma_labels(canvas, xs, sigmas, BOTTOM + 16, most=10)
    canvas.text(WIDTH - RIGHT, BOTTOM + 16, "sigma", INK, 13, "rm")
    colours = [COLOURS[index % len(COLOURS)] for index in range(len(series))]
    for line, colour in zip(series, colours, strict=True):
        axis.steps(canvas, xs, line.values, colour, 3.4, most=80)
    LEGEND.row(canvas, zip([s.label for s in series], colours, strict=True), 34)
    canvas.text(WIDTH - RIGHT, 34, words, QUIET, 14, "rm")
    return xs


def _axis(values: list[float], least: float = 1.0) -> ValueAxis:
    """From 0, or below, to `least`, or above, with some room. Values that are no numbers have no place on it."""
    finite = [value for value in values if math.isfinite(value)]
    low, high = min(0.0, *finite), max(least, *finite) or 1.0
    high += 0.08 * (high - low)
    return ValueAxis(TOP, BOTTOM, low, high, round_step(high - low, 7))


def _bars(canvas: Canvas, xs: list[float], report: Report) -> None:
    kinds = report.main_evaluations, report.guide_evaluations, report.gradients
    most = max(map(sum, zip(*kinds, strict=True)))
    stacks = list(zip(kinds, (MAIN_BAR, GUIDE_BAR, GRADIENT_BAR), strict=True))
    ValueAxis(*BARS, 0.0, most, 1.0).bars(canvas, xs, stacks, widest=WIDTH)
    canvas.text(LEFT - 10, BARS[1], "0", QUIET, 13, "rm")
    canvas.text(LEFT - 10, BARS[0], f"{most}", QUIET, 13, "rm")
    totals = [sum(kind) for kind in kinds]
    words = f"{totals[0]} main + {totals[1]} guide" + (f" + {totals[2]} gradient" if totals[2] else "")
    canvas.text(LEFT, 522, f"evaluations per level: {words} in all", INK, 14)
    keys = [("main", MAIN_BAR), ("guide", GUIDE_BAR), *([("gradient", GRADIENT_BAR)] if totals[2] else [])]
    for place, (word, colour) in enumerate(reversed(keys)):
        left = WIDTH - RIGHT - 76 - 80 * place
        canvas.box(left, 515, left + 14, 529, colour)
        canvas.text(left + 20, 522, word, QUIET, 14)
