"""The charts in the pictures of the help pages, in type that can be read in a narrow panel."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Sequence
from functools import cache
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

ROOT = Path(__file__).resolve().parent.parent
INK, GREY, RULE = "#1c2330", "#667085", "#d5d9e0"
COLOURS = ("#2563eb", "#d9480f", "#0b8a5f", "#8b3fd1")
BANDS = ("#a9c4f7", "#f6c39a", "#a5dcc3", "#d3bdf0", "#e8d68c")
TYPE = 21
WIDTH, HEIGHT = 500, 190
LEFT, RIGHT, TOP, BOTTOM = 44, 8, 12, 32
FINE = 3  # lines are drawn so many times larger and reduced


@cache
def font(size: int = TYPE) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size=size)


def width_of(words: str, size: int = TYPE) -> int:
    """The width of the longest line, in pixels."""
    return max(math.ceil(font(size).getlength(line)) for line in words.split("\n"))


class Chart:
    """Lines over x from 0 to 1 and y from low to high, with a legend above and words below the axis."""

    def __init__(self, low: float, high: float, paper: str, names: list[str], height: int = HEIGHT):
        self.rows = self._rows(names)
        self.low, self.high, self.names = low, high, names
        self.top = TOP + 28 * len(self.rows)
        self.height = height + 28 * len(self.rows)
        self.image = Image.new("RGB", (WIDTH * FINE, self.height * FINE), paper)
        self.pen = ImageDraw.Draw(self.image)

    def _rows(self, names: list[str]) -> list[list[int]]:
        """Which names of the legend stand in which row."""
        rows: list[list[int]] = []
        used = WIDTH
        for i, name in enumerate(names):
            used += width_of(name) + 24
            if used > WIDTH - LEFT:
                rows.append([])
                used = width_of(name) + 24
            rows[-1].append(i)
        return rows

    def x(self, value: float) -> float:
        return LEFT + value * (WIDTH - LEFT - RIGHT)

    def y(self, value: float) -> float:
        bottom = self.height - BOTTOM
        return bottom - (value - self.low) / (self.high - self.low) * (bottom - self.top)

    def box(self, x0: float, x1: float, colour: str) -> None:
        corners = (self.x(x0), self.top, self.x(x1), self.height - BOTTOM)
        self.pen.rectangle([v * FINE for v in corners], colour)

    def line(self, points: list[tuple[float, float]], colour: str, width: float = 3.0) -> None:
        scaled = [(self.x(x) * FINE, self.y(y) * FINE) for x, y in points]
        self.pen.line(scaled, colour, round(width * FINE), joint="curve")

    def dot(self, x: float, y: float, colour: str, radius: float = 4.0) -> None:
        across, down = self.x(x) * FINE, self.y(y) * FINE
        self.pen.ellipse(
            (across - radius * FINE, down - radius * FINE, across + radius * FINE, down + radius * FINE), colour
        )

    def finish(self, ticks: Sequence[float], foot: list[tuple[float, str, str]], form: str = "{:g}") -> Image.Image:
        """The chart at its size; foot: x, words and how they hang there (left, middle, right) below the axis."""
        sheet = self.image.resize((WIDTH, self.height), Image.Resampling.LANCZOS)
        pen = ImageDraw.Draw(sheet)
        for value in ticks:
            pen.text((LEFT - 8, self.y(value)), form.format(value), GREY, font(18), "rm")
        for at, words, hang in foot:
            pen.text((self.x(at), self.height - BOTTOM + 6), words, GREY, font(), hang + "a")
        for number, row in enumerate(self.rows):
            left = LEFT
            for i in row:
                pen.text((left, 14 + 28 * number), self.names[i], COLOURS[i % len(COLOURS)], font(), "lm")
                left += width_of(self.names[i]) + 24
        return sheet


STAGES = ("coarse", "content", "clean-up")
NOISE_TO_CLEAN = [(0.0, "pure noise", "l"), (1.0, "clean", "r")]


def strengths(panel: dict, shown: dict, paper: str) -> Image.Image:
    """The strengths over noise that nodes told the page: their curves. `edges` shades the experts in charge."""
    told = [json.loads(shown["texts"][title]) for title in panel["of"]]
    lines = [line["values"] for one in told for line in one["lines"]]
    high = panel["high"]
    chart = Chart(min(0, panel["ticks"][0]), high, paper, panel["names"])
    foot = NOISE_TO_CLEAN
    if panel.get("stages"):  # of P2: at a signal-to-noise ratio of 0.01 and of 1
        ends = shade(chart, told[0], [10, 1], ["#dfe3ea", "#eaecf1", paper])
        foot = [((a + b) / 2, name, "m") for a, b, name in zip([0.0, *ends], ends, STAGES, strict=False)]
    for value in panel["ticks"]:
        chart.line([(0, value), (1, value)], RULE, 1)
    for i in reversed(range(len(lines))):
        points = [((j + 0.5) / len(lines[i]), min(v, high)) for j, v in enumerate(lines[i])]
        chart.line(points, COLOURS[i % len(COLOURS)], 3.2 if i == 0 else 2.4)
    return chart.finish(panel["ticks"], foot)


def shade(chart: Chart, told: dict, edges: list[float], colours: list[str]) -> list[float]:
    """Boxes between noise levels (noise to signal, noisy first); where they end, in percent."""
    sigmas = told["noise"]["sigmas"]
    ends = [sum(sigma > edge for sigma in sigmas) / len(sigmas) for edge in edges]
    for start, end, colour in zip([0.0, *ends], [*ends, 1.0], colours, strict=True):
        chart.box(start, end, colour)
    return [*ends, 1.0]


def turns(panel: dict, shown: dict, paper: str) -> Image.Image:
    """Which guide is in charge at which noise, from the edges that a component told the page; names: cleanest first."""
    told = json.loads(shown["texts"][panel["of"]])
    chart = Chart(0, 1, paper, [], 84)
    ends = shade(chart, told, told["edges"][::-1], list(BANDS[: len(panel["names"])])[::-1])
    sheet = chart.finish([], NOISE_TO_CLEAN)
    pen, start = ImageDraw.Draw(sheet), 0.0
    for end, name in zip(ends, reversed(panel["names"]), strict=True):
        at = chart.x((start + end) / 2), (chart.top + chart.height - BOTTOM) / 2
        pen.text(at, name, INK, font(), "mm", align="center")
        start = end
    return sheet


def profiles(panel: dict, shown: dict, paper: str) -> Image.Image:
    """How much the weights of each time count in averages of a training: the stored ones, and the one made of them."""
    sys.path.append(str(ROOT))  # the node's own mathematics
    from guidance.networks.edm2.posthoc_ema import Snapshot, coefficients, power_exponent

    times = [0.5 + i / 600 for i in range(301)]
    exponents = [power_exponent(std) for std in panel["stored"]]
    stored = [[(gamma + 1) * t**gamma for t in times] for gamma in exponents]
    shares = coefficients([Snapshot(1.0, std) for std in panel["stored"]], Snapshot(1.0, panel["wanted"]))
    made = [sum(share * line[i] for share, line in zip(shares, stored, strict=True)) for i in range(len(times))]
    names = [f"made: {panel['wanted']:g}", *(f"stored: {std:g}" for std in panel["stored"])]
    chart = Chart(0, max(map(max, stored)), paper, names)
    chart.line([(0, 0), (1, 0)], RULE, 1)
    for i, line in reversed(list(enumerate([made, *stored]))):
        chart.line([(2 * t - 1, y) for t, y in zip(times, line, strict=True)], COLOURS[i], 3.2 if i == 0 else 2.4)
    return chart.finish([], [(0.0, "half of the training", "l"), (1.0, "its end", "r")])


def visits(panel: dict, shown: dict, paper: str) -> Image.Image:
    """The timesteps that respacings visit, noisy on the left, a row of dots for each."""
    sys.path.append(str(ROOT))  # the node's own arithmetic
    from guidance.respacing import respaced

    names = panel["of"]
    chart = Chart(-0.6, len(names) - 0.4, paper, names, 150)
    for row, name in enumerate(reversed(names)):
        chart.line([(0, row), (1, row)], RULE, 1)
        for timestep in respaced(name, 1000):
            chart.dot(1 - timestep / 999, row, COLOURS[len(names) - 1 - row])
    return chart.finish([], [(0.0, "999: noisy", "l"), (1.0, "0: clean", "r")])


def pushes(panel: dict, shown: dict, paper: str) -> Image.Image:
    """How hard every component pushed at the steps of a run: from Inspection's JSON, in percent, means over samples."""
    evaluations = json.loads(shown["texts"][panel["of"]])["runs"][-1]["evaluations"]
    names = [term["name"] for term in evaluations[0]["terms"]]
    lines: list[list[float]] = [[] for _ in names]
    for evaluation in evaluations:
        for line, term in zip(lines, evaluation["terms"], strict=True):
            line.append(100 * sum(term["push"]) / len(term["push"]))
    chart = Chart(0, 1.05 * max(map(max, lines)), paper, names)
    chart.line([(0, 0), (1, 0)], RULE, 1)
    for i, line in enumerate(lines):
        points = [(j / (len(line) - 1), value) for j, value in enumerate(line)]
        chart.line(points, COLOURS[i])
        for x, y in points:
            chart.dot(x, y, COLOURS[i])
    ticks = [tick for tick in (0, 10, 20, 40, 60, 80, 100) if tick < chart.high]
    return chart.finish(ticks, [(0.0, "first step", "l"), (1.0, "last step", "r")])


