"""The plot of the P2 study: Frechet distance against training, one panel per schedule and amount of data."""

from __future__ import annotations

from collections.abc import Mapping
from statistics import mean

from PIL import Image, ImageDraw, ImageFont

PANEL, HEIGHT, LEFT, TOP, BOTTOM, GAP = 360, 330, 64, 74, 44, 26
FINE = 2  # drawn this much larger and reduced, for smooth lines
PAPER, INK, GRID, QUIET = "#ffffff", "#1c2330", "#e4e8ef", "#7a8496"
COLOURS = {"0": "#7a8496", "0.5": "#2563eb", "1": "#d9480f"}
WORDS = {"0": "plain eps-loss", "0.5": "P2, gamma 0.5", "1": "P2, gamma 1"}


def curves(groups: Mapping[str, list[dict]]) -> Image.Image:
    """groups: the runs of each schedule and gamma. A line is the mean over seeds, dots are the seeds."""
    panels = list(dict.fromkeys(name.rpartition("-")[0] for name in groups))
    wide = LEFT + len(panels) * (PANEL + GAP)
    sheet = Image.new("RGB", (wide * FINE, (TOP + HEIGHT + BOTTOM) * FINE), PAPER)
    pen = ImageDraw.Draw(sheet)
    values = [v for runs in groups.values() for run in runs for v in run["training"].values()]
    top = max(values, default=1.0) * 1.05
    for index, panel in enumerate(panels):
        _panel(pen, LEFT + index * (PANEL + GAP), panel, {n: r for n, r in groups.items() if _of(n) == panel}, top)
    _text(pen, 16, 24, "Frechet distance against steps of training (lower is better)", INK, 17)
    for place, (gamma, words) in enumerate(WORDS.items()):
        x = wide - 500 + 165 * place
        pen.line([(x * FINE, 24 * FINE), ((x + 22) * FINE, 24 * FINE)], COLOURS[gamma], 3 * FINE)
        _text(pen, x + 28, 24, words, INK, 14)
    return sheet.resize((wide, TOP + HEIGHT + BOTTOM), Image.Resampling.LANCZOS)


def _of(name: str) -> str:
    return name.rpartition("-")[0]


def _panel(pen: ImageDraw.ImageDraw, left: int, panel: str, groups: Mapping[str, list[dict]], top: float) -> None:
    looks = sorted({int(look) for runs in groups.values() for run in runs for look in run["training"]})
    title = panel.removeprefix("small-") + (" schedule, 1,000 pictures" if panel.startswith("small-") else " schedule")
    _text(pen, left, TOP - 16, title, INK, 15)
    for step in range(0, int(top) + 1, 20):
        y = TOP + HEIGHT * (1 - step / top)
        pen.line([(left * FINE, y * FINE), ((left + PANEL) * FINE, y * FINE)], GRID, FINE)
        _text(pen, left - 8, y, str(step), QUIET, 13, "rm")
    for place, look in enumerate(looks):
        _text(pen, _across(left, place, len(looks)), TOP + HEIGHT + 18, f"{look:,}", QUIET, 13, "mm")
    for name, runs in groups.items():
        colour = COLOURS[name.rpartition("-")[2]]
        points = []
        for place, look in enumerate(looks):
            found = [run["training"][str(look)] for run in runs]
            x = _across(left, place, len(looks))
            for value in found:
                _dot(pen, x, TOP + HEIGHT * (1 - value / top), 3.0, colour)
            if found:
                points.append((x * FINE, TOP * FINE + HEIGHT * FINE * (1 - mean(found) / top)))
        if len(points) > 1:
            pen.line(points, colour, 3 * FINE, joint="curve")


def _across(left: int, place: int, count: int) -> float:
    return left + PANEL * (place + 0.5) / max(count, 1)


def _dot(pen: ImageDraw.ImageDraw, x: float, y: float, radius: float, colour: str) -> None:
    pen.ellipse([v * FINE for v in (x - radius, y - radius, x + radius, y + radius)], fill=colour)


def _text(pen: ImageDraw.ImageDraw, x: float, y: float, words: str, colour: str, size: int, anchor: str = "lm") -> None:
    pen.text((x * FINE, y * FINE), words, fill=colour, font=ImageFont.load_default(size * FINE), anchor=anchor)
