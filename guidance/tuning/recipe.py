"""A recipe: the settings of a sampler and of components as a small JSON text. No code, and no network in it.

    {"format": "guidance-components/recipe/1",
     "sampler": {"cfg": 1, "steps": 20, "denoise": 1, "sampler_name": "euler", "scheduler": "karras"},
     "components": [{"kind": "cfg", "weight": 2.5, "interval": [0.1, 0.8, "percent"]}, {"kind": "rescale", "phi": 0.4}],
     "made": {...}}

Components stand in chain order. A number that is left out is the component's own. `made` says where the settings
come from; nothing reads it.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

from ..checkpoints.json_text import parse_json
from ..schedule import Interval

FORMAT = "guidance-components/recipe/1"
SAMPLER = ("cfg", "steps", "denoise", "sampler_name", "scheduler")
WORDS = ("sampler_name", "scheduler")
INTERVAL = "interval"
KEYS = {"format", "sampler", "components", "made"}


@dataclass(frozen=True)
class Component:
    """One component: its kind as Compare names it, its numbers by the names on its node, and where it acts.

    interval: None = as the component on the MODEL has it.
    """

    kind: str
    numbers: dict[str, float | int | None]
    interval: Interval | None = None

    def as_json(self) -> dict[str, Any]:
        where = self.interval
        return {"kind": self.kind, **self.numbers} | (
            {} if where is None else {INTERVAL: [where.start, where.end, where.unit]}
        )


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
        return parse_json(text, dict)
    except ValueError as error:
        raise ValueError(f"recipe {error}. Paste what Tune Guidance gave, from the first {{ to the last }}.") from None


def _component(found: Any) -> Component:
    if not isinstance(found, dict) or not isinstance(found.get("kind"), str):
        raise ValueError(f"A component of the recipe is {_shown(found)}; it needs a kind, such as 'cfg'.")
    numbers = {name: value for name, value in found.items() if name not in ("kind", INTERVAL)}
    wrong = next((n for n, v in numbers.items() if isinstance(v, bool) or not isinstance(v, int | float | None)), None)
    if wrong is not None:
        raise ValueError(f"The recipe's {found['kind']} has {wrong} {_shown(numbers[wrong])}; it must be a number.")
    return Component(found["kind"], numbers, _interval(found["kind"], found.get(INTERVAL)))


def _interval(kind: str, found: Any) -> Interval | None:
    if found is None:
        return None
    number = int | float
    whole = isinstance(found, list) and len(found) == 3 and found[2] in ("percent", "sigma")
    if not whole or not all(isinstance(edge, number) and not isinstance(edge, bool) for edge in found[:2]):
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


def _kind(name: str) -> str:
    return "a name" if name in WORDS else "a number"


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
