"""Every name of ours that a file imports, or takes from a module of ours, is there; read from the source alone."""

import ast
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
HOMES = {"guidance_pack": ROOT, "world": ROOT / "tools" / "world", "devtools": ROOT / "tools" / "devtools"}
FILES = [ROOT / "__init__.py", *sorted(p for r in ("guidance", "host", "nodes", "tools", "tests", "benchmarks")
                                       for p in (ROOT / r).rglob("*.py"))]


@cache
def tree(path):
    return ast.parse(path.read_text("utf-8"))


@cache
def defined(path):
    """The names that a module binds at its top level."""
    names = set()
    for node in ast.walk(ast.Module([n for n in tree(path).body if not isinstance(n, SCOPES)], [])):
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            names.add(node.id)
        elif isinstance(node, ast.Import | ast.ImportFrom):
            names |= {(alias.asname or alias.name).partition(".")[0] for alias in node.names}
    return names | {n.name for n in ast.walk(tree(path)) if isinstance(n, SCOPES)}


SCOPES = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef


def module(base):
    """The file of a module, by its path without the ending; a folder is its `__init__`."""
    return next((p for p in (base.with_suffix(".py"), base / "__init__.py") if p.is_file()), None)


def imported(path, node):
    """Where a `from` import looks: a module of ours without its ending, or None for what is not ours."""
    above = path.parents[node.level - 1] if node.level else HOMES.get((node.module or "").partition(".")[0])
    parts = (node.module or "").split(".")[0 if node.level else 1:]
    return above and above.joinpath(*(part for part in parts if part))


def missing(path):
    modules = {}
    for node in ast.walk(tree(path)):
        base = imported(path, node) if isinstance(node, ast.ImportFrom) else None
        if base is None:
            continue
        for alias in node.names:
            file, inside = module(base), module(base / alias.name)
            if inside:
                modules[alias.asname or alias.name] = inside
            elif file is None or alias.name not in defined(file):
                yield f"{path.relative_to(ROOT)} line {node.lineno} imports {alias.name}, which {base.name} has not"
    rebound = {n.id for n in ast.walk(tree(path)) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)}
    rebound |= {n.arg for n in ast.walk(tree(path)) if isinstance(n, ast.arg)}
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and isinstance(node.ctx, ast.Load):
            file = None if node.value.id in rebound else modules.get(node.value.id)
            if file and node.attr not in defined(file) and not node.attr.startswith("__"):
                yield f"{path.relative_to(ROOT)} line {node.lineno} takes {node.attr} from {node.value.id}"


def test_every_name_of_ours_that_is_imported_is_there():
    offenders = [words for path in FILES for words in missing(path)]
    assert not offenders, "\n" + "\n".join(offenders)


@pytest.mark.parametrize(("source", "words"), [
    ("from world.ema import nothing_there", "imports nothing_there"),
    ("from world import ema\nema.nothing_there()", "takes nothing_there from ema"),
    ("from world.nowhere import thing", "imports thing"),
])
def test_a_name_that_is_not_there_is_found(tmp_path, monkeypatch, source, words):
    file = tmp_path / "file.py"
    file.write_text(source)
    monkeypatch.setattr("test_names.ROOT", tmp_path)
    assert words in "".join(missing(file))
