"""The cells of a comparison: two parameters with their values, checked as a whole before anything is drawn."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from comfy.model_patcher import ModelPatcher

from ...guidance.rules.cfg import CFG
from ..common.errors import no_option
from ..common.noise_levels import ModelPositions
from ..engine.plan import check_combines
from .damage import with_damages
from .settings import (
    AS_SET,
    MATCHED,
    MODEL,
    NAMES,
    NONE,
    PLAIN,
    SAMPLER,
    Settings,
    can_be_off,
    choices_of,
    kind_of_values,
    parameter_names,
    sampler_cfg_is_unused,
    settings_on,
    socket,
    vary,
)
from .sheet import Words
from .values import Value, check_count, parse

NOTHING = (Value("", ""),)


@dataclass(frozen=True)
class Axis:
    """One side of the grid as its widgets give it: side x or y, the parameter, its values, and of which component."""

    side: str
    parameter: str = NONE
    text: str = ""
    which: int = 1

    def values(self, models: tuple[Settings, ...] = ()) -> tuple[Value, ...]:
        """The values. models: the settings of every MODEL, for the headings of MODELs that are given no names.

        Raises:
            ValueError: an unknown parameter, or a text that is no list of its values, in words.
        """
        if self.parameter not in parameter_names():
            raise ValueError(no_option(f"{self.side}_parameter", self.parameter, parameter_names()))
        if self.which < 1:
            raise ValueError(f"{self.side}_which is {self.which}; components are counted from 1.")
        if self.parameter == NONE:
            return NOTHING
        if self.parameter == MODEL:
            return self._models(models)
        text = f"{AS_SET}, {PLAIN}" if self.parameter == MATCHED and not self.text.strip() else self.text
        return parse(
            text, kind_of_values(self.parameter), name=self.parameter, side=f"{self.side}_values",
            options=choices_of(self.parameter), off=can_be_off(self.parameter),
        )

    @property
    def title(self) -> str:
        """The parameter as it stands in the picture."""
        if self.parameter in (NONE, MODEL):
            return ""
        kind, _, setting = self.parameter.rpartition(" ")
        return f"{kind} {self.which} {setting}" if kind and self.which > 1 else self.parameter.replace("_", " ")

    def _models(self, models: tuple[Settings, ...]) -> tuple[Value, ...]:
        names = [name.strip() for name in self.text.replace("\n", ",").split(",") if name.strip()]
        if not names:
            names = [f"{i}: {', '.join(m.components()) or 'unguided'}" for i, m in enumerate(models, 1)]
        if models and len(names) != len(models):
            raise ValueError(
                f"{self.side}_values has {len(names)} names ({', '.join(names)}), and {len(models)} MODELs are "
                f"connected. Give each MODEL a name, or leave {self.side}_values empty."
            )
        return tuple(Value(index, name) for index, name in enumerate(names))


def axes_problem(
    x_parameter: str | None, x_values: str | None, x_which: int | None,
    y_parameter: str | None, y_values: str | None, y_which: int | None,
) -> str | None:
    """What is wrong with the widgets, in words; None if nothing is that can be told without the MODEL.

    A side of which any value is not known yet (None) varies nothing.
    """
    return axis_problem(_side("x", x_parameter, x_values, x_which), _side("y", y_parameter, y_values, y_which))


def _side(side: str, parameter: str | None, text: str | None, which: int | None) -> Axis:
    known = parameter is not None and text is not None and which is not None
    return Axis(side, parameter, text, which) if known else Axis(side)


def axis_problem(x: Axis, y: Axis) -> str | None:
    """What is wrong with the widgets, in words; None if nothing is that can be told without the MODEL."""
    try:
        counts = [len(axis.values()) for axis in (x, y)]
        check_count(max(counts[0], 1) * max(counts[1], 1), "The grid has", "cells")
    except ValueError as error:
        return str(error)
    if x.parameter == y.parameter != NONE and x.which == y.which:
        return f"x_parameter and y_parameter are both {x.parameter!r}. Choose another for y, or none."
    return None


@dataclass(frozen=True, eq=False)
class Grid:
    """Every cell's settings, row by row."""

    x: Axis
    y: Axis
    columns: tuple[Value, ...]
    rows: tuple[Value, ...]
    cells: tuple[Settings, ...]

    @classmethod
    def of(cls, models: tuple[ModelPatcher, ...], first: Settings, x: Axis, y: Axis) -> Grid:
        """first: the settings of the widgets. Raises ValueError for settings that a MODEL cannot have, in words."""
        problem = axis_problem(x, y)
        if problem:
            raise ValueError(problem)
        if len(models) > 1 and MODEL not in (x.parameter, y.parameter):
            raise ValueError(
                f"{len(models)} MODELs are connected, and neither x_parameter nor y_parameter is model. Choose model "
                f"for one of them, or disconnect the others."
            )
        starts = tuple(settings_on(first, model, index) for index, model in enumerate(models))
        columns, rows = x.values(starts), y.values(starts)
        check_count(len(columns) * len(rows), "The grid has", "cells")
        cells = tuple(_cell(starts, x, column, y, row) for row in rows for column in columns)
        for cell in dict.fromkeys(cells):
            _check(cell, models[cell.model], x, y)
        return cls(x, y, columns, rows, cells)

    def keys(self) -> frozenset[Settings]:
        """What distinguishes the pictures."""
        return frozenset(cell.bare() for cell in self.cells)

    def to_draw(self) -> list[Settings]:
        """One cell of each group of equal ones, those of one MODEL after each other, so that it is loaded once; plain
        CFG behind what it is to be as strong as."""
        distinct = {cell.bare(): cell for cell in reversed(self.cells)}
        return sorted(reversed(distinct.values()), key=lambda cell: (cell.model, cell.plain))

    def places(self, settings: Settings) -> Iterator[tuple[int, int]]:
        """The column and row of every cell with these settings."""
        for index, cell in enumerate(self.cells):
            if cell.bare() == settings.bare():
                yield index % len(self.columns), index // len(self.columns)

    def words(self) -> Words:
        """The headings, and below the grid what all cells share."""
        return Words(
            tuple(value.heading for value in self.columns), tuple(value.heading for value in self.rows),
            self.x.title, self.y.title, ", ".join(self._shared()),
        )

    def table(self, count: int, weights: Mapping[Settings, float]) -> str:
        """The settings of every cell as CSV. count: how many pictures a cell has. weights: of cells of plain CFG."""
        out = io.StringIO()
        writer = csv.writer(out, lineterminator="\n")
        sides = [(axis, word) for axis, word in ((self.x, "column"), (self.y, "row")) if axis.parameter != NONE]
        headings = [f"{word}: {axis.title or axis.parameter}" for axis, word in sides]
        writer.writerow(["cell", "pictures", *headings, "components", *SAMPLER, *NAMES])
        for index, cell in enumerate(self.cells):
            first = index * count
            pictures = f"{first}" if count == 1 else f"{first}-{first + count - 1}"
            row, column = divmod(index, len(self.columns))
            at = {"column": self.columns[column].heading, "row": self.rows[row].heading}
            components = "; ".join(cell.components(full=True)) or "none"
            if cell.plain:
                components = f"plain CFG at {weights[cell.bare()]:.3g}, as strong as: {components}"
            settings = [getattr(cell, name) for name in (*SAMPLER, *NAMES)]
            writer.writerow([index, pictures, *(at[word] for _, word in sides), components, *settings])
        return out.getvalue()

    def _shared(self) -> Iterator[str]:
        first, varying = self.cells[0], (self.x.parameter, self.y.parameter)
        unused = all(sampler_cfg_is_unused(cell) for cell in self.cells)
        for name in (*SAMPLER, *NAMES):
            if name in varying or (name == "cfg" and unused) or (name == "denoise" and first.denoise == 1.0):
                continue
            value = getattr(first, name)
            shown = f"{value:g}" if isinstance(value, float) else f"{value}"
            yield shown if name in NAMES else f"{shown} steps" if name == "steps" else f"{name} {shown}"


