"""The rooms and the arrows between them, read from the source of every file; nothing of the pack is imported here."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
WINGS = ("world", "training", "networks", "guides")
LAZY = {
    "guidance/guides": {"transformers", "torchvision", "huggingface_hub"},
    "guidance/losses": {"kornia"},
    "guidance/cutouts.py": {"kornia"},
    "guidance/training/student.py": {"peft"},
}
LIBRARY = [ROOT / "__init__.py", *sorted(p for r in ("guidance", "host", "nodes") for p in (ROOT / r).rglob("*.py"))]
NODES = sorted(p for p in (ROOT / "nodes").glob("*.py") if p.name != "__init__.py")
LONG_FUNCTIONS = {"nodes/schedule.py GuidanceSchedule.define_schema": 45}  # eight sockets, each with its words
# The one file that reads torch's own format: plain tensors only, and the name of the error that refuses all else.
WEIGHTS_ONLY = ROOT / "guidance" / "networks" / "state_dicts.py"
OF_THE_SYSTEM = {"os", "pathlib", "io", "shutil", "tempfile", "glob", "socket", "subprocess", "urllib", "safetensors"}


def name(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def room(path: Path | tuple[str, ...]) -> str:
    """guidance, guidance/<wing>, host, nodes, ... of a file, or of the dotted path of a module of ours."""
    parts = path if isinstance(path, tuple) else path.relative_to(ROOT).parts
    if parts[:1] == ("guidance",) and len(parts) > 1 and parts[1] in WINGS:
        return f"guidance/{parts[1]}"
    return parts[0] if len(parts) > 1 or not isinstance(path, Path) else ""


def imports(path: Path) -> list[tuple[str, str]]:
    """What a file imports, anywhere in it: ("ours", room) or ("theirs", dotted name)."""
    found = []
    package = path.relative_to(ROOT).parts[:-1]
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            found += [("theirs", alias.name) for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            found.append(("theirs", node.module))
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] + tuple((node.module or "").split("."))
            base = tuple(part for part in base if part)
            found += [("ours", room((*base, alias.name))) for alias in node.names]
    return found


def theirs(path: Path) -> set[str]:
    return {target for kind, target in imports(path) if kind == "theirs"}


def ours(path: Path) -> set[str]:
    return {target for kind, target in imports(path) if kind == "ours"}


def top(modules: set[str]) -> set[str]:
    return {module.partition(".")[0] for module in modules}


def functions(path: Path):
    """(qualified name, node) of every function and method."""

    def walk(node, prefix):
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef):
                yield f"{name(path)} {prefix}{child.name}", child
            if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
                yield from walk(child, f"{prefix}{child.name}.")
            else:
                yield from walk(child, prefix)

    yield from walk(ast.parse(path.read_text("utf-8")), "")


ALLOWED = {
    "": {"nodes"},
    "nodes": {"nodes", "host", "guidance"},
    "host": {"host", "guidance", "guidance/networks", "guidance/training", "guidance/world", "guidance/guides"},
    "guidance": {"guidance"},
    "guidance/networks": {"guidance/networks", "guidance"},
    "guidance/guides": {"guidance/guides", "guidance/networks", "guidance"},
    "guidance/training": {"guidance/training", "guidance/networks", "guidance"},
    "guidance/world": {"guidance/world", "guidance"},
}


@pytest.mark.parametrize("path", LIBRARY, ids=name)
def test_arrows_point_down(path):
    assert ours(path) <= ALLOWED[room(path)], f"{room(path)} may import only {sorted(ALLOWED[room(path)])}"


@pytest.mark.parametrize("path", [p for p in LIBRARY if room(p).startswith("guidance")], ids=name)
def test_guidance_knows_no_comfyui_and_the_core_no_disk(path):
    allowed = set(sys.stdlib_module_names) | {"torch"}
    if room(path) == "guidance/networks":
        allowed |= {"safetensors"}
    else:
        allowed -= OF_THE_SYSTEM
    for place, libraries in LAZY.items():
        allowed |= libraries if name(path).startswith(place) else set()
    assert top(theirs(path)) <= allowed


@pytest.mark.parametrize("path", LIBRARY, ids=name)
def test_heavy_libraries_are_imported_where_they_are_used(path):
    at_start = {a.name for n in ast.parse(path.read_text("utf-8")).body if isinstance(n, ast.Import) for a in n.names}
    at_start |= {n.module or "" for n in ast.parse(path.read_text("utf-8")).body if isinstance(n, ast.ImportFrom)}
    assert not top(at_start) & {"kornia", "transformers", "torchvision", "peft"}, "ComfyUI's start would wait for it"


@pytest.mark.parametrize("path", [p for p in LIBRARY if room(p).startswith("guidance")], ids=name)
def test_only_networks_reads_files(path):
    if room(path) == "guidance/networks":
        return
    calls = {ast.unparse(n.func) for n in ast.walk(ast.parse(path.read_text("utf-8"))) if isinstance(n, ast.Call)}
    reading = {c for c in calls if c in ("open", "torch.load", "torch.save") or c.rpartition(".")[2] == "read_text"}
    assert not reading, f"reads or writes files: {reading}"


@pytest.mark.parametrize("path", sorted((ROOT / "guidance" / "rules").glob("*.py")), ids=name)
def test_rules_stay_on_their_device(path):
    attributes = {n.attr for n in ast.walk(ast.parse(path.read_text("utf-8"))) if isinstance(n, ast.Attribute)}
    assert not attributes & {"item", "cpu", "cuda", "numpy", "tolist"}, "a rule would wait for the device"


@pytest.mark.parametrize("path", [p for p in LIBRARY if room(p) != "host"], ids=name)
def test_only_the_host_imports_comfyui(path):
    comfyui = {"comfy", "comfy_extras", "comfy_execution", "folder_paths", "nodes", "server", "execution"}
    assert not top(theirs(path)) & comfyui
    if room(path) != "nodes":
        assert "comfy_api" not in top(theirs(path))


@pytest.mark.parametrize("path", NODES, ids=name)
def test_nodes_hold_no_tensors(path):
    assert top(theirs(path)) <= {"__future__", "typing", "comfy_api"}, "a node is a schema, wires and words"


@pytest.mark.parametrize("path", NODES, ids=name)
def test_nodes_are_literal(path):
    """The registry's scanners read the source: `class X(io.ComfyNode)` with node_id="GuidanceX"."""
    for cls in (n for n in ast.parse(path.read_text("utf-8")).body if isinstance(n, ast.ClassDef)):
        assert [ast.unparse(base) for base in cls.bases] == ["io.ComfyNode"], cls.name
        schemas = [n for n in ast.walk(cls) if isinstance(n, ast.Call) and ast.unparse(n.func) == "io.Schema"]
        ids = [ast.literal_eval(k.value) for s in schemas for k in s.keywords if k.arg == "node_id"]
        assert ids == [cls.name] and cls.name.startswith("Guidance"), f"{cls.name} has node_id {ids}"


