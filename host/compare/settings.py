"""What a comparison varies: the settings of a cell, and a parameter's name and value made into other settings.

Settings of components are named as on their nodes ("autoguidance weight", "classifier scale", "cfg start"). They are
changed on the rules of the MODEL's plan, so a cell is exactly what the nodes would give with these settings.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import comfy.samplers

from ...guidance.compose import split
from ...guidance.losses.cross_entropy import CrossEntropy
from ...guidance.negative_attention import NegativeAttention
from ...guidance.rule import Rule, Weigher, is_one
from ...guidance.rule import rules as known_rules
from ...guidance.rules.autoguidance import Autoguidance
from ...guidance.rules.cfg import CFG
from ...guidance.rules.gradient import GradientGuidance
from ...guidance.schedule import ALWAYS, Interval, Product, Schedule
from ..engine.plan import schedule_within
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
CHOICES = {**NAMES, MATCHED: (AS_SET, PLAIN)}


@dataclass(frozen=True)
class Settings:
    """Everything that may differ between cells. Equal settings give equal pictures.

    Attributes:
        model: which of the connected MODELs, from 0.
        rules: the rules of its plan, in chain order.
        plain: drawn without components, by CFG alone at the weight that they came to.
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

    def components(self, full: bool = False) -> list[str]:
        """The components that do something, in words; with all their numbers if `full`."""
        return [_words(rule, full) for rule in self.rules if not is_off(rule)]

    def bare(self) -> Settings:
        """The same settings, whatever the settings of components that are off."""
        return replace(self, rules=tuple(switched_off(rule) if is_off(rule) else rule for rule in self.rules))


def parameter_names() -> list[str]:
    """Every name that can be varied, first those of the sampler, then those of the components."""
    named = [f"{kind} {setting}" for kind, rule in kinds() for setting in settings_of(rule)]
    return [NONE, *SAMPLER, *NAMES, MODEL, *named, *MIXED, MATCHED]


def kind_of_values(name: str) -> Kind:
    """What the values of a parameter are."""
    counted = {f"{kind} {f.name}" for kind, rule in kinds() for f in fields(rule) if f.type in (int, "int")}
    if name in ("steps", "seed", *counted):
        return "whole"
    if name in CHOICES:
        return "name"
    return "interval" if name.endswith(" interval") else "number"


def can_be_off(name: str) -> bool:
    """Whether "off" is one of the parameter's values."""
    return name == "cfg" or (" " in name and name != MATCHED)


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


def _check_range(name: str, value: Any) -> None:
    low, high = SAMPLER[name]
    if not low <= value <= high:
        raise ValueError(f"{name} is {value:g}; it can be {low:g} to {high:g}.")


def _place(settings: Settings, kind: str, which: int, name: str) -> int:
    places = [index for index, rule in enumerate(settings.rules) if kind_name(rule) == kind]
    if which <= len(places):
        return places[which - 1]
    missing = f"only {len(places)} of {kind}" if places else f"no {kind}"
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