def _cell(starts: tuple[Settings, ...], x: Axis, column: Value, y: Axis, row: Value) -> Settings:
    """The settings of one cell. A start behind the old end is no mistake if the new end lies behind it."""
    sides = [(x, column), (y, row)]
    index = next((v.setting for axis, v in sides if axis.parameter == MODEL and isinstance(v.setting, int)), 0)
    chosen = [(axis, value) for axis, value in sides if axis.parameter not in (NONE, MODEL)]
    try:
        return _in_order(starts[index], chosen)
    except ValueError:
        return _in_order(starts[index], chosen[::-1])


def _in_order(settings: Settings, chosen: list[tuple[Axis, Value]]) -> Settings:
    for axis, value in chosen:
        settings = vary(settings, axis.parameter, value.setting, axis.which)
    return settings


def _check(cell: Settings, model: ModelPatcher, x: Axis, y: Axis) -> None:
    """Raise ValueError for what cannot be sampled, or would change nothing."""
    if "cfg" in (x.parameter, y.parameter) and sampler_cfg_is_unused(cell):
        raise ValueError(
            f"cfg is to be varied, but CFG Combine or Adaptive Weight on {socket(cell.model)} sets a weight of its "
            f"own, so the sampler's cfg changes nothing. Vary cfg weight, or feedback max_weight."
        )
    with_damages(model, cell.degraded)
    positions = ModelPositions(model.get_model_object("model_sampling"))
    check_combines(tuple(rule for rule in cell.rules if isinstance(rule, CFG)), positions)
