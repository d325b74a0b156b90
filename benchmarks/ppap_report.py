"""What the PPAP study shows: tables in markdown, the plot of accuracy against scale, and sheets of pictures."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from statistics import mean, stdev

import torch
from charts import INK, QUIET, Chart
from PIL import Image
from ppap_measure import MAP_SCALES, TARGET_SEED, Bench, Cell, Strength, told
from ppap_variants import CLASSIFIERS, CONVOLUTION, MAP_GUIDES, VARIANTS, Variant
from sheets import contact_sheet
from world import render

from guided_maps import shown as as_picture  # isort: skip - it needs the pack's name

Found = Mapping[str, Sequence[Cell]]
Best = Callable[[list[Cell]], Cell]
TITLES = {CONVOLUTION: "convolutional classifier (BatchNorm)", "transformer": "small transformer"}
PANEL, HEIGHT, LEFT, TOP, BOTTOM, GAP, LINE = 420, 320, 64, 70, 50, 50, 19
COLOURS = (
    "#7a8496", "#d9480f", "#c2a100", "#1d4ed8", "#0f766e", "#7e22ce", "#be185d", "#4d7c0f", "#0891b2", "#57534e",
    "#f472b6", "#86efac",
)  # fmt: skip
SHOWN = ("naive", "single", "ppap-5", "multi-5")
PICTURES = 10


def tables(found: Found, best: Best) -> str:
    """One table per kind of classifier, with its scales; and one of the maps."""
    parts = [
        _classes(found, group, TITLES[base], best)
        for base, group in CLASSIFIERS.items()
        if any(sweep(found.get(v.name, ())) for v in group)
    ]
    return "\n\n".join([*parts, _maps(found, best)])


def sweep(cells: Sequence[Cell]) -> list[Cell]:
    """The ODE's cells of the first seed, over rising scales, without the unguided one; those with a cap at the end."""
    guided = (c for c in cells if (c.sampler, c.seed) == ("ode", 0) and c.scale)
    return sorted(guided, key=lambda cell: (cell.cap, cell.scale))


