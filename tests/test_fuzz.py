"""The fuzz command: it judges rightly, and a short run of every kind finds nothing."""

import json
import subprocess
import sys
from pathlib import Path
from random import Random

import pytest
from fuzzing import pool, spoil, verdict

ROOT = Path(__file__).resolve().parent.parent
HERE = str(ROOT / "tests")


def ours(words, kind=ValueError):
    """What is said of an exception that a line of the pack raises, or here of this file."""
    try:
        raise kind(words)
    except kind as error:
        return verdict.refusal(error)


def test_what_counts_as_a_refusal(monkeypatch):
    assert ours("mine.pt is a folder; choose a file.").outcome == "raw", "this file is none of the pack"
    monkeypatch.setattr(verdict, "OURS", (HERE,))
    assert ours("mine.pt is a folder; choose a file.").outcome == "refused"
    assert ours("mine.pt is a folder; choose a file.", KeyError).outcome == "raw"
    assert ours("mine.pt \x1b[2J is a folder").outcome == ours("short").outcome == "raw"
    assert ours("a" * 1501).outcome == "long"
    with pytest.raises(ValueError) as caught:
        int("no number, in words of another's")
    assert verdict.refusal(caught.value).outcome == "raw"
    assert verdict.accepted([]).outcome == "accepted" and verdict.accepted(["NaN"]).outcome == "silent"


class Faults:
    """A scene whose inputs do what their number says."""

    def draw(self, random):
        return random


MEASURED = """
from test_fuzz import Faults, pool
def using(bytes_):
    return pool.run_input(Faults(), pool.Attempt("x", lambda: [str(len(bytearray(bytes_)))][:0]))["outcome"]
pool.MOST_BYTES = 2**24
print(using(2**20), using(2**26))
pool.MOST_SECONDS = -1.0
print(using(1))
"""


def test_an_input_is_decided_by_its_seed_alone():
    """What is put into a file is a value of its own: changed further, it is changed there and nowhere else."""
    text = json.dumps({"a": [1, {"b": 2}], "c": {"d": [3]}})
    before = repr(spoil.LEAVES)
    for seed in range(4000):
        spoil.spoil_json(text, Random(seed))
    assert repr(spoil.LEAVES) == before


def test_limits_are_measured():
    """In a process of its own, as the command does: one that has freed much memory takes it again without a trace."""
    paths = f"import sys; sys.path[:0] = [{str(ROOT / 'tools')!r}, {HERE!r}]"
    run = subprocess.run([sys.executable, "-c", paths + MEASURED], capture_output=True, text=True, check=True)
    assert run.stdout.split() == ["accepted", "memory", "slow"]


@pytest.mark.slow
@pytest.mark.parametrize("kind", pool.KINDS)
def test_a_short_run_finds_nothing(comfyui_root, tmp_path, kind):
    out = tmp_path / "records.jsonl"
    out.write_text('{"input": 0, "outcome": "accepted"}\n')
    command = [sys.executable, ROOT / "tools" / "fuzz.py", kind, "--comfyui", comfyui_root, "--seed", "5"]
    command += ["--count", "60", "--workers", "1", "--out", out]
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stdout + run.stderr[-2000:]
    assert f"{kind}: 60 inputs of seed 5" in run.stdout and len(out.read_text().splitlines()) == 60, "it goes on"
