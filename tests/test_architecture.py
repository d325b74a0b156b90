"""The rooms and the arrows between them, read from the source of every file; nothing of the pack is imported here.

Each test looks at every file and names all offenders at once.
"""

import ast
import subprocess
import sys
from functools import cache
from graphlib import TopologicalSorter
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
LAZY = {
    "guidance/guides": {"transformers", "torchvision", "huggingface_hub"},
    "guidance/losses": {"kornia"},
    "guidance/cutouts.py": {"kornia"},
    "guidance/training/student.py": {"peft"},
}
LIBRARY = [ROOT / "__init__.py", *sorted(p for r in ("guidance", "host", "nodes") for p in (ROOT / r).rglob("*.py"))]
GUIDANCE = [path for path in LIBRARY if "guidance" in path.relative_to(ROOT).parts[:1]]
NODES = sorted(p for p in (ROOT / "nodes").glob("*.py") if p.name != "__init__.py")
# The one file that reads torch's own format: plain tensors only, and the name of the error that refuses all else.
WEIGHTS_ONLY = ROOT / "guidance" / "checkpoints" / "state_dicts.py"
LATE = {ROOT / "host" / "tuning" / "study.py"}  # imported inside functions alone
OF_THE_SYSTEM = {"os", "pathlib", "io", "shutil", "tempfile", "glob", "socket", "subprocess", "urllib", "safetensors"}
DISK = {  # who may touch it
    "guidance/checkpoints",
    "guidance/experts",
    "guidance/networks/edm2",
    "guidance/networks/tiny",
    "guidance/training/checkpoint.py",
}

# Each room, with the rooms below it that it may import. The rules and the losses are the core's own.
CORE = "guidance"
ARROWS = {
    "": {"nodes"},
    "nodes": {
        "host/common", "host/compare", "host/degrade", "host/engine", "host/models", "host/recording",
        "host/report", "host/schema", "host/training", "host/tuning", CORE, "guidance/tuning",
    },
    "host": set(),
    "host/common": {CORE},
    "host/lora": {"host/common", "guidance/networks"},
    "host/degrade": {"host/common", CORE},
    "host/negative": {"host/common", "host/degrade", CORE},
    "host/models": {
        "host/common", CORE, "guidance/networks/adm", "guidance/networks/edm2", "guidance/networks/tiny",
        "guidance/experts", "guidance/checkpoints", "guidance/training",
    },
    "host/recording": {"host/common", CORE},
    "host/engine": {
        "host/common", "host/degrade", "host/lora", "host/models", "host/negative", "host/recording", CORE,
        "guidance/experts", "guidance/training",
    },
    "host/report": {"host/common", "host/lora", "host/recording", "host/engine", "guidance/experts", CORE},
    "host/schema": {"host/common", "host/engine", CORE},
    "host/compare": {
        "guidance/checkpoints", "guidance/experts", "host/common", "host/degrade", "host/engine", "host/models",
        "host/recording", "host/report", CORE,
    },
    "host/training": {
        "host/common", "host/models", "host/engine", "host/report", CORE, "guidance/checkpoints", "guidance/experts",
        "guidance/training",
    },
    "host/tuning": {
        "host/common", "host/compare", "host/engine", "host/models", "host/recording", "host/report", "host/training",
        CORE, "guidance/tuning",
    },
    "guidance": set(),
    "guidance/checkpoints": set(),
    "guidance/networks": set(),
    "guidance/networks/adm": {"guidance/checkpoints"},
    "guidance/networks/edm2": {"guidance/checkpoints"},
    "guidance/networks/tiny": {"guidance/checkpoints"},
    "guidance/guides": {
        CORE, "guidance/networks", "guidance/networks/adm", "guidance/networks/tiny", "guidance/checkpoints",
    },
    "guidance/experts": {CORE, "guidance/networks/tiny", "guidance/checkpoints"},
    "guidance/training": {CORE, "guidance/networks/tiny", "guidance/experts", "guidance/checkpoints"},
    "guidance/tuning": {CORE, "guidance/checkpoints"},
}


def name(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def room(path: Path) -> str:
    """The folder of a file; the core's for its rules and losses."""
    folder = path.parent.relative_to(ROOT).as_posix().removeprefix(".")
    return CORE if folder in ("guidance/rules", "guidance/losses") else folder


@cache
def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text("utf-8"))


def module(parts: tuple[str, ...]) -> Path | None:
    """The file of a module of ours, by its dotted path."""
    candidates = (ROOT.joinpath(*parts).with_suffix(".py"), ROOT.joinpath(*parts, "__init__.py")) if parts else ()
    return next((path for path in candidates if path.is_file()), None)


