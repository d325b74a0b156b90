"""What this pack takes from ComfyUI, and what of it is missing or called otherwise in another version: in two seconds.

    python tools/host_names.py --comfyui FOLDER [--page STATIC]    say what differs there from the recorded names
    python tools/host_names.py --comfyui FOLDER [--page STATIC] --record    record the names as they are there

Sources are read, nothing is imported. A name is a module's function, class or value that host/ and nodes/ import or
reach through a module, an attribute of one (WrappersMP.OUTER_SAMPLE), or a method of the classes in MET by a name that
they call on anything; for functions and classes the arguments count. "key:" is a key of the host's dicts (of
transformer options, conditionings, messages), which is somewhere in its sources; "page:" what js/ asks of the page's
objects, files, events and colours, which is somewhere in STATIC, the folder of the page's files
(comfyui_frontend_package/static). What hooks are handed is not seen: the suite is for that.

The record has the pinned ComfyUI and the oldest that is declared; another one is compared with the pinned one.
"""

from __future__ import annotations

import argparse
import ast
import importlib.metadata
import json
import re
import sys
from collections.abc import Iterable, Iterator
from contextlib import suppress
from functools import cache
from pathlib import Path

from devtools.comfyui import DEFAULT_VERSION, read_version

ROOT = Path(__file__).resolve().parents[1]
RECORD = ROOT / "tests" / "host_names.json"
HOSTS = ("comfy", "comfy_api", "comfy_execution", "comfy_extras", "folder_paths", "latent_preview", "node_helpers",
         "nodes", "server", "execution")  # fmt: skip
MET = ("comfy.model_patcher:ModelPatcher", "comfy.samplers:CFGGuider", "comfy.model_base:BaseModel", "comfy.sd:VAE",
       "comfy.sd:CLIP", "server:PromptServer")  # fmt: skip
