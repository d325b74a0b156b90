"""What a comparison varies: the settings of a cell, and a parameter's name and value made into other settings.

Settings of components are named as on their nodes ("autoguidance weight", "classifier scale", "cfg start"). They are
changed on the rules of the MODEL's plan, so a cell is exactly what the nodes would give with these settings.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import comfy.samplers
from comfy.model_patcher import ModelPatcher

from ...guidance.compose import split
from ...guidance.losses.cross_entropy import CrossEntropy
from ...guidance.negative_attention import NegativeAttention
from ...guidance.rule import Rule, Weigher, is_one
from ...guidance.rule import rules as known_rules
from ...guidance.rules.autoguidance import Autoguidance
from ...guidance.rules.cfg import CFG
from ...guidance.rules.cfg_zero import CFGZero
from ...guidance.rules.gradient import GradientGuidance
from ...guidance.rules.zero_init import ZeroInit
from ...guidance.schedule import ALWAYS, Curve, Interval, Product, Schedule
from ...guidance.shaping import Shape
from ..degrade.degrade import KINDS
from ..engine.plan import plan_of, schedule_within
from .damage import DAMAGES, KIND, LAYERS, Damage, damages_of, set_damage
from .values import OFF, Kind

NONE, MODEL = "none", "model"
MATCHED, AS_SET, PLAIN = "equal strength", "as set", "plain CFG"
PLACES = ("start", "end", "interval")
MIXED = ("total", "mix")  # the widgets of CFG + Autoguidance, which are two rules
GRADIENTS = ("classifier", "loss")  # the two nodes of one rule
SAMPLER = {  # the sampler's own settings, the lowest and the highest
    "cfg": (0.0, 100.0), "steps": (1, 10000), "denoise": (0.0, 1.0), "seed": (0, 2**64 - 1),
}  # fmt: skip
NAMES = {"sampler_name": comfy.samplers.SAMPLER_NAMES, "scheduler": comfy.samplers.SCHEDULER_NAMES}
SHAPE = "shape rule"  # the rule of Shape CFG
POINT = re.compile(r"(?P<kind>.+) point (?P<number>[1-9]\d?)")  # of a SCHEDULE with points, from 1
MOST_POINTS, LARGEST_STRENGTH = 16, 10.0


@dataclass(frozen=True)
class Settings:
    """Everything that may differ between cells. Equal settings give equal pictures.

    Attributes:
        model: which of the connected MODELs, from 0.
        rules: the rules of its plan, in chain order.
        plain: drawn without components, by CFG alone at the weight that they came to.
        degraded: of the MODEL's guides that are Degraded Models.
    """

    model: int
    rules: tuple[Rule, ...]
    cfg: float
    steps: int
    seed: int
    denoise: float
    sampler_name: str
    scheduler: str
    plain: bool = False
    degraded: tuple[Damage, ...] = ()

    def components(self, full: bool = False) -> list[str]:
        """The components that do something, in words; with all their numbers if `full`."""
        guides = [damage.words() for damage in self.degraded]
        return [*(_words(rule, full) for rule in self.rules if not is_off(rule)), *guides]

    def bare(self) -> Settings:
        """The same settings, whatever the settings of components that are off."""
        return replace(self, rules=tuple(switched_off(rule) if is_off(rule) else rule for rule in self.rules))


def parameter_names() -> list[str]:
    """Every name that can be varied, first those of the sampler, then those of the components."""
    named = [f"{kind} {setting}" for kind, rule in kinds() for setting in settings_of(rule)]
    return [NONE, *SAMPLER, *NAMES, MODEL, *named, *MIXED, SHAPE, *DAMAGES, MATCHED]


def choices_of(name: str) -> tuple[str, ...]:
    """The names that a parameter can have; none if its values are no names."""
    shapes = tuple(kind for kind, rule in kinds() if issubclass(rule, Shape) and rule is not ZeroInit)
    return tuple({**NAMES, MATCHED: (AS_SET, PLAIN), SHAPE: shapes, KIND: KINDS}.get(name, ()))


def settings_on(first: Settings, model: ModelPatcher, index: int = 0) -> Settings:
    """The settings of the widgets with what is on a MODEL. index: which of the connected ones it is."""
    return replace(first, model=index, rules=plan_of(model).guidance.rules, degraded=damages_of(model))


def kind_of_values(name: str) -> Kind:
    """What the values of a parameter are."""
    counted = {f"{kind} {f.name}" for kind, rule in kinds() for f in fields(rule) if f.type in (int, "int")}
    if name in ("steps", "seed", *counted):
        return "whole"
    if choices_of(name):
        return "name"
    if name == LAYERS:
        return "layers"
    return "interval" if name.endswith(" interval") else "number"


def can_be_off(name: str) -> bool:
    """Whether "off" is one of the parameter's values."""
    return name == "cfg" or (" " in name and name not in (MATCHED, SHAPE, *DAMAGES) and not POINT.fullmatch(name))


