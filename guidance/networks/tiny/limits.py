"""What the config of a tiny network may ask for, so that a file cannot make the building of it endless."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import fields
from typing import Any

MOST = 4096  # channels, classes or frequencies
MOST_BLOCKS = 64
MOST_PIXELS = 16  # on a side of a patch
MOST_PARTS = 8


def require_counts(config: Any, other: Collection[str]) -> None:
    """Raise ValueError, in words, unless every field but the `other` ones is a whole number within its limit."""
    for field in fields(config):
        value = getattr(config, field.name)
        most = MOST_PIXELS if field.name == "patch" else MOST_BLOCKS if field.name.endswith("blocks") else MOST
        least = 0 if field.name in ("down_blocks", "deep_blocks", "up_blocks", "num_classes") else 1
        if field.name not in other and (type(value) is not int or not least <= value <= most):
            raise ValueError(f"{field.name} must be a whole number from {least} to {most}")


def require_attributes(counts: Any) -> None:
    """Raise ValueError, in words, unless these are the numbers of words of a few parts of a condition."""
    few = isinstance(counts, list | tuple) and len(counts) <= MOST_PARTS
    if not few or any(type(count) is not int or not 1 <= count <= MOST for count in counts):
        raise ValueError(f"attributes must be at most {MOST_PARTS} whole numbers from 1 to {MOST}")
