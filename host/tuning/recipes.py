"""Settings of a MODEL's components as a recipe, and a recipe on any MODEL."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

from comfy.model_patcher import ModelPatcher

from ...guidance.compose import Guidance
from ...guidance.rule import GuideTerm, Rule
from ...guidance.rules.cfg import CFG
from ...guidance.rules.gradient import GradientGuidance
from ...guidance.tuning.guider_config import is_guider_config, read_guider_config
from ...guidance.tuning.recipe import DEGRADED, SAMPLER, Component, Recipe, parse_object, read_recipe
from ..common.errors import no_option
from ..common.noise_levels import ModelPositions
from ..compare.damage import Damage, damages_of, with_damages
from ..compare.settings import (
    PLACES,
    SHAPE,
    Settings,
    choices_of,
    curve_of,
    is_off,
    kind_name,
    kinds,
    settings_of,
    shape_places,
    split_interval,
    with_curve,
    with_shape,
)
from ..engine.install import with_plan
from ..engine.plan import check_combines, plan_of, schedule_within

ROUND = 6  # digits
DAMAGE_NUMBERS = ("strength", "seed", "blur", "pooling")  # of Degraded Model


@dataclass(frozen=True, eq=False)
class Applied:
    """A MODEL with a recipe, and what was done in sentences."""

    model: ModelPatcher
    recipe: Recipe
    words: str


def recipe_of(settings: Settings, made: dict[str, Any] | None = None, came: Sequence[Rule] = ()) -> Recipe:
    """The settings as a recipe; SCHEDULE inputs other than points only the MODEL knows.

    came: the rules that the MODEL came with, where Shape CFG may have another one now.
    """
    sampler = {name: _plain(getattr(settings, name)) for name in SAMPLER}
    components = [_component(rule) for rule in settings.rules]
    for before, now in zip(shape_places(came), shape_places(settings.rules), strict=False):
        if kind_name(came[before]) != components[now].kind:
            components[now] = replace(components[now], replaces=kind_name(came[before]))
    return Recipe((*components, *map(_of_damage, settings.degraded)), sampler, made or {})


def key_of(settings: Settings) -> str:
    """Equal for settings that give equal pictures, but for the seed; other than a hash, the same in every process."""
    bare = recipe_of(settings.bare())
    told = json.dumps([settings.model, bare.sampler, [c.as_json() for c in bare.components]], sort_keys=True)
    return hashlib.sha256(told.encode()).hexdigest()[:16]


def parse_recipe(text: str) -> Recipe:
    """A recipe, or what a diffusers guider's configuration means here. Raises ValueError in words."""
    found = parse_object(text)
    return read_guider_config(found) if is_guider_config(found) else read_recipe(found)


def recipe_problem(text: str | None) -> str | None:
    """What is wrong with the text of a recipe, in words; None if nothing is, or where it is not known yet."""
    try:
        if text:
            parse_recipe(text)
    except ValueError as error:
        return str(error)
    return None


def apply_recipe(model: ModelPatcher, recipe: Recipe) -> Applied:
    """A clone of the MODEL whose components have the recipe's settings.

    The nth component of a kind in the recipe is the nth of that kind on the MODEL, in chain order. One that needs no
    other network is added where the MODEL has none; components that the recipe does not name stay as they are. What
    makes guides weaker is given to the MODEL's Degraded Models.

    Raises:
        ValueError: a kind or number that there is not, or a component that needs a network and is not on the MODEL.
    """
    plan, parts = plan_of(model), [one for one in recipe.components if one.kind != DEGRADED]
    start = _reshaped(plan.guidance.rules, parts)
    rules, seen, added = list(start), Counter[str](), []
    for wanted in parts:
        places = [place for place, rule in enumerate(start) if kind_name(rule) == wanted.kind]
        turn = seen[wanted.kind]
        seen[wanted.kind] += 1
        if turn < len(places):
            rules[places[turn]] = _changed(rules[places[turn]], wanted)
        elif not is_off(new := _changed(_new(wanted.kind, turn), wanted)):
            rules.append(new)
            added.append(wanted.kind)
    left = [kind_name(rule) for rule in start if kind_name(rule) not in seen]
    positions = ModelPositions(model.get_model_object("model_sampling"))
    check_combines(tuple(rule for rule in rules if isinstance(rule, CFG)), positions)
    same = tuple(rules) == plan.guidance.rules
    out = model if same else with_plan(model, replace(plan, guidance=Guidance(tuple(rules))))
    out, missed = _with_damages(out, [one for one in recipe.components if one.kind == DEGRADED])
    return Applied(out, recipe, _words(recipe, added, left, missed))


def _component(rule: Rule) -> Component:
    schedule, inside = split_interval(rule.schedule)
    numbers = {name: _plain(getattr(rule, name)) for name in settings_of(type(rule)) if name not in PLACES}
    curve = curve_of(rule)
    points = None if curve is None else replace(curve, points=tuple((_plain(p), _plain(v)) for p, v in curve.points))
    return Component(kind_name(rule), numbers, inside, points)


