"""The plot of the P2 study: Frechet distance against training, one panel per schedule and amount of data."""

from __future__ import annotations

from collections.abc import Mapping
from statistics import mean

from charts import INK, QUIET, Chart
from PIL import Image

PANEL, HEIGHT, LEFT, TOP, BOTTOM, GAP = 360, 330, 64, 74, 44, 26
COLOURS = {"0": "#7a8496", "0.5": "#2563eb", "1": "#d9480f"}
WORDS = {"0": "plain eps-loss", "0.5": "P2, gamma 0.5", "1": "P2, gamma 1"}


def curves(groups: Mapping[str, list[dict]]) -> Image.Image:
    """groups: the runs of each schedule and gamma. A line is the mean over seeds, dots are the seeds."""
    panels = list(dict.fromkeys(_of(name) for name in groups))
    wide = LEFT + len(panels) * (PANEL + GAP)
    chart = Chart(wide, TOP + HEIGHT + BOTTOM)
    values = [v for runs in groups.values() for run in runs for v in run["training"].values()]
    top = max(values, default=1.0) * 1.05
    for index, panel in enumerate(panels):
        _panel(chart, LEFT + index * (PANEL + GAP), panel, {n: r for n, r in groups.items() if _of(n) == panel}, top)
    chart.text(16, 24, "Frechet distance against steps of training (lower is better)", INK, 17)
    for place, (gamma, words) in enumerate(WORDS.items()):
        x = wide - 500 + 165 * place
        chart.line([(x, 24), (x + 22, 24)], COLOURS[gamma])
        chart.text(x + 28, 24, words)
    return chart.picture()


def _of(name: str) -> str:
    return name.rpartition("-")[0]


def _panel(chart: Chart, left: int, panel: str, groups: Mapping[str, list[dict]], top: float) -> None:
    looks = sorted({int(look) for runs in groups.values() for run in runs for look in run["training"]})
    across = {look: left + PANEL * (place + 0.5) / len(looks) for place, look in enumerate(looks)}
    title = panel.removeprefix("small-") + (" schedule, 1,000 pictures" if panel.startswith("small-") else " schedule")
    chart.text(left, TOP - 16, title, INK, 15)
    for step in range(0, int(top) + 1, 20):
        chart.rule(left, left + PANEL, TOP + HEIGHT * (1 - step / top), str(step))
    for look, x in across.items():
        chart.text(x, TOP + HEIGHT + 18, f"{look:,}", QUIET, 13, "mm")
    for name, runs in groups.items():
        colour, points = COLOURS[name.rpartition("-")[2]], []
        for look, x in across.items():
            found = [run["training"][str(look)] for run in runs]
            for value in found:
                chart.dot(x, TOP + HEIGHT * (1 - value / top), 3.0, colour)
            if found:
                points.append((x, TOP + HEIGHT * (1 - mean(found) / top)))
        if len(points) > 1:
            chart.line(points, colour)
