"""How a refusal leaves a node, for the page to show it, and the values in its words."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from contextlib import contextmanager
from difflib import get_close_matches
from typing import Any

LONGEST_NAME = 250  # characters of a text that can be a name
FEW = 12  # options that a sentence can hold


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


def quoted(value: Any, longest: int = 80) -> str:
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


def no_option(name: str, value: Any, options: Sequence[str]) -> str:
    """That a value is none of the options: all of them where they are few, else the one that was meant."""
    if len(options) <= FEW:
        return f"{name} is {quoted(value)}; it can be {', '.join(options)}."
    near = get_close_matches(f"{value}"[:LONGEST_NAME], options, 1, 0.6)
    meant = f"did you mean {near[0]}?" if near else f"choose one of its {len(options)}."
    return f"{name} is {quoted(value)}, which there is not; {meant}"
