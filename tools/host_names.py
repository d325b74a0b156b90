"""What this pack takes from ComfyUI, and what of it is missing or called otherwise in another version: in two seconds.

    python tools/host_names.py --comfyui FOLDER      say what differs there from the recorded names
    python tools/host_names.py --comfyui FOLDER --record    record the names as they are there

Sources are read, nothing is imported. A name is a module's function, class or value that host/ and nodes/ import or
reach through a module, an attribute of one (WrappersMP.OUTER_SAMPLE), or a method of the classes in MET by a name that
they call on anything; for functions and classes the arguments count. What hooks are handed is not seen: the suite is
for that.
"""

from __future__ import annotations

import argparse
import ast
import json
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
RECORD = ROOT / "tests" / "host_names.json"
HOSTS = ("comfy", "comfy_api", "comfy_execution", "comfy_extras", "folder_paths", "latent_preview", "node_helpers",
         "nodes", "server", "execution")  # fmt: skip
MET = ("comfy.model_patcher:ModelPatcher", "comfy.samplers:CFGGuider", "comfy.model_base:BaseModel", "comfy.sd:VAE",
       "comfy.sd:CLIP", "server:PromptServer")  # fmt: skip
UNKNOWN = "a value"  # no function and no class: only its being there counts


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--comfyui", type=Path, required=True, help="folder of ComfyUI")
    parser.add_argument("--record", action="store_true", help=f"write {RECORD.relative_to(ROOT)} anew")
    options = parser.parse_args()
    found = in_host(options.comfyui, used() | methods(options.comfyui))
    if options.record:
        RECORD.write_text(json.dumps(found, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    told = differences(json.loads(RECORD.read_text("utf-8")), found)
    print("\n".join(told) or f"all {len(found)} names are there, as they were")
    return 1 if told else 0


def used() -> set[str]:
    """The names that host/ and nodes/ take from ComfyUI: "module:name" or "module:name.attribute"."""
    return {name for tree in trees() for name in taken(tree)}


def trees() -> list[ast.Module]:
    """The sources of what meets ComfyUI."""
    return [parsed(path) for folder in ("host", "nodes") for path in sorted((ROOT / folder).rglob("*.py"))]


@cache
def parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text("utf-8"))


def methods(folder: Path) -> set[str]:
    """The methods of the classes in MET, as they are in that ComfyUI, whose names host/ and nodes/ call."""
    calls = [node for tree in trees() for node in ast.walk(tree) if isinstance(node, ast.Call)]
    called = {call.func.attr for call in calls if isinstance(call.func, ast.Attribute)}
    found = set()
    for kind in MET:
        module, _, name = kind.partition(":")
        tree = parsed(folder.joinpath(*module.split(".")).with_suffix(".py"))
        inside = defined(defined(tree)[name])
        own = {at for at, node in inside.items() if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))}
        found |= {f"{kind}.{at}" for at in own & called}
    return found


def taken(tree: ast.Module) -> Iterator[str]:
    """What one file takes."""
    modules: set[str] = set()
    names: dict[str, str] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            modules |= {alias.name for alias in node.names if ours_not(alias.name)}
            names |= {alias.asname: alias.name for alias in node.names if alias.asname and ours_not(alias.name)}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level and ours_not(node.module):
            for alias in node.names:
                names[alias.asname or alias.name] = f"{node.module}:{alias.name}"
                yield f"{node.module}:{alias.name}"
    for node in ast.walk(tree):
        if not isinstance(node, ast.Attribute):
            continue
        first, *rest = chain(node)
        dotted = ".".join([first, *rest])
        module = max((m for m in modules if dotted.startswith(f"{m}.")), key=len, default="")
        if module:
            yield f"{module}:{dotted.removeprefix(f'{module}.').split('.')[0]}"
        elif first in names and rest and ":" not in names[first]:
            yield f"{names[first]}:{rest[0]}"
        elif first in names and rest and names[first].split(":")[1][:1].isupper():
            yield f"{names[first]}.{rest[0]}"


def ours_not(module: str) -> bool:
    """Whether a module is ComfyUI's."""
    return module.split(".")[0] in HOSTS


def chain(node: ast.expr) -> list[str]:
    """["a", "b", "c"] of a.b.c; starts with "" where it begins with something else than a name."""
    if isinstance(node, ast.Name):
        return [node.id]
    return [*chain(node.value), node.attr] if isinstance(node, ast.Attribute) else [""]


def in_host(folder: Path, names: set[str]) -> dict[str, str]:
    """Each name with its arguments in that ComfyUI; those that are not there are left out."""
    found: dict[str, str] = {}
    for name in names:
        module, _, path = name.partition(":")
        shape = shape_of(folder, module, path.split("."))
        if shape is not None:
            found[name] = shape
    return found


def shape_of(folder: Path, module: str, path: list[str]) -> str | None:
    """The arguments of module.path in that ComfyUI; None if it is not there."""
    place = folder.joinpath(*module.split("."))
    if place.joinpath(*path[:1]).with_suffix(".py").is_file() or place.joinpath(*path[:1], "__init__.py").is_file():
        return UNKNOWN  # a module
    file = next((p for p in (place.with_suffix(".py"), place / "__init__.py") if p.is_file()), None)
    if file is None:
        return None
    node = defined(parsed(file)).get(path[0])
    if len(path) > 1 and isinstance(node, ast.ClassDef):
        inside = defined(node)
        return shape(inside[path[1]]) if path[1] in inside else UNKNOWN if node.bases else None
    return None if node is None else shape(node)


def defined(tree: ast.AST) -> dict[str, ast.AST]:
    """The names that a module or class binds, also inside its ifs and tries."""
    found: dict[str, ast.AST] = {}
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            found[node.name] = node
        elif isinstance(node, (ast.Import, ast.ImportFrom)):
            found |= {(alias.asname or alias.name).split(".")[0]: node for alias in node.names}
        elif isinstance(node, (ast.Assign, ast.AnnAssign)):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            found |= {each.id: node for target in targets for each in ast.walk(target) if isinstance(each, ast.Name)}
        elif isinstance(node, (ast.If, ast.Try, ast.With, ast.ExceptHandler)):
            found |= defined(node)
    return found


def shape(node: ast.AST) -> str:
    """The arguments of a function, or of what makes an object of a class."""
    if isinstance(node, ast.ClassDef):
        made = defined(node).get("__init__")
        return shape(made) if made is not None else "class"
    return f"({ast.unparse(node.args)})" if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)) else UNKNOWN


def differences(recorded: dict[str, str], found: dict[str, str]) -> list[str]:
    """A line for every name that is missing, called otherwise, or not recorded."""
    told = [f"gone: {name} {was}" for name, was in sorted(recorded.items()) if name not in found]
    told += [
        f"changed: {name} was {recorded[name]}, is {now}"
        for name, now in sorted(found.items()) if name in recorded and recorded[name] != now
    ]  # fmt: skip
    return told + [f"not recorded: {name} {now}" for name, now in sorted(found.items()) if name not in recorded]


if __name__ == "__main__":
    sys.exit(main())
