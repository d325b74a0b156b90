"""The fuzz command: it judges rightly."""

from pathlib import Path

import pytest
from fuzzing import pool, verdict

ROOT = Path(__file__).resolve().parent.parent


def ours(words, kind=ValueError):
    """An exception as the pack raises it: from a line of one of its files."""
    file = ROOT / "guidance" / "checkpoints" / "guide_source.py"
    line = next(first for first, _ in verdict._raises(str(file)))
    try:
        exec(compile("\n" * (line - 1) + "raise error", file, "exec"), {"error": kind(words)})  # noqa: S102
    except BaseException as error:
        return verdict.refusal(error)


def test_what_counts_as_a_refusal():
    assert ours("mine.pt is a folder; choose a file.").outcome == "refused"
    assert ours("mine.pt is a folder; choose a file.", KeyError).outcome == "raw"
    assert ours("mine.pt \x1b[2J is a folder").outcome == ours("short").outcome == "raw"
    assert ours("a" * 1501).outcome == "long"
    with pytest.raises(ValueError) as caught:
        int("x")
    assert verdict.refusal(caught.value).outcome == "raw"
    assert verdict.accepted([]).outcome == "accepted" and verdict.accepted(["NaN"]).outcome == "silent"


class Faults:
    """A scene whose inputs do what their number says."""

    def draw(self, random):
        return random


def test_limits_are_measured(monkeypatch):
    def using(bytes_):
        return pool.run_input(Faults(), pool.Attempt("x", lambda: [str(len(bytearray(bytes_)))][:0]))

    monkeypatch.setattr(pool, "MOST_BYTES", 2**24)
    assert using(2**20)["outcome"] == "accepted" and using(2**26)["outcome"] == "memory"
    monkeypatch.setattr(pool, "MOST_SECONDS", -1.0)
    assert using(1)["outcome"] == "slow"
