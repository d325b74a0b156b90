"""Class labels as CONDITIONING: chosen by name or index, one per picture of the batch or one for all."""

from __future__ import annotations

import difflib

import torch
from comfy.model_patcher import ModelPatcher

LABELS_KEY = "class_labels"


def labels_of(model: ModelPatcher) -> tuple[str, ...]:
    """The class names of a MODEL. Raises ValueError if it has no classes."""
    labels = getattr(model.model, "labels", None)
    if labels is None:
        raise ValueError(
            f"This MODEL ({type(model.model).__name__}) is not class-conditional; it has no labels to choose from. "
            f"Use CLIP Text Encode for a text-to-image model."
        )
    return labels


def class_conditioning(model: ModelPatcher, text: str) -> list:
    """CONDITIONING for classes given as text: names or indices separated by commas; empty = no class.

    Raises ValueError for a class that the MODEL does not have, naming the nearest.
    """
    labels = labels_of(model)
    words = [word.strip() for word in text.split(",") if word.strip()]
    indices = [_index(word, labels) for word in words] or [len(labels)]
    # Other nodes expect an embedding in the first place: an empty one is safer than None.
    return [[torch.zeros(1, 1, 1), {LABELS_KEY: torch.tensor(indices)}]]


def _index(word: str, labels: tuple[str, ...]) -> int:
    lowered = [label.lower() for label in labels]
    if word.lower() in lowered:
        return lowered.index(word.lower())
    if word.isdigit() and int(word) < len(labels):
        return int(word)
    if word.isdigit():
        raise ValueError(f"There is no class {word}; this MODEL has classes 0 to {len(labels) - 1}.")
    near = difflib.get_close_matches(word.lower(), lowered, n=1, cutoff=0.0)
    shown = ", ".join(labels[:20]) + (", ..." if len(labels) > 20 else "")
    raise ValueError(f"There is no class {word!r}; did you mean {near[0]!r}? This MODEL has: {shown}.")
