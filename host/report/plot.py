"""Pictures of plans: weights over noise levels and, for a report, evaluations below them. Drawn with PIL alone."""

from __future__ import annotations

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont

from .report import Report, Series

WIDTH, HEIGHT = 960, 540
LEFT, RIGHT, TOP, BOTTOM = 76, 28, 64, 404
BARS = (440, 500)
LONGEST = 32  # letters of a name in the legend
STEPS = (
    1e-4, 2e-4, 5e-4, 1e-3, 2e-3, 5e-3, 0.01, 0.02, 0.05, 0.1, 0.25, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0,
    500.0, 2000.0, 1e9,
)  # between the lines of the grid; fmt: skip
PAPER, INK, GRID, QUIET = "#ffffff", "#1c2330", "#e4e8ef", "#7a8496"
COLOURS = ("#2563eb", "#d9480f", "#0b8a5f", "#8b3fd1", "#b58900", "#c2255c")
MAIN_BAR, GUIDE_BAR, GRADIENT_BAR = "#9db4e8", "#eeb08f", "#9fd3b8"


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
    low, high = _range((Series("loss", tuple(values or [0.0])),), least=0.0)  # those of depth lie far below 1
    _axes(canvas, low, high, [], (), None)
    width = (WIDTH - RIGHT - LEFT) / max(len(curves), 1)
    for index, curve in enumerate(curves):
        left = LEFT + width * index
        across = [left + width * (0.06 + 0.88 * i / max(longest - 1, 1)) for i in range(len(curve))]
        points = [(x, _height(value, low, high)) for x, value in zip(across, curve, strict=True)]
        if len(points) > 1:
            canvas.line(points, COLOURS[index % len(COLOURS)], 2.4)
        canvas.line([(left, TOP), (left, BOTTOM)], GRID)
        canvas.text(left + width / 2, BOTTOM + 16, f"expert {index + 1}", QUIET, 13, "mm")
    canvas.text(WIDTH - RIGHT, 34, "loss over each expert's training, cleanest noise range first", QUIET, 14, "rm")
    return canvas.picture()


