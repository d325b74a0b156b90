"""A recipe: the settings of a sampler and of components as a small JSON text. No code, and no network in it.

    {"format": "guidance-components/recipe/1",
     "sampler": {"cfg": 1, "steps": 20, "denoise": 1, "sampler_name": "euler", "scheduler": "karras"},
     "components": [{"kind": "cfg", "weight": 2.5, "interval": [0.1, 0.8, "percent"]}, {"kind": "rescale", "phi": 0.4}],
     "made": {...}}

Components stand in chain order. A number that is left out is the component's own. More that one can have: "points"
([[0, 1], [0.5, 0.2], "percent"], those of its SCHEDULE), and of Shape CFG "replaces" (the kind in whose place it
stands). The kind "degraded" is a guide that is a Degraded Model: its numbers, "damage" (the node's kind) and "layers".
`made` says where the settings come from; only words are made of it.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

from ..checkpoints.json_text import LARGEST_SEED, parse_json
from ..schedule import Curve, Interval

FORMAT = "guidance-components/recipe/1"
SAMPLER = ("cfg", "steps", "denoise", "sampler_name", "scheduler")
WORDS = ("sampler_name", "scheduler")
UNITS = ("percent", "sigma")
INTERVAL, POINTS, REPLACES, DEGRADED = "interval", "points", "replaces", "degraded"
TEXTS = ("damage", "layers")  # of DEGRADED
KEYS = {"format", "sampler", "components", "made"}


@dataclass(frozen=True)
class Component:
    """One component: its kind as Compare names it, its numbers by the names on its node, and where it acts.

    interval, points: None = as the component on the MODEL has it. replaces: the kind of Shape CFG in whose place it
    stands. texts: of a degraded guide.
    """

    kind: str
    numbers: dict[str, float | int | None]
    interval: Interval | None = None
    points: Curve | None = None
    replaces: str = ""
    texts: dict[str, str] = field(default_factory=dict)

    def as_json(self) -> dict[str, Any]:
        where, curve = self.interval, self.points
        told = {"kind": self.kind, **self.texts, **self.numbers}
        if self.replaces:
            told[REPLACES] = self.replaces
        if curve is not None:
            told[POINTS] = [*map(list, curve.points), curve.unit]
        return told if where is None else told | {INTERVAL: [where.start, where.end, where.unit]}


@dataclass(frozen=True)
class Recipe:
    """Settings. sampler: those of `SAMPLER` that it fixes. notes: what could not be carried over, in sentences."""

    components: tuple[Component, ...]
    sampler: dict[str, Any] = field(default_factory=dict)
    made: dict[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def as_json(self) -> dict[str, Any]:
        """A JSON object, which `read_recipe` reads again."""
        listed = [component.as_json() for component in self.components]
        return {"format": FORMAT, "sampler": self.sampler, "components": listed, "made": self.made}

    def text(self) -> str:
        """The same as a text."""
        return json.dumps(self.as_json(), ensure_ascii=False, indent=1)


def read_recipe(found: dict[str, Any]) -> Recipe:
    """The recipe in a JSON object (`parse_recipe` reads texts).

    Raises:
        ValueError: what is wrong with it, in words.
    """
    if found.get("format") != FORMAT:
        raise ValueError(
            f"The recipe has format {_shown(found.get('format'))}; this pack reads {FORMAT!r}, and diffusers' "
            f"guider_config.json. Copy the whole text that Tune Guidance gave."
        )
    strange = sorted(set(found) - KEYS)
    if strange:
        raise ValueError(f"The recipe has {_shown(strange[0])}, which no recipe has; it has {', '.join(sorted(KEYS))}.")
    sampler, listed, made = found.get("sampler", {}), found.get("components", []), found.get("made", {})
    if not isinstance(sampler, dict) or not isinstance(listed, list) or not isinstance(made, dict):
        raise ValueError("In a recipe sampler and made are JSON objects and components is a list.")
    return Recipe(tuple(_component(one) for one in listed), _sampler(sampler), made)


def parse_object(text: str) -> dict[str, Any]:
    """The JSON object in a text that people paste. Raises ValueError in words."""
    if not text.strip():
        raise ValueError("recipe is empty. Paste what Tune Guidance gave, or connect its output recipe.")
    try:
        return parse_json(text, dict, LARGEST_SEED)
    except ValueError as error:
        raise ValueError(f"recipe {error}. Paste what Tune Guidance gave, from the first {{ to the last }}.") from None


def _component(found: Any) -> Component:
    if not isinstance(found, dict) or not isinstance(found.get("kind"), str):
        raise ValueError(f"A component of the recipe is {_shown(found)}; it needs a kind, such as 'cfg'.")
    kind = found["kind"]
    named = (REPLACES, *(TEXTS if kind == DEGRADED else ()))
    texts = {name: found[name] for name in named if name in found}
    strange = next((name for name, text in texts.items() if not isinstance(text, str)), None)
    if strange is not None:
        raise ValueError(f"The recipe's {kind} has {strange} {_shown(texts[strange])}; it must be a text.")
    numbers = {name: value for name, value in found.items() if name not in ("kind", INTERVAL, POINTS, *named)}
    wrong = next((n for n, v in numbers.items() if isinstance(v, bool) or not isinstance(v, int | float | None)), None)
    if wrong is not None:
        raise ValueError(f"The recipe's {found['kind']} has {wrong} {_shown(numbers[wrong])}; it must be a number.")
    replaces = texts.pop(REPLACES, "")
    where, curve = _interval(kind, found.get(INTERVAL)), _points(kind, found.get(POINTS))
    return Component(kind, numbers, where, curve, replaces, texts)


def _points(kind: str, found: Any) -> Curve | None:
    if found is None:
        return None
    try:
        *pairs, unit = found
        if unit not in UNITS or not all(_is_number(number) for pair in pairs for number in pair):
            raise ValueError
        return Curve(tuple((float(position), float(strength)) for position, strength in pairs), unit)
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"The recipe's {kind} has points {_shown(found)}; they are pairs of position and strength from noisy to "
            f'clean, then percent or sigma, such as [[0, 1], [0.5, 0.2], "percent"].'
        ) from error


def _interval(kind: str, found: Any) -> Interval | None:
    if found is None:
        return None
    whole = isinstance(found, list) and len(found) == 3 and found[2] in UNITS
    if not whole or not all(map(_is_number, found[:2])):
        raise ValueError(
            f"The recipe's {kind} has interval {_shown(found)}; it is a start, an end and percent or sigma, such as "
            f'[0.1, 0.8, "percent"].'
        )
    return Interval(float(found[0]), float(found[1]), found[2])


def _sampler(found: dict[str, Any]) -> dict[str, Any]:
    for name, value in found.items():
        if name not in SAMPLER:
            raise ValueError(f"The recipe's sampler has {_shown(name)}; it can have {', '.join(SAMPLER)}.")
        text, number = isinstance(value, str), isinstance(value, int | float) and not isinstance(value, bool)
        if not (text if name in WORDS else number):
            raise ValueError(f"The recipe's {name} is {_shown(value)}; it must be {_kind(name)}.")
    return dict(found)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _kind(name: str) -> str:
    return "a name" if name in WORDS else "a number"


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
