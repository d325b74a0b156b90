"""What a search may vary: a line of text for each parameter, named as in Compare, with a range, a list or nothing."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, fields
from itertools import product
from typing import Any

from ...guidance.rule import Rule
from ...guidance.schedule import Interval
from ..common.errors import no_option
from ..compare.damage import DAMAGES
from ..compare.settings import (
    MATCHED,
    MIXED,
    MODEL,
    NONE,
    POINT,
    SAMPLER,
    SHAPE,
    Settings,
    can_be_off,
    choices_of,
    curve_of,
    kind_name,
    kind_of_values,
    kinds,
    parameter_names,
    sampler_cfg_is_unused,
    shape_places,
    socket,
    split_interval,
    vary,
)
from ..compare.values import OFF, Value, parse

MOST = 16  # lines
DIGITS = 3  # of a number that is tried, so that the recipe holds the very numbers
BETWEEN = re.compile(r"(?P<low>\S+)\s*\.\.\s*(?P<high>\S+)(?P<log>\s+log)?$")
SECOND = re.compile(r"(?P<kind>.+) (?P<which>[1-9]\d?) (?P<setting>\S+)$")
SECOND_POINT = re.compile(r"(?P<kind>.+?)( (?P<which>[1-9]\d?))? point (?P<number>[1-9]\d?)$")
UNUSABLE = (NONE, "seed", MATCHED)
USUAL = {  # ranges where a name stands alone
    "cfg": (1.0, 8.0), "cfg weight": (1.0, 8.0), "autoguidance weight": (1.0, 4.0), "total": (1.0, 8.0),
    "mix": (0.0, 1.0), "denoise": (0.3, 1.0), "apg eta": (-1.0, 1.0), "apg norm_threshold": (0.0, 30.0),
    "apg momentum": (-0.9, 0.5), "degraded strength": (0.2, 1.0),
}  # fmt: skip
FIRST, LAST = (0.0, 0.5), (0.5, 1.0)  # of an interval's start and end, in percent
AT_POINTS = (0.0, 1.0)  # strengths of a SCHEDULE
OTHER = {"start": "end", "end": "start"}
SHORT = 4.0  # a range of a rule's own that is no longer is taken whole


@dataclass(frozen=True)
class Dimension:
    """One parameter and what it may be: from low to high, or one of some choices.

    Attributes:
        name: as it is written, "autoguidance 2 weight"; parameter and which: what that means to Compare.
        whole: only whole numbers. log: even in ratios, for ranges over several powers of ten.
        starts: of `model`: the settings that each MODEL comes with.
    """

    name: str
    parameter: str
    which: int = 1
    low: float = 0.0
    high: float = 0.0
    whole: bool = False
    log: bool = False
    choices: tuple[Value, ...] = ()
    starts: tuple[Settings, ...] = ()

    def rounded(self, value: Any) -> Any:
        """A value of Optuna's as it is tried: a choice for its heading, few digits of a number."""
        if self.choices:
            return next(choice.setting for choice in self.choices if choice.heading == value)
        return int(value) if self.whole else float(f"{value:.{DIGITS}g}")

    def words(self) -> str:
        if self.choices:
            return f"{self.name}: {', '.join(choice.heading for choice in self.choices)}"
        return f"{self.name}: {self.low:g} .. {self.high:g}{' log' if self.log else ''}"


