"""The scripts for people: each starts by itself, from a folder of its own, and says how it is used."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
SCRIPTS = [
    path
    for folder in ("benchmarks", "tools")
    for path in sorted((ROOT / folder).glob("*.py"))
    if "__name__ ==" in (text := path.read_text("utf-8")) and "argparse" in text
]


@pytest.mark.slow
@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_a_script_starts_and_says_how_it_is_used(script, tmp_path):
    command = [sys.executable, script, "--help"]
    asked = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert asked.returncode == 0 and "usage:" in asked.stdout, asked.stderr
