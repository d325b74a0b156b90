"""How a refusal leaves a node, for the page to show it."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager


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