def _of_damage(damage: Damage) -> Component:
    numbers = {name: _plain(getattr(damage, name)) for name in DAMAGE_NUMBERS}
    return Component(DEGRADED, numbers, texts={"damage": damage.kind, "layers": damage.layers})


def _with_damages(model: ModelPatcher, wanted: Sequence[Component]) -> tuple[ModelPatcher, list[str]]:
    """The MODEL with its Degraded Models as the recipe has them, in their order, and what is left out in sentences."""
    there, damages = damages_of(model), []
    for damage, component in zip(there, wanted, strict=False):
        for name in (*component.numbers, *component.texts):
            if name not in (known := [*DAMAGE_NUMBERS, "damage", "layers"]):
                raise ValueError(no_option("A setting of the recipe's degraded", name, known))
        numbers = {name: _typed(damage, name, value) for name, value in component.numbers.items() if value is not None}
        texts = {{"damage": "kind"}.get(name, name): text for name, text in component.texts.items()}
        damages.append(replace(damage, **numbers, **texts))
    missed = [
        f"The recipe's degraded {component.texts.get('damage', '')} is left out: this MODEL has no such guide. Connect "
        f"Degraded Model to guide_model of Autoguidance first."
        for component in wanted[len(there) :]
    ]
    return with_damages(model, damages), missed


def _reshaped(rules: tuple[Rule, ...], wanted: Sequence[Component]) -> tuple[Rule, ...]:
    """The rules with those of Shape CFG changed for what the recipe has in their place."""
    for component in wanted:
        places = [place for place in shape_places(rules) if kind_name(rules[place]) == component.replaces]
        if component.replaces and places:
            allowed = choices_of(SHAPE)
            if component.kind not in allowed:
                raise ValueError(no_option("What replaces a rule of Shape CFG in the recipe", component.kind, allowed))
            rules = with_shape(rules, places[0], component.kind)
    return rules


def _plain(value: Any) -> Any:
    return round(value, ROUND) if isinstance(value, float) else value


def _new(kind: str, turn: int) -> Rule:
    known = dict(kinds())
    if kind not in known:
        raise ValueError(no_option("The kind of a recipe's component", kind, list(known)))
    rule = known[kind]
    if issubclass(rule, GuideTerm | GradientGuidance):
        more = f"only {turn} of {kind}" if turn else f"no {kind}"
        raise ValueError(
            f"The recipe has {kind}, which needs a network, and the MODEL carries {more}. Put the component on the "
            f"MODEL first, at any weight or scale at which it acts."
        )
    return rule()


def _changed(rule: Rule, wanted: Component) -> Rule:
    allowed = [f.name for f in fields(rule) if "min" in f.metadata]
    for name, value in wanted.numbers.items():
        if name not in allowed:
            raise ValueError(no_option(f"A number of the recipe's {wanted.kind}", name, allowed))
        if value is None and not (isinstance(rule, CFG) and name == "weight"):
            raise ValueError(f"The recipe's {wanted.kind} has no {name}; only cfg may leave its weight to the sampler.")
    numbers = {name: _typed(rule, name, value) for name, value in wanted.numbers.items()}
    rule = replace(rule, **numbers)
    if wanted.points is not None:
        rule = with_curve(rule, wanted.points)
    if wanted.interval is None:
        return rule
    schedule, _ = split_interval(rule.schedule)
    return replace(rule, **{"schedule": schedule_within(schedule, wanted.interval)})


def _typed(rule: Rule | Damage, name: str, value: float | int | None) -> float | int | None:
    """As the rule has it: 2 of a text is a weight of 2.0, and counts stay whole."""
    counted = next(f.type in (int, "int") for f in fields(rule) if f.name == name)
    if counted and value != int(value or 0):
        raise ValueError(f"The recipe's {name} is {value:g}; it must be a whole number.")
    return value if value is None else int(value) if counted else float(value)


def _words(recipe: Recipe, added: Sequence[str], left: Sequence[str], missed: Sequence[str]) -> str:
    lines = [f"{component.kind}: {_numbers(component)}" for component in recipe.components]
    if recipe.sampler:
        lines.append("For the sampler: " + ", ".join(f"{name} {value}" for name, value in recipe.sampler.items()) + ".")
    if added:
        lines.append(f"Added to the MODEL: {', '.join(added)}.")
    if left:
        lines.append(f"Not in the recipe, left as they are: {', '.join(dict.fromkeys(left))}.")
    network = recipe.made.get("model")
    if isinstance(network, str):
        lines.append(f"Found on the MODEL that was connected as {network[:40]}, which a recipe does not hold.")
    return "\n".join([*lines, *missed, *recipe.notes])


def _numbers(component: Component) -> str:
    numbers = component.numbers.items()
    told = [f"{name} {'of the sampler' if value is None else f'{value:g}'}" for name, value in numbers]
    told += [f"{name} {text or 'as usual'}" for name, text in component.texts.items()]
    if component.replaces:
        told.append(f"in the place of {component.replaces}")
    if component.points is not None:
        told.append(f"at {len(component.points.points)} points")
    inside = component.interval
    if inside is not None and not inside.everywhere:
        told.append(f"from {inside.start:g} to {inside.end:g} {inside.unit}")
    return ", ".join(told)
