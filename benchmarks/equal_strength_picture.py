"""The picture of the study of equal strength: every rule beside plain CFG that is as strong."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import mean, stdev
from typing import Any

from charts import GRID, INK, QUIET, Chart
from PIL import Image

WIDE, NAMES, GAP, TOP, LINE, BOTTOM = 960, 206, 44, 128, 26, 20
PLAIN, BETTER, WORSE, SAME = "#7a8496", "#0b8a5f", "#d9480f", "#2563eb"
LEGEND = ((PLAIN, "plain CFG"), (SAME, "rule"), (BETTER, "better, more than seeds differ"), (WORSE, "worse"))
SURE, FEWEST = 2.0, 3  # standard errors over seeds by which a difference is one; and how many seeds tell


@dataclass(frozen=True)
class Measure:
    """One panel: what is measured, how a tick of it reads, and whether more of it is better."""

    key: str
    title: str
    form: str
    step: float
    rising: bool


MEASURES = (
    Measure("frechet", "Frechet distance (left is better)", "{:g}", 2.0, False),
    Measure("accuracy", "class accuracy (right is better)", "{:.0%}", 0.02, True),
)


def equal_strength(found: Sequence[dict[str, Any]]) -> Image.Image:
    """found: the runs of a results file. Those at the largest weight, the largest gain in Frechet distance above."""
    weight = max(one["weight"] for one in found)
    runs: dict[str, list[dict[str, Any]]] = {}
    for one in found:
        if one["weight"] == weight and one["plain"]:
            runs.setdefault(one["name"], []).append(one)
    names = sorted(runs, key=lambda name: mean(differences(runs[name], MEASURES[0])))
    chart = Chart(WIDE, TOP + LINE * len(names) + BOTTOM)
    seeds = min(map(len, runs.values()))
    chart.text(16, 24, f"Rules at CFG {weight:g}, and plain CFG at the weight that each came to", INK, 17)
    _legend(chart, LEGEND if seeds >= FEWEST else LEGEND[:2], f"means of {seeds} seeds" if seeds > 1 else "one seed")
    for row, name in enumerate(names):
        effective = mean(one["rule"]["effective"] for one in runs[name])
        chart.text(NAMES - 56, _height(row), name, INK, 14, "rm")
        chart.text(NAMES - 14, _height(row), f"{effective:.1f}", QUIET, 13, "rm")
    chart.text(NAMES - 14, TOP - 14, "came to", QUIET, 13, "rm")
    panel = (WIDE - NAMES - 2 * GAP) / 2
    for place, measure in enumerate(MEASURES):
        _panel(chart, NAMES + 14 + place * (panel + GAP), panel, [runs[name] for name in names], measure)
    return chart.picture()


def differences(runs: Sequence[dict[str, Any]], measure: Measure) -> list[float]:
    """Rule minus plain CFG, of each seed."""
    return [one["rule"][measure.key] - one["plain"][measure.key] for one in runs]


def verdict(runs: Sequence[dict[str, Any]], measure: Measure) -> str:
    """The colour of a rule: whether it differs from plain CFG by more than the seeds do."""
    apart = differences(runs, measure)
    if len(apart) < FEWEST or abs(mean(apart)) <= SURE * stdev(apart) / len(apart) ** 0.5:
        return SAME
    return BETTER if (mean(apart) > 0) == measure.rising else WORSE


def _height(row: int) -> float:
    return TOP + LINE * (row + 0.5)


def _legend(chart: Chart, keys: Sequence[tuple[str, str]], words: str) -> None:
    x = 16.0
    for colour, name in keys:
        chart.dot(x + 5, 54, 5, colour)
        chart.text(x + 16, 54, name, INK, 14)
        x += 40 + 7.4 * len(name)
    chart.text(WIDE - 16, 54, words, QUIET, 14, "rm")


def _panel(chart: Chart, left: float, wide: float, rows: Sequence[Sequence[dict[str, Any]]], measure: Measure) -> None:
    pairs = [[mean(one[part][measure.key] for one in runs) for part in ("plain", "rule")] for runs in rows]
    values = [value for pair in pairs for value in pair]
    low = measure.step * (min(values) // measure.step)
    count = int((max(values) - low) // measure.step) + 1
    every = 1 + count // 6

    def across(value: float) -> float:
        return left + wide * (value - low) / (count * measure.step)

    chart.text(left, TOP - 40, measure.title, INK, 15)
    for tick in range(0, count + 1, every):
        x = across(low + tick * measure.step)
        chart.line([(x, TOP), (x, _height(len(rows)) - LINE / 2)], GRID, 1)
        chart.text(x, TOP - 14, measure.form.format(low + tick * measure.step), QUIET, 13, "mm")
    for row, (runs, pair) in enumerate(zip(rows, pairs, strict=True)):
        colour, (plain, own) = verdict(runs, measure), map(across, pair)
        chart.line([(plain, _height(row)), (own, _height(row))], colour, 2)
        chart.dot(plain, _height(row), 4, PLAIN)
        chart.dot(own, _height(row), 6, colour)