def parse_space(text: str, first: Settings, others: tuple[Settings, ...] = ()) -> tuple[Dimension, ...]:
    """The dimensions in a text. first: the settings as they are, whose components are varied; others: those of more
    MODELs.

    Raises:
        ValueError: a line that is no parameter, is varied twice, or that this MODEL cannot have, in words.
    """
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    if not lines:
        raise ValueError("vary is empty. Write what may change, a line for each, such as: cfg weight: 1 .. 8.")
    found = [dimension for line in lines for dimension in _line(line, first, others)]
    if others and not any(dimension.starts for dimension in found):
        raise ValueError(
            f"{len(others) + 1} MODELs are connected, and vary has no line model. Write one, or disconnect the others."
        )
    if len(found) > MOST:
        raise ValueError(f"vary has {len(found)} parameters; at most {MOST} can be searched at once.")
    names = [(dimension.parameter, dimension.which) for dimension in found]
    twice = next((d.name for d in found if names.count((d.parameter, d.which)) > 1), None)
    if twice:
        raise ValueError(f"vary has {twice} twice. Write each parameter once.")
    if any(d.parameter == "cfg" for d in found) and sampler_cfg_is_unused(first):
        raise ValueError(
            "vary has cfg, but CFG Combine or Adaptive Weight sets a weight of its own, so the sampler's cfg changes "
            "nothing. Vary cfg weight, or feedback max_weight."
        )
    space = tuple(found)
    for start in (first, *others):
        _check_intervals(start, space)
        for at in (0, 1):  # what a MODEL cannot have shows at the ends
            set_all(first, space, {d.name: socket(start.model) if d.starts else _ends(d)[at] for d in space})
    return space


def space_problem(text: str | None) -> str | None:
    """What is wrong with the lines, in words; None if nothing is that can be told without the MODEL."""
    try:
        for line in (text or "").splitlines():
            if line.strip():
                _name(line.partition(":")[0].strip())
    except ValueError as error:
        return str(error)
    return None


def set_all(first: Settings, space: tuple[Dimension, ...], values: Mapping[str, Any]) -> Settings:
    """The settings with these values, by the names of their dimensions. Both ends of an interval are set at once."""
    settings = first
    for dimension in space:
        if dimension.starts:
            settings = next(start for start in dimension.starts if socket(start.model) == values[dimension.name])
    for dimension in space:
        if dimension.starts:
            continue
        name, value, which = dimension.parameter, values[dimension.name], dimension.which
        partner = _partner(dimension, space)
        if partner is None:
            settings = vary(settings, name, value, which)
        elif name.endswith(" start"):
            kind = name.removesuffix(" start")
            edges = value, values[partner.name]
            inside = OFF if OFF in edges else Interval(*edges, _unit(settings, kind, which))
            settings = vary(settings, f"{kind} interval", inside, which)
    return settings


def corners(first: Settings, space: tuple[Dimension, ...]) -> list[Settings]:
    """The settings at all that may be asked of degraded guides together, the rest at its lowest."""
    asked = [d for d in space if d.parameter in DAMAGES or d.starts]
    others = {d.name: _ends(d)[0] for d in space if d not in asked}
    options = [[choice.setting for choice in d.choices] or _ends(d) for d in asked]
    names = [d.name for d in asked]
    return [set_all(first, space, {**others, **dict(zip(names, each, strict=True))}) for each in product(*options)]


def value_now(first: Settings, dimension: Dimension) -> Any:
    """What a dimension is in these settings, as Optuna takes it; None if that is not in its range."""
    if dimension.parameter in MIXED:
        return None
    value = socket(first.model) if dimension.starts else _now(first, dimension.parameter, dimension.which)
    return _allowed(dimension, value)


def value_of_paper(first: Settings, dimension: Dimension) -> Any:
    """What a dimension is on a new node, which has the paper's own numbers, as Optuna takes it; what it is now where
    that is none of a node's numbers, or not in its range."""
    kind, _, setting = dimension.parameter.rpartition(" ")
    numbers = {f.name: f.default for f in fields(dict(kinds()).get(kind, Rule))}
    found = _allowed(dimension, numbers[setting]) if setting in numbers else None
    return value_now(first, dimension) if found is None else found


def _allowed(dimension: Dimension, value: Any) -> Any:
    """A value as Optuna takes it, None if it is not in the dimension's range."""
    if dimension.choices:
        return next((choice.heading for choice in dimension.choices if choice.setting == value), None)
    inside = isinstance(value, int | float) and dimension.low <= value <= dimension.high
    return value if inside and dimension.rounded(value) == value else None