def test_every_node_is_listed():
    listing = (ROOT / "nodes" / "__init__.py").read_text("utf-8")
    nodes = next(n.value for n in ast.parse(listing).body if isinstance(n, ast.AnnAssign))
    classes = [n.name for p in NODES for n in ast.parse(p.read_text("utf-8")).body if isinstance(n, ast.ClassDef)]
    assert sorted(e.id for e in nodes.elts) == sorted(classes)


def test_the_entry_point_imports_nothing():
    body = ast.parse((ROOT / "__init__.py").read_text("utf-8")).body
    assert not [n for n in body if isinstance(n, ast.Import | ast.ImportFrom)]


def test_importing_the_pack_needs_neither_torch_nor_comfyui():
    script = (
        "import importlib.util as u, sys\n"
        f"s = u.spec_from_file_location('pack', {str(ROOT / '__init__.py')!r}, "
        f"submodule_search_locations=[{str(ROOT)!r}])\n"
        "m = u.module_from_spec(s); sys.modules['pack'] = m; before = set(sys.modules); s.loader.exec_module(m)\n"
        "assert m.WEB_DIRECTORY and m.comfy_entrypoint; print(sorted(set(sys.modules) - before))"
    )
    done = subprocess.run([sys.executable, "-I", "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("path", LIBRARY, ids=name)
def test_no_prints_and_nothing_run_from_text(path):
    tree = ast.parse(path.read_text("utf-8"))
    calls = {ast.unparse(n.func) for n in ast.walk(tree) if isinstance(n, ast.Call)}
    calls -= {"torch.load"} if path == WEIGHTS_ONLY else set()
    assert not calls & {"print", "eval", "exec", "compile", "torch.load", "os.getenv", "os.environ.get", "__import__"}
    assert not top(theirs(path)) & ({"pickle", "dill", "marshal", "shelve", "utils"} - _of_pickle(path))


def _of_pickle(path: Path) -> set[str]:
    return {"pickle"} if path == WEIGHTS_ONLY else set()


def test_torch_files_are_read_as_plain_tensors():
    """What the exception above allows: torch.load with a literal weights_only=True, and of pickle one error's name."""
    tree = ast.parse(WEIGHTS_ONLY.read_text("utf-8"))
    loads = [n for n in ast.walk(tree) if isinstance(n, ast.Call) and ast.unparse(n.func) == "torch.load"]
    assert loads and all("weights_only=True" in map(ast.unparse, load.keywords) for load in loads)
    names = [a.name for n in ast.walk(tree) if isinstance(n, ast.ImportFrom) and n.module == "pickle" for a in n.names]
    assert names == ["UnpicklingError"]
    assert not [n for n in ast.walk(tree) if isinstance(n, ast.Import) and n.names[0].name == "pickle"]


@pytest.mark.parametrize("path", LIBRARY, ids=name)
def test_no_broad_except(path):
    for handler in (n for n in ast.walk(ast.parse(path.read_text("utf-8"))) if isinstance(n, ast.ExceptHandler)):
        caught = ast.unparse(handler.type) if handler.type else "everything"
        assert caught not in ("everything", "Exception", "BaseException"), f"line {handler.lineno} catches {caught}"


@pytest.mark.parametrize("path", LIBRARY, ids=name)
def test_files_and_functions_can_be_read_at_a_glance(path):
    lines = len(path.read_text("utf-8").splitlines())
    assert lines <= (80 if path.parent.name == "rules" else 250)
    for function, node in functions(path):
        length = node.end_lineno - node.lineno + 1
        assert length <= LONG_FUNCTIONS.get(function, 40), f"{function} has {length} lines"


@pytest.mark.parametrize("path", LIBRARY, ids=name)
def test_every_file_says_what_it_is_for(path):
    assert ast.get_docstring(ast.parse(path.read_text("utf-8"))), "no docstring"