UNKNOWN = "a value"  # no function and no class: only its being there counts
ASKS = ("get", "pop", "setdefault")  # of a dict
OWN_KEYS = {"condition", "heads", "kind", "patch"}  # of our own dicts, which some ComfyUIs have by chance
KEY = r"""(?:\[|\bget\(|\bpop\(|\bif |\bsetdefault\(|[{,]\s*)["'](\w+)["'](?=\]|,|\)| in | not in |:)"""
IN_PAGE = (  # what js/ asks of the page: members, what it hands over, files, events, colours
    r"\.([A-Za-z_]\w+)", r"^\s+(\w+)(?=\(.*\) \{$|: )", r'"(?:\.\./)+(scripts/[\w.]+)"', r'Event\("(\w+)"',
    r"var\((--[\w-]+)",
)  # fmt: skip


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--comfyui", type=Path, required=True, help="folder of ComfyUI")
    parser.add_argument("--page", type=Path, metavar="STATIC", help="folder of the page's files; this Python's without")
    parser.add_argument("--record", action="store_true", help=f"write {RECORD.relative_to(ROOT)} anew")
    options = parser.parse_args()
    page = options.page or own_page()
    if options.record and page is None:
        parser.error("--record needs --page STATIC, the folder of the page that this ComfyUI asks for")
    version, found = read_version(options.comfyui), found_in(options.comfyui, page)
    if options.record:
        RECORD.write_text(json.dumps(recorded() | {version: found}, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    told = beside_record(version, found, page is not None)
    print("\n".join(told) or f"all {len(found)} names are there, as they were")
    return 1 if told else 0


def own_page() -> Path | None:
    """The page that is installed for the Python that runs this; None without one."""
    with suppress(importlib.metadata.PackageNotFoundError):
        package = importlib.metadata.distribution("comfyui-frontend-package")
        return Path(str(package.locate_file("comfyui_frontend_package/static")))
    return None


def recorded() -> dict[str, dict[str, str]]:
    """The names of each ComfyUI in the record, by its version."""
    return json.loads(RECORD.read_text("utf-8"))


def beside_record(version: str, found: dict[str, str], with_page: bool = True) -> list[str]:
    """What differs from the record of this ComfyUI; of a version that has none, what is gone or changed since the
    pinned one."""
    known = recorded().get(version)
    if known is None:
        known = recorded()[DEFAULT_VERSION]
        found = {name: now for name, now in found.items() if name in known}
    return differences({name: was for name, was in known.items() if with_page or not name.startswith("page:")}, found)


def found_in(folder: Path, page: Path | None) -> dict[str, str]:
    """Everything that is there of what the pack takes."""
    keys = [f"key:{key}" for key in sorted(keys_asked() & keys_of(folder))]
    seen = [] if page is None else [f"page:{name}" for name in names_in_page(page, asked_of_page())]
    return in_host(folder, used() | methods(folder)) | dict.fromkeys([*keys, *seen], UNKNOWN)


def keys_asked() -> set[str]:
    """The texts by which host/ and nodes/ ask dicts."""
    found: list[ast.expr] = []
    for node in (node for tree in trees() for node in ast.walk(tree)):
        if isinstance(node, ast.Subscript):
            found.append(node.slice)
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in ASKS:
            found += node.args[:1]
        elif isinstance(node, ast.Compare) and isinstance(node.ops[0], (ast.In, ast.NotIn)):
            found.append(node.left)
        elif isinstance(node, ast.Dict):
            found += [key for key in node.keys if key is not None]
    return {node.value for node in found if isinstance(node, ast.Constant) and isinstance(node.value, str)} - OWN_KEYS


def keys_of(folder: Path) -> set[str]:
    """The texts by which ComfyUI's engine asks its dicts, or fills them."""
    files = [path for place in ("*.py", "comfy/**/*.py", "comfy_execution/**/*.py") for path in folder.glob(place)]
    return {word for path in files for word in re.findall(KEY, path.read_text("utf-8"))}


def asked_of_page() -> set[str]:
    """What js/ asks of the page's objects, and of the browser's, which look the same; not what it defines itself."""
    source = "\n".join(path.read_text("utf-8") for path in sorted((ROOT / "js").rglob("*.js")))
    bodies = re.findall(r"^(?:export )?class .*?^\}", source, re.MULTILINE | re.DOTALL)
    own = {name for body in bodies for name in re.findall(r"^  (?:get )?(\w+)\(", body, re.MULTILINE)}
    own |= set(re.findall(r"(?:function |const |let |this\.)(\w+)(?:\(| =)", source))
    return {name for form in IN_PAGE for name in re.findall(form, source, re.MULTILINE)} - own


def names_in_page(page: Path, names: Iterable[str]) -> list[str]:
    """Those of the names that a page's files have as whole words, or as a file."""
    files = [path for ending in ("js", "css") for path in sorted(page.rglob(f"*.{ending}"))]
    text = "\n".join(path.read_text("utf-8") for path in files)
    return sorted(name for name in names if (page / name).is_file() or has_word(text, name))


def has_word(text: str, word: str) -> bool:
    """Whether a text has a word as a whole; `re` would take a minute for a page."""
    at = text.find(word)
    while at >= 0:
        around = text[max(at - 1, 0) : at] + text[at + len(word) : at + len(word) + 1]
        if not re.search(r"[\w$-]", around):
            return True
        at = text.find(word, at + 1)
    return False


def used() -> set[str]:
    """The names that host/ and nodes/ take from ComfyUI: "module:name" or "module:name.attribute"."""
    return {name for tree in trees() for name in (*taken(tree), *named_in_words(tree))}


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


def named_in_words(tree: ast.Module) -> Iterator[str]:
    """The classes of the host that one file names as text: "comfy.ldm.flux.model.Flux"."""
    texts = [node.value for node in ast.walk(tree) if isinstance(node, ast.Constant) and isinstance(node.value, str)]
    for text in texts:
        if re.fullmatch(r"comfy(\.\w+)+\.[A-Z]\w+", text):
            yield ":".join(text.rpartition(".")[::2])


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