def _check_intervals(first: Settings, space: tuple[Dimension, ...]) -> None:
    """Raise ValueError where a start and an end could be tried that are no interval."""
    for start in space:
        kind, _, setting = start.parameter.rpartition(" ")
        end = _partner(start, space)
        if setting == "start" and end is not None:
            unit = _unit(first, kind, start.which)
            worst = (max, min) if unit == "percent" else (min, max)
            edges = [pick(v for v in _ends(d) if v != OFF) for pick, d in zip(worst, (start, end), strict=True)]
            try:
                Interval(*edges, unit)
            except ValueError as error:
                raise ValueError(f"{start.name} and {end.name} in vary may cross. {error}") from None


def _partner(dimension: Dimension, space: tuple[Dimension, ...]) -> Dimension | None:
    """The other end of the same interval, if it is varied too."""
    kind, _, setting = dimension.parameter.rpartition(" ")
    other = f"{kind} {OTHER[setting]}" if setting in OTHER else ""
    return next((d for d in space if (d.parameter, d.which) == (other, dimension.which)), None)


def _line(line: str, first: Settings, others: tuple[Settings, ...]) -> list[Dimension]:
    name, _, text = (part.strip() for part in line.partition(":"))
    if name == MODEL:
        return [_models(text, (first, *others))]
    parameter, which = _name(name)
    kind, _, setting = parameter.rpartition(" ")
    if setting == "interval" and not text:
        _percent(first, kind, which, name)
        stems = [name.removesuffix("interval") + end for end in ("start", "end")]
        return [_range(stem, f"{kind} {stem.split()[-1]}", which, *ends)
                for stem, ends in zip(stems, (FIRST, LAST), strict=True)]  # fmt: skip
    if not text:
        return [_range(name, parameter, which, *_usual(first, parameter, which, name))]
    between = BETWEEN.match(text)
    if between and kind_of_values(parameter) in ("number", "whole"):
        low, high = (_number(between[side], name) for side in ("low", "high"))
        return [_range(name, parameter, which, low, high, bool(between["log"]))]
    values = parse(
        text, kind_of_values(parameter), name=name, side="vary", options=choices_of(parameter),
        off=can_be_off(parameter),
    )
    return [Dimension(name, parameter, which, choices=values)]


def _models(text: str, starts: tuple[Settings, ...]) -> Dimension:
    names = [socket(start.model) for start in starts]
    if len(starts) < 2:
        raise ValueError("vary has model, and one MODEL is connected. Connect others to models, or leave the line out.")
    chosen = [name.strip() for name in text.split(",") if name.strip()] or names
    wrong = next((name for name in chosen if name not in names), None)
    if wrong is not None:
        raise ValueError(no_option("A MODEL in vary", wrong, names))
    return Dimension(MODEL, MODEL, choices=tuple(Value(name, name) for name in chosen), starts=starts)


def _name(name: str) -> tuple[str, int]:
    """The parameter and the number of its component: "autoguidance 2 weight" is ("autoguidance weight", 2)."""
    known = [each for each in parameter_names() if each not in UNUSABLE]  # points are named by number beside these
    if name in known:
        return name, 1
    point = SECOND_POINT.match(name)
    if point and point["kind"] in dict(kinds()):
        return f"{point['kind']} point {point['number']}", int(point["which"] or 1)
    second = SECOND.match(name)
    if second and f"{second['kind']} {second['setting']}" in known:
        return f"{second['kind']} {second['setting']}", int(second["which"])
    if name in UNUSABLE:
        raise ValueError(f"vary has {name}, which no search can choose. Vary a setting of the sampler or a component.")
    raise ValueError(no_option("A parameter in vary", name, known))


