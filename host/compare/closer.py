"""What the page knows of a comparison's cells: to show one by itself, and to put its settings back into the nodes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from comfy.model_patcher import ModelPatcher

from ...guidance.rules.cfg import CFG
from ..engine.page_events import line_keys
from .grid import Axis, Grid
from .settings import MATCHED, MIXED, MODEL, NAMES, NONE, PLACES, SAMPLER, Settings, place_of, socket, split_interval
from .sheet import Sheet
from .values import OFF, Value


def cells_of(grid: Grid, sheet: Sheet, models: Sequence[ModelPatcher]) -> list[dict[str, Any]]:
    """For every cell, row by row, its `box` on the sheet (left, top, right, bottom), its settings in `words`, and the
    `changes` that make it of the graph as it is.

    A change has `words` for what it is of, the widgets' `values` by their names, and `key`: that of the component's
    curve, "" for Compare Guidance itself. Without values it is a wire that people draw themselves.
    """
    keys = [line_keys(model) for model in models]
    found = []
    for index, cell in enumerate(grid.cells):
        row, column = divmod(index, len(grid.columns))
        sides = ((grid.x, grid.columns[column]), (grid.y, grid.rows[row]))
        found.append({
            "box": sheet.box(column, row),
            "words": ", ".join(f"{axis.title} {value.heading}".strip() for axis, value in sides if value.heading),
            "changes": [change for axis, value in sides for change in _changes(axis, value, cell, keys[cell.model])],
        })  # fmt: skip
    return found


def _changes(axis: Axis, value: Value, cell: Settings, keys: Sequence[str]) -> Iterator[dict[str, Any]]:
    """What one side of the grid asks of the graph; nothing where it varies nothing."""
    name = axis.parameter
    if name == MODEL or (name == MATCHED and cell.plain):
        yield {"words": socket(cell.model) if name == MODEL else "plain CFG", "key": "", "values": {}}
    elif name in SAMPLER or name in NAMES:
        yield {"words": name, "key": "", "values": {name: getattr(cell, name)}}
    elif name in MIXED:
        yield {"words": axis.title, "key": keys[place_of(cell, CFG.name, 1, name)], "values": {name: value.setting}}
    elif name not in (NONE, MATCHED):
        kind, _, setting = name.rpartition(" ")
        place = place_of(cell, kind, axis.which, name)
        values = _values(cell.rules[place], setting, value.setting == OFF)
        yield {"words": axis.title, "key": keys[place], "values": values}


def _values(rule, setting: str, off: bool) -> dict[str, Any]:
    """The widgets of a component that make this rule, as far as one setting goes."""
    if setting in PLACES:
        _, inside = split_interval(rule.schedule)
        return {"unit": inside.unit, "start": inside.start, "end": inside.end}
    changed = dict(rule.off) if off else {setting: getattr(rule, setting)}
    return {"weight_from": "node", **changed} if isinstance(rule, CFG) else changed
