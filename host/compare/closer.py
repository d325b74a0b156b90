"""What the page knows of a comparison's cells: to show one by itself, and to put its settings back into the nodes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from comfy.model_patcher import ModelPatcher

from ...guidance.rule import Rule
from ...guidance.rules.cfg import CFG
from ..engine.page_events import line_keys
from ..engine.plan import plan_of
from .grid import Axis, Grid
from .settings import (
    MATCHED,
    MIXED,
    MODEL,
    NAMES,
    NONE,
    PLACES,
    PLAIN,
    SAMPLER,
    Settings,
    place_of,
    socket,
    split_interval,
)
from .sheet import Sheet
from .values import OFF, Value


def cells_of(grid: Grid, sheet: Sheet, models: Sequence[ModelPatcher]) -> list[dict[str, Any]]:
    """For every cell, row by row, its `box` on the sheet (left, top, right, bottom), its settings in `words`, and the
    `changes` that make it of the graph as it is.

    A change has `words` for what it is of, the widgets' `values` by their names, and `key`: that of the component's
    curve, "" for Compare Guidance itself. Without values it is none of widgets alone: people make it themselves.
    """
    plans = [(plan_of(model).guidance.rules, line_keys(model)) for model in models]
    found = []
    for index, cell in enumerate(grid.cells):
        row, column = divmod(index, len(grid.columns))
        sides = ((grid.x, grid.columns[column]), (grid.y, grid.rows[row]))
        found.append({
            "box": sheet.box(column, row),
            "words": ", ".join(f"{axis.title} {value.heading}".strip() for axis, value in sides if value.heading),
            "changes": [one for axis, value in sides for one in _changes(axis, value, cell, *plans[cell.model])],
        })  # fmt: skip
    return found


def _changes(
    axis: Axis, value: Value, cell: Settings, rules: Sequence[Rule], keys: Sequence[str]
) -> Iterator[dict[str, Any]]:
    """What a side of the grid asks of the graph; nothing where it varies nothing. rules: those that the nodes made."""
    name = axis.parameter
    kind, _, setting = name.rpartition(" ")
    kind = CFG.name if name in MIXED else kind
    now, then = place_of(cell.rules, kind, axis.which), place_of(rules, kind, axis.which)
    if name == MODEL or (name == MATCHED and cell.plain):
        yield {"words": socket(cell.model) if name == MODEL else PLAIN, "key": "", "values": {}}
    elif name in SAMPLER or name in NAMES:
        yield {"words": name, "key": "", "values": {name: getattr(cell, name)}}
    elif name in (NONE, MATCHED):
        return
    elif now is None or then is None:
        yield {"words": axis.title, "key": "", "values": {}}
    elif name in MIXED:
        yield {"words": axis.title, "key": keys[then], "values": {name: value.setting}}
    else:
        yield {"words": axis.title, "key": keys[then], "values": _values(cell.rules[now], setting, value.setting)}


def _values(rule: Rule, setting: str, value: Any) -> dict[str, Any]:
    """The widgets of a component that make this rule, as far as one setting goes."""
    if setting in PLACES:
        _, inside = split_interval(rule.schedule)
        return {"unit": inside.unit, "start": inside.start, "end": inside.end}
    changed = dict(rule.off) if value == OFF else {setting: getattr(rule, setting)}
    return {"weight_from": "node", **changed} if isinstance(rule, CFG) else changed
