"""What one hostile input did: refused in words, accepted, or a fault of ours."""

from __future__ import annotations

import ast
import traceback
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import TracebackType

ROOT = Path(__file__).resolve().parents[2]
OURS = tuple(str(ROOT / floor) for floor in ("guidance", "host", "nodes"))
MOST_WORDS = 1500  # characters of one message
MOST_SECONDS = 20.0
MOST_BYTES = 2**30  # beyond the files themselves
FINE = ("refused", "accepted")


@dataclass(frozen=True)
class Verdict:
    """What came of an input, and what was said.

    outcome: "refused", "accepted", or a fault: "raw" (an exception without a sentence of ours), "silent" (what must be
    refused was taken, or differently than it is), "long", "slow", "memory", "died"; of the tool itself: "broken", an
    input that could not be made.
    """

    outcome: str
    words: str = ""


def refusal(error: BaseException) -> Verdict:
    """Whether an exception is a sentence of ours: a ValueError or OSError that a `raise` of the pack's own names."""
    words = str(error)
    if not isinstance(error, ValueError | OSError) or not _raised_by_us(error.__traceback__):
        last = traceback.format_exception(error)[-6:]
        return Verdict("raw", f"{type(error).__name__}: {words[:300]}\n{''.join(last)[-900:]}")
    if len(words) > MOST_WORDS:
        return Verdict("long", f"{len(words)} characters: {words[:300]}")
    odd = [mark for mark in words if not mark.isprintable() and mark != "\n"]
    if odd or len(words) < 10:
        return Verdict("raw", f"no sentence: {words!r:.300}")
    return Verdict("refused", words)


def accepted(silent: list[str]) -> Verdict:
    """What was taken. silent: what is wrong with it all the same."""
    return Verdict("silent", "; ".join(silent)) if silent else Verdict("accepted")


def _raised_by_us(trace: TracebackType | None) -> bool:
    """Whether the innermost frame stands in a `raise` of the pack."""
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    if trace is None:
        return False
    file, line = trace.tb_frame.f_code.co_filename, trace.tb_lineno
    return file.startswith(OURS) and any(first <= line <= last for first, last in _raises(file))


@cache
def _raises(file: str) -> tuple[tuple[int, int], ...]:
    tree = ast.parse(Path(file).read_text("utf-8"))
    return tuple((n.lineno, n.end_lineno or n.lineno) for n in ast.walk(tree) if isinstance(n, ast.Raise))