def vary(settings: Settings, name: str, value: Any, which: int = 1) -> Settings:
    """These settings with one of them changed. which: of several components of the kind, in chain order, from 1.

    Raises:
        ValueError: the MODEL has no such component, or the value is outside its range, in words.
    """
    if name in SAMPLER:
        value = 1.0 if value == OFF else value
        _check_range(name, value)
        return replace(settings, **{name: value})
    if name in NAMES:
        return replace(settings, **{name: value})
    if name == MATCHED:
        return replace(settings, plain=value == PLAIN)
    if name in MIXED:
        return _mix(settings, name, value)
    if name in DAMAGES:
        return replace(settings, degraded=set_damage(settings.degraded, name, value, which, socket(settings.model)))
    if name == SHAPE:
        return replace(settings, rules=with_shape(settings.rules, _shape_place(settings, which), value))
    point = POINT.fullmatch(name)
    if point:
        place = _place(settings, point["kind"], which, name)
        return _with(settings, place, _with_point(settings.rules[place], int(point["number"]), value, name))
    kind, _, setting = name.rpartition(" ")
    place = _place(settings, kind, which, name)
    return _with(settings, place, _change(settings.rules[place], setting, value))


def sampler_cfg_is_unused(settings: Settings) -> bool:
    """Whether CFG Combine or Adaptive Weight sets a weight of its own, so that the sampler's cfg does nothing."""
    combines = [rule for rule in settings.rules if isinstance(rule, CFG)]
    alone = any(isinstance(rule, Weigher) and rule.alone for rule in settings.rules)
    return (alone or bool(combines)) and all(rule.weight is not None for rule in combines)


def socket(index: int) -> str:
    """The node's input of a MODEL, counted from 0."""
    return f"model_{index + 1}" if index else "model"


def kind_name(rule: Rule) -> str:
    """A component's kind, as in the names of parameters."""
    if isinstance(rule, GradientGuidance) and rule.objective is not None:
        return GRADIENTS[not isinstance(rule.objective.loss, CrossEntropy)]
    return rule.name.replace("_", " ")


def settings_of(rule: type[Rule]) -> tuple[str, ...]:
    """What can be varied of a kind of component."""
    return (*(f.name for f in fields(rule) if "min" in f.metadata), *PLACES)


def is_off(rule: Rule) -> bool:
    """Whether a component does nothing at these settings, whatever the others."""
    _, inside = split_interval(rule.schedule)
    return rule.inert or inside.start == inside.end


def switched_off(rule: Rule) -> Rule:
    """The component as its node leaves it when it is off."""
    return replace(rule, **rule.off, **{"schedule": ALWAYS})


def split_interval(schedule: Schedule) -> tuple[Schedule | None, Interval]:
    """The SCHEDULE input and the interval that a component's schedule was made of (plan.schedule_within)."""
    if isinstance(schedule, Interval):
        return None, schedule
    if isinstance(schedule, Product) and len(schedule.parts) == 2 and isinstance(schedule.parts[1], Interval):
        return schedule.parts[0], schedule.parts[1]
    return (None if schedule == ALWAYS else schedule), Interval()