def limits(panel: dict, shown: dict, paper: str) -> Image.Image:
    """How many times larger an attention becomes by a negative one that shares nothing with it, over the weight."""
    sys.path.append(str(ROOT))  # the rule's own mathematics
    import torch

    from guidance.negative_attention import NegativeAttention

    most, positive, negative = panel["most"], torch.tensor([[[1.0, 0.0]]]), torch.tensor([[[0.0, 1.0]]])
    chart = Chart(0.9, panel["high"], paper, [f"tau {tau:g}, alpha {alpha:g}" for tau, alpha in panel["of"]])
    for value in panel["ticks"]:
        chart.line([(0, value), (1, value)], RULE, 1)
    for i, (tau, alpha) in enumerate(panel["of"]):
        weights = [1 + (most - 1) * j / 200 for j in range(201)]
        rules = [NegativeAttention(weight, tau, alpha) for weight in weights]
        sizes = [float(rule.steer(positive, negative, torch.tensor([rule.weight])).abs().sum()) for rule in rules]
        chart.line([(j / 200, size) for j, size in enumerate(sizes)], COLOURS[i])
    return chart.finish(panel["ticks"], [(0.0, "weight 1", "l"), (1.0, f"weight {most:g}", "r")])


CHARTS = {
    "limits": limits, "strengths": strengths, "turns": turns, "profiles": profiles, "pushes": pushes, "visits": visits,
}  # fmt: skip
