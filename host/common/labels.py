"""Class labels as CONDITIONING: chosen by name or index, one per picture of the batch or one for all."""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from comfy.model_patcher import ModelPatcher

from .errors import quoted

LABELS_KEY = "class_labels"
CLASSES = "guidance_classes"  # js/classes/known.js reads it
LONGEST_NUMBER, LONGEST_NAME = 10, 60  # digits and characters that are read of a word
FILLERS = frozenset(("a", "an", "the", "on", "before", "with", "and"))


def labels_of(model: ModelPatcher) -> tuple[str, ...]:
    """The class names of a MODEL. Raises ValueError if it has no classes."""
    labels = getattr(model.model, "labels", None)
    if labels is None:
        raise ValueError(
            f"This MODEL ({type(model.model).__name__}) is not class-conditional; it has no labels to choose from. "
            f"Use CLIP Text Encode for a text-to-image model, GLIDE Prompt for GLIDE."
        )
    return labels


def unconditional(model: ModelPatcher) -> bool:
    """Whether a MODEL makes pictures without being told anything, as those of classes and GLIDE do."""
    return getattr(model.model, "labels", None) is not None or hasattr(model.model, "empty_prompt")


def class_conditioning(model: ModelPatcher, text: str) -> list:
    """CONDITIONING for classes given as text: names or indices separated by commas; empty = no class.

    A MODEL with attributes takes phrases ("red star on stripes") and the rows of its tensor are [class, attributes...].

    A MODEL that reads a text instead (GLIDE) is given the empty one for no class.

    Raises ValueError for a class that the MODEL does not have, naming the nearest.
    """
    if not text.strip() and (empty_prompt := getattr(model.model, "empty_prompt", None)):
        return empty_prompt()
    labels, attributes = labels_of(model), getattr(model.model, "attributes", ())
    if attributes:
        rows = [_phrase(phrase, (labels, *attributes)) for phrase in text.split(",") if phrase.strip()]
        nothing = [len(part) for part in (labels, *attributes)]
        return [[torch.zeros(1, 1, 1), {LABELS_KEY: torch.tensor(rows or [nothing])}]]
    words = [word.strip() for word in text.split(",") if word.strip()]
    if words and not labels:
        raise ValueError(
            f"This MODEL is unconditional: it has no classes, so not {quoted(words[0])} either. Leave label empty."
        )
    indices = [index_of(word, labels) for word in words] or [len(labels)]
    # Other nodes expect an embedding in the first place: an empty one is safer than None.
    return [[torch.zeros(1, 1, 1), {LABELS_KEY: torch.tensor(indices)}]]


def chosen_classes(model: torch.nn.Module, conditioning: Mapping[str, Any]) -> torch.Tensor | None:
    """Class indices [K], one per sample of the batch or one for all, of what a class-conditional network is given.

    None without a class. Raises ValueError for the embedding of a text, which such a network cannot read.
    """
    text = conditioning.get("cross_attn")
    if LABELS_KEY not in conditioning and text is not None and text.shape[-1] > 1:
        raise ValueError(
            f"{type(model).__name__} reads the class of a picture, and its conditioning is the embedding of a text. "
            f"Connect Class Label to positive and negative, in place of CLIP Text Encode."
        )
    return conditioning.get(LABELS_KEY)


def offered(labels: Sequence[str], attributes: Sequence[Sequence[str]] = ()) -> dict[str, Any]:
    """What the page offers of a network's classes: for each a word that means it, and whether words make phrases.

    Of synonyms the first that no other class has; the number where none can be typed. Nothing where all are numbers.
    """
    named = _by_name(labels)
    words = [
        next((name.strip() for name in label.split(",") if _typed(name) and named[name.strip().lower()] == index),
             str(index))
        for index, label in enumerate(labels)
    ]  # fmt: skip
    words += [word for part in attributes for word in part]
    return {"words": [] if all(word.isdecimal() for word in words) else words, "phrases": bool(attributes)}


def told(name: str, classes: dict[str, Any]) -> dict[str, list[str]]:
    """The ui output of a node that loaded the network of this name: what `offered` says of it."""
    return {CLASSES: [json.dumps({"name": name, **classes})]}


def _typed(name: str) -> bool:
    """Whether a name can stand in a text of several, where these signs part them."""
    return bool(name.strip()) and not set("+:") & set(name)


def _by_name(labels: Sequence[str]) -> dict[str, int]:
    """The class of each name in lower case, of synonyms too; the first, where several have it."""
    return {
        name.strip().lower(): index
        for index, label in reversed(list(enumerate(labels)))
        for name in (label, *label.split(","))
    }


def _phrase(text: str, parts: tuple[tuple[str, ...], ...]) -> list[int]:
    """The index of each part's word in a phrase, the null word's where the phrase leaves a part open."""
    chosen = [len(part) for part in parts]
    for word in text.lower().split():
        if word in FILLERS:
            continue
        place = next((place for place, part in enumerate(parts) if word in part), None)
        if place is None:
            hint = _nearest(word, [known for part in parts for known in part])
            words = "; ".join(map(", ".join, parts))
            raise ValueError(f"This MODEL does not know {quoted(word)}{hint} It knows: {words}.")
        if chosen[place] < len(parts[place]):
            raise ValueError(
                f"{quoted(text.strip())} has two words for one thing: {parts[place][chosen[place]]!r} and {word!r}; "
                f"choose one of them, or separate pictures by commas."
            )
        chosen[place] = parts[place].index(word)
    return chosen


def index_of(word: str, labels: tuple[str, ...], owner: str = "This MODEL") -> int:
    """The class that a name or a number means. A label may list synonyms separated by commas, as ImageNet's do.

    Raises ValueError for a class that is not there, naming the nearest.
    """
    names = _by_name(labels)
    if word.lower() in names:
        return names[word.lower()]
    number = int(word) if word.isdecimal() and len(word) < LONGEST_NUMBER else None
    if number is not None and number < len(labels):
        return number
    if word.isdecimal():
        raise ValueError(f"There is no class {word[:LONGEST_NAME]}; {owner} has classes 0 to {len(labels) - 1}.")
    some = ", ".join(label[:LONGEST_NAME] for label in labels[:20]) + (", ..." if len(labels) > 20 else "")
    raise ValueError(f"There is no class {quoted(word)}{_nearest(word.lower(), names)} {owner} has: {some}.")


def _nearest(word: str, known: Iterable[str]) -> str:
    """The end of the part of a sentence that says that a word is not known."""
    near = difflib.get_close_matches(word[:LONGEST_NAME], list(known), n=1, cutoff=0.5)
    return f"; did you mean {near[0]!r}?" if near else "."