def _range(name: str, parameter: str, which: int, low: float, high: float, log: bool = False) -> Dimension:
    whole = kind_of_values(parameter) == "whole"
    if not low < high or (log and low <= 0) or (whole and (low != int(low) or high != int(high))):
        kind = "whole numbers, " * whole + "the smaller first" + ", both above 0 with log" * log
        raise ValueError(f"{name} is to be {low:g} .. {high:g}; a range is two different numbers, {kind}.")
    return Dimension(name, parameter, which, low, high, whole, log)


def _number(text: str, name: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise ValueError(f"{name} has {text!r}, which is no number. A range is such as {name}: 1 .. 8.") from None


def _usual(first: Settings, parameter: str, which: int, name: str) -> tuple[float, float]:
    """The range of a name that stands alone: the field's usual one; the rule's own where that is short; else from off
    to three times as far as it is now."""
    if parameter in USUAL:
        return USUAL[parameter]
    kind, _, setting = parameter.rpartition(" ")
    if POINT.fullmatch(parameter):
        return AT_POINTS
    if parameter in SAMPLER or kind_of_values(parameter) in ("name", "layers"):
        raise ValueError(f"{name} stands alone in vary. Write values for it, such as {name}: {_example(parameter)}.")
    rule = _rule(first, parameter, which)
    if setting in ("start", "end"):
        _percent(first, kind, which, name)
        return FIRST if setting == "start" else LAST
    limits = next(f.metadata for f in fields(rule) if f.name == setting)
    if limits["max"] - limits["min"] <= SHORT:
        return limits["min"], limits["max"]
    now, off = getattr(rule, setting), rule.off.get(setting, 0.0)
    if now is None or now == off:
        raise ValueError(f"{name} stands alone in vary, and has no usual range. Write one, such as {name}: 1 .. 8.")
    low, high = sorted((off, off + 3 * (now - off)))
    return max(low, limits["min"]), min(high, limits["max"])


def _example(parameter: str) -> str:
    if kind_of_values(parameter) == "layers":
        return "middle | usual"
    return ", ".join(choices_of(parameter)[:2]) or "10 .. 30"


def _rule(settings: Settings, parameter: str, which: int) -> Rule:
    """Raises ValueError in Compare's words where there is none."""
    kind, _, setting = parameter.rpartition(" ")
    vary(settings, f"{kind} interval", Interval(), which)
    return [rule for rule in settings.rules if kind_name(rule) == kind][which - 1]


def _unit(settings: Settings, kind: str, which: int):
    return split_interval(_rule(settings, f"{kind} interval", which).schedule)[1].unit


def _percent(settings: Settings, kind: str, which: int, name: str) -> None:
    if _unit(settings, kind, which) != "percent":
        raise ValueError(
            f"{name} stands alone in vary, and {kind}'s interval is in sigma, which has no usual range. Write one, "
            f"such as {kind} start: 2 .. 20 and {kind} end: 0.1 .. 2."
        )


def _now(first: Settings, parameter: str, which: int) -> Any:
    if " " not in parameter:
        return getattr(first, parameter)
    setting = parameter.rpartition(" ")[2]
    if parameter in DAMAGES:
        return getattr(first.degraded[which - 1], setting)
    if parameter == SHAPE:
        return kind_name(first.rules[shape_places(first.rules)[which - 1]])
    point = POINT.fullmatch(parameter)
    if point:
        curve = curve_of(_rule(first, f"{point['kind']} interval", which))
        assert curve is not None, "set_all has set its points"
        return curve.points[int(point["number"]) - 1][1]
    rule = _rule(first, parameter, which)
    inside = split_interval(rule.schedule)[1]
    places = {"start": inside.start, "end": inside.end, "interval": inside}
    return places[setting] if setting in places else getattr(rule, setting)


def _ends(dimension: Dimension) -> tuple[Any, Any]:
    """The lowest and the highest value, or the first and the last choice."""
    if dimension.choices:
        return dimension.choices[0].setting, dimension.choices[-1].setting
    low, high = dimension.low, dimension.high
    return (int(low), int(high)) if dimension.whole else (low, high)
