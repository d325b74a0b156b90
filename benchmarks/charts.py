"""What the studies' plots are drawn with: a sheet of lines, dots and words, drawn larger and reduced for smoothness."""

from __future__ import annotations

from collections.abc import Sequence

from PIL import Image, ImageDraw, ImageFont

FINE = 2
PAPER, INK, GRID, QUIET = "#ffffff", "#1c2330", "#e4e8ef", "#7a8496"


class Chart:
    """A white sheet of wide x high pixels; all lengths and places are in pixels of the finished picture."""

    def __init__(self, wide: int, high: int) -> None:
        self.size = (wide, high)
        self._sheet = Image.new("RGB", (wide * FINE, high * FINE), PAPER)
        self._pen = ImageDraw.Draw(self._sheet)

    def line(self, points: Sequence[tuple[float, float]], colour: str, width: int = 3) -> None:
        self._pen.line([(x * FINE, y * FINE) for x, y in points], colour, width * FINE, joint="curve")

    def dot(self, x: float, y: float, radius: float, colour: str) -> None:
        self._pen.ellipse([v * FINE for v in (x - radius, y - radius, x + radius, y + radius)], fill=colour)

    def text(self, x: float, y: float, words: str, colour: str = INK, size: int = 14, anchor: str = "lm") -> None:
        font = ImageFont.load_default(size * FINE)
        self._pen.text((x * FINE, y * FINE), words, fill=colour, font=font, anchor=anchor)

    def rule(self, left: float, right: float, y: float, words: str) -> None:
        """A line of the grid with its number before it."""
        self.line([(left, y), (right, y)], GRID, 1)
        self.text(left - 8, y, words, QUIET, 13, "rm")

    def picture(self) -> Image.Image:
        return self._sheet.resize(self.size, Image.Resampling.LANCZOS)