class Canvas:
    """Drawing in unscaled coordinates."""

    def __init__(self, height: int, scale: int = 2):  # drawn twice as large and reduced, for smooth lines
        self.image = Image.new("RGB", (WIDTH * scale, height * scale), PAPER)
        self.pen, self.scale = ImageDraw.Draw(self.image), scale

    def picture(self) -> torch.Tensor:
        """What was drawn, as an IMAGE [1, H, W, 3] in [0, 1]."""
        width, height = self.image.size
        image = self.image.resize((width // self.scale, height // self.scale), Image.Resampling.LANCZOS)
        return torch.from_numpy(np.asarray(image, dtype=np.float32) / 255.0)[None]

    def line(self, points, colour: str, width: float = 1.0) -> None:
        scaled = [(x * self.scale, y * self.scale) for x, y in points]
        self.pen.line(scaled, fill=colour, width=max(1, round(width * self.scale)), joint="curve")

    def box(self, left, top, right, bottom, colour: str) -> None:
        self.pen.rectangle([v * self.scale for v in (left, top, right, bottom)], fill=colour)

    def dot(self, x, y, radius, colour: str) -> None:
        self.pen.ellipse([v * self.scale for v in (x - radius, y - radius, x + radius, y + radius)], fill=colour)

    def paste(self, picture: Image.Image, left, top) -> None:
        """A picture that has `scale` pixels for every unit."""
        self.image.paste(picture, (round(left * self.scale), round(top * self.scale)))

    def text(self, x, y, words: str, colour: str = INK, size: int = 15, anchor: str = "lm") -> None:
        font = ImageFont.load_default(size * self.scale)
        self.pen.text((x * self.scale, y * self.scale), words, fill=colour, font=font, anchor=anchor)


def extent(words: str, size: int = 15) -> float:
    """How wide words are, in unscaled coordinates."""
    return ImageFont.load_default(4 * size).getlength(words) / 4


def _curves(canvas: Canvas, series: tuple[Series, ...], sigmas: tuple[float, ...], words: str) -> list[float]:
    """Axes, lines and legend; returns the column of every noise level."""
    low, high = _range(series)
    xs = _columns(len(sigmas))
    _axes(canvas, low, high, xs, sigmas)
    for index, line in enumerate(series):
        _line(canvas, xs, line, low, high, COLOURS[index % len(COLOURS)])
    _legend(canvas, series, words)
    return xs


def _range(series: tuple[Series, ...], least: float = 1.0) -> tuple[float, float]:
    """The axis: from 0, or below, to `least`, or above, with some room."""
    values = [value for s in series for value in s.values]
    low, high = min(0.0, *values), max(least, *values) or 1.0
    return low, high + 0.08 * (high - low)


def _columns(count: int) -> list[float]:
    width = (WIDTH - RIGHT - LEFT) / count
    return [LEFT + width * (i + 0.5) for i in range(count)]


def _height(value: float, low: float, high: float) -> float:
    return BOTTOM - (value - low) / (high - low) * (BOTTOM - TOP)


def _axes(
    canvas: Canvas, low: float, high: float, xs: list[float], sigmas: tuple[float, ...], marked: float | None = 1.0
) -> None:
    step = next(s for s in STEPS if (high - low) / s <= 7)
    value = step * -(-low // step)
    while value <= high:
        y = _height(value, low, high)
        canvas.line([(LEFT, y), (WIDTH - RIGHT, y)], QUIET if value == marked else GRID)
        canvas.text(LEFT - 10, y, f"{value:g}", QUIET, anchor="rm")
        value += step
    every = max(1, -(-len(xs) // 10))
    for x, sigma in list(zip(xs, sigmas, strict=True))[::every]:
        canvas.text(x, BOTTOM + 16, f"{sigma:.3g}", QUIET, 13, "mm")
    if xs:
        canvas.text(WIDTH - RIGHT, BOTTOM + 16, "sigma", INK, 13, "rm")


def _line(canvas: Canvas, xs: list[float], series: Series, low: float, high: float, colour: str) -> None:
    points = [(x, _height(v, low, high)) for x, v in zip(xs, series.values, strict=True)]
    if len(points) > 1:
        canvas.line(points, colour, 2.4)
    if len(points) <= 80:
        for x, y in points:
            canvas.dot(x, y, 3.4, colour)


def _legend(canvas: Canvas, series: tuple[Series, ...], words: str) -> None:
    x = LEFT
    for index, s in enumerate(series):
        colour = COLOURS[index % len(COLOURS)]
        canvas.line([(x, 34), (x + 22, 34)], colour, 3)
        label = s.label if len(s.label) <= LONGEST else f"{s.label[: LONGEST - 3]}..."
        canvas.text(x + 30, 34, label)
        x += 54 + 8.6 * len(label)
    canvas.text(WIDTH - RIGHT, 34, words, QUIET, 14, "rm")


def _bars(canvas: Canvas, xs: list[float], report: Report) -> None:
    kinds = list(zip(report.main_evaluations, report.guide_evaluations, report.gradients, strict=True))
    most = max(map(sum, kinds))
    half = (xs[1] - xs[0]) * 0.38 if len(xs) > 1 else 40
    unit = (BARS[1] - BARS[0]) / most
    for x, counts in zip(xs, kinds, strict=True):
        bottom = BARS[1]
        for count, colour in zip(counts, (MAIN_BAR, GUIDE_BAR, GRADIENT_BAR), strict=True):
            if count:
                canvas.box(x - half, bottom - count * unit, x + half, bottom, colour)
                bottom -= count * unit
    canvas.text(LEFT - 10, BARS[1], "0", QUIET, 13, "rm")
    canvas.text(LEFT - 10, BARS[0], f"{most}", QUIET, 13, "rm")
    totals = [sum(column) for column in zip(*kinds, strict=True)]
    words = f"{totals[0]} main + {totals[1]} guide" + (f" + {totals[2]} gradient" if totals[2] else "")
    canvas.text(LEFT, 522, f"evaluations per level: {words} in all", INK, 14)
    keys = [("main", MAIN_BAR), ("guide", GUIDE_BAR), *([("gradient", GRADIENT_BAR)] if totals[2] else [])]
    for place, (word, colour) in enumerate(reversed(keys)):
        left = WIDTH - RIGHT - 76 - 80 * place
        canvas.box(left, 515, left + 14, 529, colour)
        canvas.text(left + 20, 522, word, QUIET, 14)