def kinds() -> Iterator[tuple[str, type[Rule]]]:
    """Every kind of component, as `kind_name` names it, with its rule."""
    for name, rule in {**known_rules(), NegativeAttention.name: NegativeAttention}.items():
        for kind in GRADIENTS if rule is GradientGuidance else (name.replace("_", " "),):
            yield kind, rule


def _words(rule: Rule, full: bool) -> str:
    """A component: its kind, its weight, scale or all its numbers, where it acts."""
    shown = [setting for setting in settings_of(type(rule)) if setting not in PLACES and (full or len(rule.off) == 1)]
    if not full:
        shown = [setting for setting in shown if setting in rule.off]
    given = [(setting, getattr(rule, setting)) for setting in shown if getattr(rule, setting) is not None]
    numbers = [f"{setting} {value:g}" if len(given) > 1 else f"{value:g}" for setting, value in given]
    schedule, inside = split_interval(rule.schedule)
    where = "" if inside.everywhere else f" from {inside.start:g} to {inside.end:g} {inside.unit}"
    return " ".join([kind_name(rule), ", ".join(numbers)]).strip() + where + (" on a schedule" if schedule else "")


def curve_of(rule: Rule) -> Curve | None:
    """The points of a component's SCHEDULE, if it has one curve of not too many."""
    schedule, _ = split_interval(rule.schedule)
    parts = schedule.parts if isinstance(schedule, Product) else (schedule,)
    curves = [part for part in parts if isinstance(part, Curve)]
    return curves[0] if len(curves) == 1 and len(curves[0].points) <= MOST_POINTS else None


def with_curve(rule: Rule, curve: Curve) -> Rule:
    """The component with other points: in the place of its own, else as its SCHEDULE."""
    schedule, inside = split_interval(rule.schedule)
    own = curve_of(rule)
    if own is not None and isinstance(schedule, Product):
        schedule = replace(schedule, parts=tuple(curve if part is own else part for part in schedule.parts))
    else:
        schedule = curve
    return replace(rule, **{"schedule": schedule_within(schedule, inside)})


def shape_at(rules: Sequence[Rule], place: int) -> int:
    """How many rules the Shape CFG at a place has put there: CFG-Zero* brings its zero init."""
    follows = isinstance(next(iter(rules[place + 1 :]), None), ZeroInit)
    return 2 if follows and isinstance(rules[place], CFGZero) else 1


def with_shape(rules: tuple[Rule, ...], place: int, kind: str) -> tuple[Rule, ...]:
    """The rules with Shape CFG's at a place changed for another, as amount, interval and mask are; its own numbers are
    those of a new node."""
    old = rules[place]
    assert isinstance(old, Shape)
    if kind_name(old) == kind:
        return rules
    chosen = dict(kinds())[kind]
    common = {"amount": old.amount, "schedule": old.schedule, "region": old.region}
    new = tuple(one(**common) for one in (chosen, *([ZeroInit] if chosen is CFGZero else [])))
    return (*rules[:place], *new, *rules[place + shape_at(rules, place) :])


def shape_places(rules: Sequence[Rule]) -> list[int]:
    """Where the Shape CFG nodes of a chain begin."""
    found, place = [], 0
    while place < len(rules):
        if isinstance(rules[place], Shape):
            found.append(place)
            place += shape_at(rules, place)
        else:
            place += 1
    return found


def _shape_place(settings: Settings, which: int) -> int:
    places = shape_places(settings.rules)
    if which <= len(places):
        return places[which - 1]
    missing = f"only {len(places)} Shape CFG" if places else "no Shape CFG"
    raise ValueError(f"{SHAPE} is to be varied, and {socket(settings.model)} carries {missing}. Add the node first.")


