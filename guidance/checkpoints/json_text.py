"""JSON from strangers: bounded in size, depth and numbers, so that whatever uses it need not fear it."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeVar

from .words import shown

MOST_BYTES = 4 * 2**20  # the longest that are known name some 20,000 classes, in 1 MB
MOST_DEPTH = 32
_LARGEST = 2**63  # of whole numbers
LARGEST_SEED = 2**64  # of texts in which seeds stand
_HALF = re.compile(r"[\ud800-\udfff]")  # half a character, which no file and no page can hold
Kind = TypeVar("Kind", dict[str, Any], list[Any])


def parse_json(text: str, kind: type[Kind], largest: int = _LARGEST) -> Kind:
    """A JSON object (dict) or list. largest: every whole number in it is smaller.

    Raises:
        ValueError: what the text is instead, as the end of a sentence: "is not JSON (...)".
    """
    if len(text) > MOST_BYTES:
        raise ValueError(f"has {len(text)} characters; at most {MOST_BYTES} are read")
    try:
        found = json.loads(text, parse_constant=_no_number)
    except RecursionError:
        raise ValueError(f"is nested more than {MOST_DEPTH} deep") from None
    except ValueError as error:
        raise ValueError(f"is not JSON ({shown(str(error), 120)})") from None
    if not isinstance(found, kind):
        raise ValueError(f"must be a JSON {'list' if kind is list else 'object'}")
    _check(found, largest)
    return found


def read_json(path: Path, kind: type[Kind], largest: int = _LARGEST) -> Kind:
    """As `parse_json`, of a file, which must be there and be a plain one. Raises OSError where it cannot be read."""
    if path.stat().st_size > MOST_BYTES:
        raise ValueError(f"has {path.stat().st_size} bytes; at most {MOST_BYTES} are read")
    try:
        text = path.read_bytes().decode("utf-8")
    except UnicodeDecodeError:
        raise ValueError("is not JSON (it is not UTF-8)") from None
    return parse_json(text, kind, largest)


def _no_number(word: str) -> None:
    raise ValueError(f"{word} is no number")


def _check(value: Any, largest: int) -> None:
    level = [value]
    for _ in range(MOST_DEPTH):
        level = [inner for outer in level for inner in _inside(outer)]
        for leaf in level:
            if isinstance(leaf, str) and _HALF.search(leaf):
                raise ValueError("holds a text with half a character")
            if isinstance(leaf, float) and not math.isfinite(leaf) or isinstance(leaf, int) and abs(leaf) >= largest:
                raise ValueError("holds a number that is too large")
        level = [inner for inner in level if isinstance(inner, dict | list)]
        if not level:
            return
    raise ValueError(f"is nested more than {MOST_DEPTH} deep")


def _inside(value: dict[str, Any] | list[Any]) -> Iterator[Any]:
    if isinstance(value, dict):
        yield from value
        yield from value.values()
    else:
        yield from value