def _classes(found: Found, group: Sequence[Variant], title: str, best: Best) -> str:
    columns = strengths(cell for v in group for cell in sweep(found.get(v.name, ())))
    heads = [title, *map(told, columns), "best", "with ancestral sampling"]
    lines = [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    for cell in found.get("naive", ()):
        if cell.scale == 0 and cell.sampler == "ode":
            lines.append(f"| no guidance: {cell.words()} |" + " |" * (len(heads) - 1))
    for variant in group:
        cells = found.get(variant.name, ())
        at = {cell.strength: f"{cell.accuracy:.0%} / {cell.frechet:.1f}" for cell in sweep(cells)}
        if not at:
            continue
        row = [variant.title, *(at.get(s, "") for s in columns), seeds(cells, best(sweep(cells))), slow(cells, best)]
        lines.append(f"| {' | '.join(row)} |")
    return "\n".join(lines)


def slow(cells: Sequence[Cell], best: Best) -> str:
    """The best of the cells with ancestral sampling."""
    found = [cell for cell in cells if cell.sampler == "ancestral"]
    return f"{told(best(found).strength)}: {best(found).words()}" if found else ""


def strengths(cells: Iterable[Cell]) -> list[Strength]:
    """The scales and caps that occur, in the order of `sweep`."""
    return sorted({cell.strength for cell in cells}, key=lambda strength: strength[::-1])


def seeds(cells: Sequence[Cell], chosen: Cell) -> str:
    """The best cell: mean and standard deviation over the sampling's seeds where there are several."""
    same = [c for c in cells if (c.sampler, c.strength) == ("ode", chosen.strength)]
    if len(same) < 2:
        return f"{told(chosen.strength)}: {chosen.words()}"
    right, far = ([getattr(c, key) for c in same] for key in ("accuracy", "frechet"))
    near, much = (mean(getattr(c, key) for c in same) for key in ("precision", "recall"))
    return (
        f"{told(chosen.strength)}: {mean(right):.1%} ± {stdev(right):.1%} / {mean(far):.1f} ± {stdev(far):.1f} / "
        f"{near:.2f} / {much:.2f}"
    )


def _maps(found: Found, best: Best) -> str:
    lines = ["| guided by | scale: error | best | with ancestral sampling |", "|---|---|---|---|"]
    for task, group in MAP_GUIDES.items():
        for cell in found.get(f"{task}-naive", ()):
            if cell.scale == 0 and cell.sampler == "ode":
                lines.append(f"| {task}: no guidance | | {cell.words()} | |")
        for variant in group:
            cells = found.get(variant.name, ())
            if not sweep(cells):
                continue
            chosen = best(sweep(cells))
            steps = "; ".join(f"{told(c.strength).removeprefix('scale ')}: {c.error:.3f}" for c in sweep(cells))
            best_of = f"{told(chosen.strength)}: {chosen.words()}"
            row = [f"{task}: {variant.title}", steps, best_of, slow(cells, best)]
            lines.append(f"| {' | '.join(row)} |")
    return "\n".join(lines)


def plot(found: Found) -> Image.Image:
    """Accuracy against scale, one panel per kind of classifier, a line per guide."""
    measured = {
        base: [v for v in group if _first(v) and sweep(found.get(v.name, ()))] for base, group in CLASSIFIERS.items()
    }
    groups = {base: group for base, group in measured.items() if group}
    rows = max((len(group) for group in groups.values()), default=0)
    wide, high = LEFT + max(2, len(groups)) * (PANEL + GAP), TOP + HEIGHT + BOTTOM + rows * LINE
    chart = Chart(wide, high)
    chart.text(16, 24, "Share of pictures that the judge takes for what was asked, against guidance scale", INK, 17)
    for index, (base, group) in enumerate(groups.items()):
        _panel(chart, LEFT + index * (PANEL + GAP), TITLES[base], {v.title: sweep(found[v.name]) for v in group})
    return chart.picture()


def _first(variant: Variant) -> bool:
    return variant.recipe is None or variant.recipe.seed == 0


def _panel(chart: Chart, left: int, title: str, lines: Mapping[str, Sequence[Cell]]) -> None:
    occur = strengths(cell for cells in lines.values() for cell in cells)
    across = {at: left + PANEL * (i + 0.5) / len(occur) for i, at in enumerate(occur)}
    chart.text(left, TOP - 18, title, INK, 15)
    for share in (0.0, 0.2, 0.4, 0.6, 0.8, 1.0):
        chart.rule(left, left + PANEL, TOP + HEIGHT * (1 - share), f"{share:.0%}")
    for at, x in across.items():
        chart.text(x, TOP + HEIGHT + 16, told(at).removeprefix("scale "), QUIET, 13, "mm")
    for number, (words, cells) in enumerate(lines.items()):
        colour, y = COLOURS[number % len(COLOURS)], TOP + HEIGHT + BOTTOM + number * LINE
        points = [(across[c.strength], TOP + HEIGHT * (1 - c.accuracy)) for c in cells]
        chart.line(points[: sum(not c.cap for c in cells)], colour)
        for x, height in points:
            chart.dot(x, height, 4, colour)
        chart.line([(left, y), (left + 26, y)], colour)
        chart.text(left + 34, y, words)


def pictures(bench: Bench, found: Found, best: Best) -> Image.Image:
    """Classes, depth and segmentation asked for, each by the naive network, the single one and the experts."""
    rows = []
    for names in (SHOWN, *((v.name for v in group) for group in MAP_GUIDES.values())):
        for name in (name for name in names if name in found and sweep(found[name])):
            task = name.partition("-")[0]
            if name == f"{task}-naive" and task in MAP_SCALES:
                world = render(PICTURES, TARGET_SEED)
                target = world.depth if task == "depth" else world.segmentation[:, None].float()
                rows.append((f"{task} asked for", as_picture(task, target)))
            chosen, title = best(sweep(found[name])), VARIANTS[name].title
            got = f"accuracy {chosen.accuracy:.0%}" if chosen.error is None else f"error {chosen.error:.3f}"
            rows.append((f"{title}, {told(chosen.strength)}: {got}", bench.shown(chosen, VARIANTS[name])[:PICTURES]))
    return contact_sheet(rows or [("nothing yet", torch.zeros(1, 3, 32, 32))]).quantize(256)
