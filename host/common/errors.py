"""How a refusal leaves a node, for the page to show it, and the values in its words."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from typing import Any


@contextmanager
def user_error() -> Generator[None]:
    """Let this pack's own kinds of ValueError leave as ValueError itself; also a decorator.

    The page writes an exception's class before its sentence, and for any class but Python's own the whole path of the
    file that it comes from, which would push the sentence out of sight.
    """
    try:
        yield
    except ValueError as error:
        if type(error) is ValueError:
            raise
        raise ValueError(str(error)) from error


def shown(value: Any, longest: int = 80) -> str:
    """A value as a sentence can hold it: numbers as people write them, texts quoted and cut where they are long, of
    anything else its kind.

    longest: characters of a text.
    """
    if isinstance(value, str):
        return repr(value if len(value) <= longest else f"{value[:longest]}...")
    if isinstance(value, bool) or value is None:
        return repr(value)
    if isinstance(value, int):
        return f"{value}" if value.bit_length() <= 128 else f"a number of {value.bit_length()} bits"
    return f"{value:g}" if isinstance(value, float) else f"a {type(value).__name__}"