def _with_point(rule: Rule, number: int, value: float, name: str) -> Rule:
    curve = curve_of(rule)
    if curve is None or number > len(curve.points):
        has = f"{len(curve.points)} points" if curve is not None else "no SCHEDULE of points"
        raise ValueError(
            f"{name} is to be varied, and {kind_name(rule)} has {has}. Connect Guidance Schedule to it, with shape = "
            f"points and at most {MOST_POINTS} of them."
        )
    if abs(value) > LARGEST_STRENGTH:
        raise ValueError(f"{name} is {value:g}; it can be {-LARGEST_STRENGTH:g} to {LARGEST_STRENGTH:g}.")
    points = list(curve.points)
    points[number - 1] = (points[number - 1][0], value)
    return with_curve(rule, replace(curve, points=tuple(points)))


def _check_range(name: str, value: Any) -> None:
    low, high = SAMPLER[name]
    if not low <= value <= high:
        raise ValueError(f"{name} is {value:g}; it can be {low:g} to {high:g}.")


def place_of(rules: Sequence[Rule], kind: str, which: int) -> int | None:
    """Where the nth component of a kind stands, counted from 1; None if there is none."""
    places = [index for index, rule in enumerate(rules) if kind_name(rule) == kind]
    return places[which - 1] if which <= len(places) else None


def _place(settings: Settings, kind: str, which: int, name: str) -> int:
    place = place_of(settings.rules, kind, which)
    if place is not None:
        return place
    count = sum(kind_name(rule) == kind for rule in settings.rules)
    missing = f"only {count} of {kind}" if count else f"no {kind}"
    raise ValueError(
        f"{name} is to be varied, and {socket(settings.model)} carries {missing}. It carries: "
        f"{_carries(settings.rules)}. Add the component (not at weight 1 or scale 0, where its node leaves it out), or "
        f"vary one of {', '.join((*SAMPLER, *NAMES))}."
    )

def _carries(rules: Sequence[Rule]) -> str:
    found = [f"{kind_name(rule)} ({', '.join(settings_of(type(rule)))})" for rule in rules]
    return ", ".join(dict.fromkeys(found)) or "no guidance components"


def _with(settings: Settings, place: int, rule: Rule) -> Settings:
    return replace(settings, rules=(*settings.rules[:place], rule, *settings.rules[place + 1 :]))


def _change(rule: Rule, setting: str, value: Any) -> Rule:
    if value == OFF:
        return replace(rule, **rule.off)
    if setting not in PLACES:
        return replace(rule, **{setting: value})
    schedule, inside = split_interval(rule.schedule)
    inside = value if setting == "interval" else replace(inside, **{setting: value})
    return replace(rule, **{"schedule": schedule_within(schedule, inside)})


def _mix(settings: Settings, name: str, value: Any) -> Settings:
    """total or mix of CFG + Autoguidance: its two weights, from what they are now (2406.02507 Eq. 6)."""
    weights = [(i, r.weight) for i, r in enumerate(settings.rules) if isinstance(r, CFG) and r.weight is not None]
    auto = [(i, r.weight) for i, r in enumerate(settings.rules) if isinstance(r, Autoguidance)]
    if len(weights) != 1 or len(auto) != 1:
        raise ValueError(
            f"{name} is that of CFG + Autoguidance, which is one cfg with a weight of its own and one autoguidance; "
            f"{socket(settings.model)} carries: {_carries(settings.rules)}."
        )
    (cfg_at, cfg), (auto_at, weaker) = weights[0], auto[0]
    total = round(cfg + weaker - 1.0, 6)  # to the digits that people type, so that the weights are those of the node
    mix = round((weaker - 1.0) / (total - 1.0), 6) if not is_one(total) else 0.5
    cfg, weaker = split(value if name == "total" else total, value if name == "mix" else mix)
    settings = _with(settings, cfg_at, _change(settings.rules[cfg_at], "weight", cfg))
    return _with(settings, auto_at, _change(settings.rules[auto_at], "weight", weaker))
