"""The scripts for people: each starts by itself, from a folder of its own, and says how it is used."""

import ast
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


def defined_in(module):
    """The names at the top of a module of the pack, and the files and folders beside it."""
    path = ROOT.joinpath(*module.split(".")[1:])
    beside = {entry.stem for entry in path.iterdir()} if path.is_dir() else set()
    source = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
    found = set()
    for node in ast.parse(source.read_text("utf-8")).body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            found.add(node.name)
        elif isinstance(node, ast.ImportFrom | ast.Import):
            found |= {alias.asname or alias.name for alias in node.names}
        else:
            found |= {name.id for name in ast.walk(node) if isinstance(name, ast.Name)}
    return found | beside


def test_scripts_import_what_the_pack_has():
    """Also where they import it inside a function, for which no other test may run."""
    missing = []
    for path in [*(ROOT / "benchmarks").rglob("*.py"), *(ROOT / "tools").rglob("*.py")]:
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("guidance_pack"):
                gone = {alias.name for alias in node.names} - defined_in(node.module)
                missing += [f"{path.name}: {node.module}.{name}" for name in gone]
    assert missing == []
