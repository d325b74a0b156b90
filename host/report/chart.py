"""What plots are drawn with: a canvas, an axis with its ticks, curves, bars and a legend. PIL alone."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont

WIDTH, LEFT, RIGHT = 960, 76, 28
PAPER, INK, GRID, QUIET = "#ffffff", "#1c2330", "#e4e8ef", "#7a8496"
COLOURS = ("#2563eb", "#d9480f", "#0b8a5f", "#8b3fd1", "#b58900", "#c2255c")
MAIN_BAR, GUIDE_BAR, GRADIENT_BAR = "#9db4e8", "#eeb08f", "#9fd3b8"
BAR = 0.38  # half a bar's width, as a share of its column


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


@dataclass(frozen=True)
class ValueAxis:
    """A vertical axis from `top` to `bottom` of the canvas, for values from `low` to `high`, a line at every `step`."""

    top: float
    bottom: float
    low: float
    high: float
    step: float

    def height(self, value: float) -> float:
        """Where on the canvas a value lies."""
        return self.bottom - (value - self.low) / (self.high - self.low) * (self.bottom - self.top)

    def ticks(self) -> Iterator[float]:
        """The multiples of the step between low and high."""
        first, last = math.ceil(self.low / self.step - 1e-6), math.floor(self.high / self.step + 1e-6)
        return (self.step * first + i * self.step for i in range(last - first + 1))

    def grid(self, canvas: Canvas, scale: str = "", size: int = 15, marked: float | None = None) -> None:
        """Lines over the whole width with their values, followed by `scale`; the one at `marked` stands out."""
        for value in self.ticks():
            y = self.height(value)
            canvas.line([(LEFT, y), (WIDTH - RIGHT, y)], QUIET if value == marked else GRID)
            canvas.text(LEFT - 10, y, f"{round(value, 9):g}{scale}", QUIET, size, "rm")

    def curve(
        self, canvas: Canvas, xs: Sequence[float], values: Sequence[float | None], colour: str, radius: float, most: int
    ) -> None:
        """A line through the finite values, with gaps where there is none; dots where there are at most `most`."""
        points: list[tuple[float, float]] = []
        for x, value in [*zip(xs, values, strict=True), (0.0, None)]:
            if value is not None and math.isfinite(value):
                points.append((x, self.height(value)))
                continue
            if len(points) > 1:
                canvas.line(points, colour, 2.4)
            for x, y in points if len(xs) <= most else ():
                canvas.dot(x, y, radius, colour)
            points = []

    def steps(
        self, canvas: Canvas, xs: Sequence[float], values: Sequence[float], colour: str, radius: float, most: int
    ) -> None:
        """Values that hold for the width of their columns, with gaps where one is none; dots where there are few."""
        half = (xs[1] - xs[0]) / 2 if len(xs) > 1 else 40.0
        edges = [x for middle in xs for x in (middle - half, middle + half)]
        self.curve(canvas, edges, [value for value in values for _ in range(2)], colour, radius, 0)
        for x, value in zip(xs, values, strict=True) if len(xs) <= most else ():
            if math.isfinite(value):
                canvas.dot(x, self.height(value), radius, colour)

    def bars(
        self, canvas: Canvas, xs: list[float], stacks: Sequence[tuple[Sequence[float | None], str]], widest: float
    ) -> None:
        """Bars that stand on the axis, above each other: values per column and a colour of each."""
        half = min((xs[1] - xs[0]) * BAR if len(xs) > 1 else 40.0, widest)
        unit = (self.bottom - self.top) / self.high
        for index, x in enumerate(xs):
            y = self.bottom
            for values, colour in stacks:
                if value := values[index]:
                    canvas.box(x - half, y - value * unit, x + half, y, colour)
                    y -= value * unit


def round_step(span: float, most: int) -> float:
    """1, 2 or 5 times a power of ten, of which at most so many make up a span."""
    power = 10.0 ** math.floor(math.log10(span / most))
    return next(power * m for m in (1, 2, 5, 10, 20) if span / (power * m) <= most)


def columns(count: int) -> list[float]:
    """The middles of as many columns of one width."""
    width = (WIDTH - RIGHT - LEFT) / count
    return [LEFT + width * (i + 0.5) for i in range(count)]


def sigma_labels(canvas: Canvas, xs: list[float], sigmas: Iterable[float], y: float, most: int) -> None:
    """The noise levels under their columns, as many as there is room for."""
    every = max(1, -(-len(xs) // most))
    for x, sigma in list(zip(xs, sigmas, strict=True))[::every]:
        canvas.text(x, y, f"{sigma:.3g}", QUIET, 13, "mm")


@dataclass(frozen=True)
class Legend:
    """How a legend is set: the length of its lines, the size of its words, and the most letters of a name.

    letter: the width that a letter is given; None = as wide as it is.
    """

    line: int
    size: int
    longest: int
    letter: float | None = None

    def width(self, name: str) -> float:
        """What a name takes of a row, with its line and the gap behind it."""
        words = self._short(name)
        return 54 + (extent(words, self.size) if self.letter is None else self.letter * len(words))

    def row(self, canvas: Canvas, names: Iterable[tuple[str, str]], y: float, boxes: bool = False) -> None:
        """Names and their colours beside each other, behind a line or a box each."""
        x = float(LEFT)
        for name, colour in names:
            if boxes:
                canvas.box(x + 6, y - 7, x + 20, y + 7, colour)
            else:
                canvas.line([(x, y), (x + self.line, y)], colour, 3)
            canvas.text(x + self.line + 8, y, self._short(name), INK, self.size)
            x += self.width(name)

    def _short(self, name: str) -> str:
        return name if len(name) <= self.longest else f"{name[: self.longest - 3]}..."


def extent(words: str, size: int = 15) -> float:
    """How wide words are, in unscaled coordinates."""
    return ImageFont.load_default(4 * size).getlength(words) / 4