@cache
def ours(path: Path) -> frozenset[Path]:
    """The files of ours that a file imports, anywhere in it."""
    package, found = path.relative_to(ROOT).parts[:-1], set()
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.ImportFrom) and node.level:
            below = tuple(node.module.split(".")) if node.module else ()
            base = package[: len(package) - node.level + 1] + below
            found |= {module((*base, alias.name)) or module(base) for alias in node.names}
    assert None not in found, f"{name(path)} imports what is not there"
    return frozenset(found - {path})


@cache
def theirs(path: Path) -> frozenset[str]:
    """What else it imports, by dotted names."""
    nodes = list(ast.walk(tree(path)))
    plain = {alias.name for n in nodes if isinstance(n, ast.Import) for alias in n.names}
    return frozenset(plain | {n.module or "" for n in nodes if isinstance(n, ast.ImportFrom) and not n.level})


def calls_in(path: Path) -> set[str]:
    return {ast.unparse(n.func) for n in ast.walk(tree(path)) if isinstance(n, ast.Call)}


def none(offenders: list[str]) -> None:
    """Fail with all of them."""
    assert not offenders, "\n" + "\n".join(offenders)


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

    yield from walk(tree(path), "")


def test_arrows_point_down():
    assert {room(path) for path in LIBRARY} <= ARROWS.keys(), "a room without its arrows"
    none(
        [
            f"{name(path)} may not import {name(target)}: {room(path)} imports only {sorted(ARROWS[room(path)])}"
            for path in LIBRARY
            for target in ours(path)
            if room(target) not in ARROWS[room(path)] | {room(path)}
        ]
    )


def test_no_circle_of_files_and_none_of_rooms():
    """Raises graphlib.CycleError with the circle."""
    list(TopologicalSorter({path: ours(path) for path in LIBRARY}).static_order())
    rooms: dict[str, set[str]] = {}
    for path in LIBRARY:
        rooms.setdefault(room(path), set()).update({room(target) for target in ours(path)} - {room(path)})
    list(TopologicalSorter(rooms).static_order())


def test_every_room_says_what_lives_there_and_what_may_be_touched():
    none([f"{name(p)} is too short" for p in LIBRARY if p.name == "__init__.py" and p.parent != ROOT and _silent(p)])


def _silent(path: Path) -> bool:
    return len((ast.get_docstring(tree(path)) or "").split()) < 8


def on_disk(path: Path) -> bool:
    return any(name(path).startswith(place) for place in DISK)


def test_guidance_knows_no_comfyui_and_the_core_no_disk():
    offenders = []
    for path in GUIDANCE:
        allowed_here = set(sys.stdlib_module_names) | {"torch", "einops"}
        allowed_here = allowed_here | {"safetensors"} if on_disk(path) else allowed_here - OF_THE_SYSTEM
        for place, libraries in LAZY.items():
            allowed_here |= libraries if name(path).startswith(place) else set()
        offenders += [f"{name(path)} imports {library}" for library in top(theirs(path)) - allowed_here]
    none(offenders)


def test_heavy_libraries_are_imported_where_they_are_used():
    heavy = {"kornia", "transformers", "torchvision", "peft", "optuna"}
    at_start = {
        path: {a.name for n in tree(path).body if isinstance(n, ast.Import) for a in n.names}
        | {n.module or "" for n in tree(path).body if isinstance(n, ast.ImportFrom)}
        for path in LIBRARY
    }
    slow = {path for path in LIBRARY if top(at_start[path]) & heavy} - LATE
    none([f"{name(path)}: ComfyUI's start would wait for it" for path in slow])
    late = {path.stem for path in LATE}
    none([f"{name(path)} imports {at_start[path] & late} at its start" for path in LIBRARY if at_start[path] & late])


def test_only_the_rooms_of_files_read_files():
    none(
        [
            f"{name(path)} calls {call}"
            for path in GUIDANCE
            if not on_disk(path)
            for call in calls_in(path)
            if call in ("open", "torch.load", "torch.save") or call.rpartition(".")[2] == "read_text"
        ]
    )


def test_rules_stay_on_their_device():
    waiting = {"item", "cpu", "cuda", "numpy", "tolist"}
    rules = sorted((ROOT / "guidance" / "rules").glob("*.py"))
    used = {path: {n.attr for n in ast.walk(tree(path)) if isinstance(n, ast.Attribute)} for path in rules}
    none([f"{name(path)} would wait for the device" for path in rules if used[path] & waiting])


