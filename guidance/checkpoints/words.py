"""What a file says, in a message: short, and nothing that a terminal or a page would obey."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

MOST = 80  # characters
_DIMENSIONS = 8
_BITS = 64


def shown(value: Any, most: int = MOST) -> str:
    """A word or number of a file; of anything else only what it is, since its text may be endless."""
    if isinstance(value, str):
        text = value
    elif isinstance(value, int) and value.bit_length() > _BITS:
        text = f"a number of {value.bit_length()} bits"
    elif value is None or isinstance(value, int | float):
        text = str(value)
    else:
        text = f"a {type(value).__name__}"
    if len(text) > most:
        text = f"{text[: most - 3]}..."
    return "".join(mark if mark.isprintable() else "\N{REPLACEMENT CHARACTER}" for mark in text)


def quoted(value: Any, most: int = MOST) -> str:
    """The same, a word between quotation marks."""
    return repr(shown(value, most)) if isinstance(value, str) else shown(value, most)


def shown_shape(shape: Sequence[int]) -> str:
    """A tensor's shape."""
    more = ", ..." if len(shape) > _DIMENSIONS else ""
    return f"[{', '.join(map(shown, shape[:_DIMENSIONS]))}{more}]"


def listed(names: Sequence[str], most: int = 3) -> str:
    """The first names of several."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return f"{', '.join(map(shown, names[:most]))}{more}"