def test_only_the_host_imports_comfyui():
    comfyui = {"comfy", "comfy_extras", "comfy_execution", "folder_paths", "nodes", "server", "execution"}
    outside = [path for path in LIBRARY if not room(path).startswith("host")]
    forbidden = {path: comfyui | (set() if room(path) == "nodes" else {"comfy_api"}) for path in outside}
    none([f"{name(path)} imports ComfyUI" for path in outside if top(theirs(path)) & forbidden[path]])


def test_nodes_hold_no_tensors():
    few = {"__future__", "typing", "comfy_api"}
    none([f"{name(path)} is more than a schema, wires and words" for path in NODES if not top(theirs(path)) <= few])


def test_nodes_are_literal():
    """The registry's scanners read the source: `class X(io.ComfyNode)` with node_id="GuidanceX"."""
    for cls in (n for path in NODES for n in tree(path).body if isinstance(n, ast.ClassDef)):
        assert [ast.unparse(base) for base in cls.bases] == ["io.ComfyNode"], cls.name
        schemas = [n for n in ast.walk(cls) if isinstance(n, ast.Call) and ast.unparse(n.func) == "io.Schema"]
        ids = [ast.literal_eval(k.value) for s in schemas for k in s.keywords if k.arg == "node_id"]
        assert ids == [cls.name] and cls.name.startswith("Guidance"), f"{cls.name} has node_id {ids}"


def test_every_module_lists_its_nodes():
    for path in NODES:
        assigned = [n for n in tree(path).body if isinstance(n, ast.AnnAssign)]
        listed = next(n.value for n in assigned if ast.unparse(n.target) == "NODES")
        classes = [n.name for n in tree(path).body if isinstance(n, ast.ClassDef)]
        assert sorted(node.id for node in listed.elts) == sorted(classes), name(path)


def test_a_class_has_a_name_of_its_own():
    owners: dict[str, list[str]] = {}
    for path in LIBRARY:
        for cls in (n for n in tree(path).body if isinstance(n, ast.ClassDef)):
            owners.setdefault(cls.name, []).append(name(path))
    none([f"{cls} is {' and '.join(places)}" for cls, places in owners.items() if len(places) > 1])


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


def test_no_prints_and_nothing_run_from_text():
    bad_calls = {"print", "eval", "exec", "compile", "torch.load", "os.getenv", "os.environ.get", "__import__"}
    bad_modules = {"pickle", "dill", "marshal", "shelve", "utils"}
    offenders = []
    for path in LIBRARY:
        excepted = {"torch.load", "pickle"} if path == WEIGHTS_ONLY else set()
        used = (calls_in(path) & bad_calls) | (top(theirs(path)) & bad_modules)
        offenders += [f"{name(path)} uses {some}" for some in used - excepted]
    none(offenders)


def test_torch_files_are_read_as_plain_tensors():
    """What the exception above allows: torch.load with a literal weights_only=True, and of pickle one error's name."""
    nodes = list(ast.walk(tree(WEIGHTS_ONLY)))
    loads = [n for n in nodes if isinstance(n, ast.Call) and ast.unparse(n.func) == "torch.load"]
    assert loads and all("weights_only=True" in map(ast.unparse, load.keywords) for load in loads)
    names = [a.name for n in nodes if isinstance(n, ast.ImportFrom) and n.module == "pickle" for a in n.names]
    assert names == ["UnpicklingError"]
    assert not [n for n in nodes if isinstance(n, ast.Import) and n.names[0].name == "pickle"]


def test_no_broad_except():
    caught = [
        (path, n.lineno, ast.unparse(n.type) if n.type else "everything")
        for path in LIBRARY
        for n in ast.walk(tree(path))
        if isinstance(n, ast.ExceptHandler)
    ]
    broad = ("everything", "Exception", "BaseException")
    none([f"{name(path)} line {line} catches {what}" for path, line, what in caught if what in broad])


def test_files_and_functions_can_be_read_at_a_glance():
    lines = {path: len(path.read_text("utf-8").splitlines()) for path in LIBRARY}
    most = {path: 80 if path.parent.name == "rules" else 400 for path in LIBRARY}
    offenders = [f"{name(path)} has {lines[path]} lines" for path in LIBRARY if lines[path] > most[path]]
    for path in LIBRARY:
        for function, node in functions(path):
            length = node.end_lineno - node.lineno + 1
            offenders += [f"{function} has {length} lines"] * (length > 40)
    none(offenders)


def test_every_file_says_what_it_is_for():
    none([f"{name(path)} has no docstring" for path in LIBRARY if not ast.get_docstring(tree(path))])
