"""What is published: its metadata, its contents, and what the registry's scanners would say of it."""

import ast
import os
import re
import shlex
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from devtools import checks
from devtools.comfyui import RELEASES

ROOT = Path(__file__).resolve().parent.parent
PYTHON = Path(sys.executable)
# Beside the embedded networks: half of it workflows with their cards, a fifth the pictures of the help pages, a tenth
# these pages in three languages.
MOST_BYTES = 11 * 2**18
TEST_COMMAND = "python3 tools/dev.py test"

# What scanners flag and a pack has no reason to do: starting programs, running text, reading unsafe files, network.
FORBIDDEN_MODULES = {
    "base64", "ctypes", "dill", "ftplib", "http", "httpx", "marshal", "pickle", "pip", "requests", "shelve", "smtplib",
    "socket", "subprocess", "telnetlib", "urllib", "urllib3", "websocket", "websockets",
}  # fmt: skip
# The one file that reads torch's own format, with weights_only=True; test_architecture.py looks at how.
WEIGHTS_ONLY = "guidance/checkpoints/state_dicts.py"
FORBIDDEN_CALLS = {"eval", "exec", "compile", "__import__", "os.system", "os.popen", "torch.load"}


def git(*arguments, cwd=ROOT):
    return subprocess.run(["git", *arguments], cwd=cwd, capture_output=True, text=True, check=True).stdout


def comfy_cli(*arguments, cwd):
    """Run comfy-cli without its telemetry and with a configuration of its own."""
    home = str(cwd)
    surroundings = os.environ | {"DO_NOT_TRACK": "1", "HOME": home, "XDG_CONFIG_HOME": home, "APPDATA": home}
    command = [sys.executable, "-m", "comfy_cli", "--skip-prompt", *arguments]
    return subprocess.run(command, cwd=cwd, env=surroundings, capture_output=True, text=True, timeout=120, check=False)


@pytest.fixture(scope="session")
def published(tmp_path_factory):
    """A copy of the working tree as git would publish it: all files that git does not ignore."""
    copy = tmp_path_factory.mktemp("published")
    for name in git("ls-files", "--cached", "--others", "--exclude-standard").splitlines():
        if (ROOT / name).is_file():
            (copy / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, copy / name)
    git("init", "--quiet", cwd=copy)
    git("add", "--all", cwd=copy)
    return copy


@pytest.fixture(scope="session")
def archive(published):
    """The open node.zip that `comfy node pack` makes of the published copy."""
    done = comfy_cli("node", "pack", cwd=published)
    assert done.returncode == 0, done.stdout + done.stderr
    with zipfile.ZipFile(published / "node.zip") as packed:
        yield packed


@pytest.fixture(scope="session")
def unpacked(archive, tmp_path_factory):
    """The published files alone, as they lie on a user's disk."""
    folder = tmp_path_factory.mktemp("unpacked")
    archive.extractall(folder)
    return folder


def project():
    """pyproject.toml as ComfyUI's command line reads it."""
    import tomlkit

    return tomlkit.parse((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


def test_requirements_equal_the_declared_dependencies():
    lines = (ROOT / "requirements.txt").read_text(encoding="utf-8").splitlines()
    assert [line for line in lines if line and not line.startswith("#")] == list(project()["project"]["dependencies"])


def test_requirements_never_touch_what_comfyui_brings():
    names = {re.split(r"[<>=!~ \[]", line)[0] for line in project()["project"]["dependencies"]}
    assert not names & {"torch", "torchvision", "torchaudio", "numpy", "transformers", "pillow"}


@pytest.mark.slow
def test_validate_is_clean(published):
    done = comfy_cli("node", "validate", cwd=published)
    said = done.stdout + done.stderr
    assert done.returncode == 0, said
    assert not re.search(r"warning|error|S102|S307|E702", said, re.IGNORECASE), said


def test_the_registry_understands_the_metadata(published):
    """The parser drops what it does not understand without a word, so ask it what it kept."""
    code = (
        "from comfy_cli.registry import extract_node_configuration as read; c = read('pyproject.toml');"
        "print(c.project.name, c.project.version, c.tool_comfy.publisher_id, c.tool_comfy.display_name, sep='|');"
        "print(c.project.supported_os, c.project.supported_accelerators, c.project.supported_comfyui_version, sep='|')"
    )
    command = [sys.executable, "-c", code]
    done = subprocess.run(
        command, cwd=published, env=os.environ | {"DO_NOT_TRACK": "1"}, capture_output=True, text=True, check=True
    )
    identity, support = done.stdout.splitlines()[-2:]
    version = project()["project"]["version"]
    assert identity == f"guidance-components|{version}|guidance-components|Guidance Components"
    systems, accelerators, comfyui = support.split("|")
    assert "OS Independent" in systems and "NVIDIA CUDA" in accelerators
    assert comfyui == project()["tool"]["comfy"]["requires-comfyui"]


@pytest.mark.slow
def test_the_archive_holds_what_users_need_and_nothing_else(archive):
    names = archive.namelist()
    tops = {name.split("/")[0] for name in names}
    assert {"__init__.py", "pyproject.toml", "requirements.txt", "README.md", "LICENSE"} <= tops
    assert {"guidance", "host", "nodes", "assets", "js", "locales", "subgraphs", "workflows"} <= tops
    assert not tops & {"tests", "benchmarks", "docs", ".github", ".ci", ".venv", ".cache", "output"}
    assert [name for name in names if name.startswith("tools/")] == ["tools/train_experts.py"]  # the README names it
    assert {"js/docs/GuidanceCFG.md", "js/docs/pictures/cfg.webp"} <= set(names)  # help works without the web
    assert not [name for name in names if name.endswith((".pt", ".pth", ".ckpt", ".pkl", ".bin", ".pyc"))]


def test_the_archive_is_small(archive):
    networks = [entry for entry in archive.infolist() if entry.filename.endswith(".safetensors")]
    assert {entry.filename.split("/")[0] for entry in networks} == {"assets"}
    assert sum(entry.compress_size for entry in {*archive.infolist()} - {*networks}) < MOST_BYTES


def test_the_registry_rules_hold_without_exceptions(unpacked):
    done = checks.registry_rules(PYTHON, unpacked)
    assert done.returncode == 0, done.stdout + done.stderr


def findings(file):
    """Line and name of each forbidden import or call in a Python file."""
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names if alias.name.split(".")[0] in FORBIDDEN_MODULES]
        elif isinstance(node, ast.ImportFrom) and not node.level:
            names = [node.module] if node.module.split(".")[0] in FORBIDDEN_MODULES else []
        elif isinstance(node, ast.Call) and ast.unparse(node.func) in FORBIDDEN_CALLS:
            names = [ast.unparse(node.func)]
        yield from ((node.lineno, name) for name in names)


def test_published_code_starts_nothing_and_fetches_nothing(unpacked):
    files = sorted(unpacked.rglob("*.py"))
    assert files
    found = [(file.relative_to(unpacked).as_posix(), name) for file in files for _, name in findings(file)]
    assert found == [(WEIGHTS_ONLY, "pickle"), (WEIGHTS_ONLY, "torch.load")]


@pytest.mark.parametrize("line", ["import subprocess", "from pickle import loads", "os.system('ls')", "eval('1')"])
def test_the_search_finds_what_it_searches(tmp_path, line):
    (tmp_path / "bad.py").write_text(line)
    assert len(list(findings(tmp_path / "bad.py"))) == 1


def test_style():
    done = checks.style(PYTHON)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.slow
def test_types(comfyui_root):
    done = checks.types(PYTHON, comfyui_root)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_ci_runs_the_command_that_the_readme_gives():
    script = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    commands = [line for line in script.splitlines() if line.strip() and not line.startswith("#")]
    assert len(commands) == 1 and commands[0].endswith(f"exec {TEST_COMMAND}")
    assert os.access(ROOT / ".ci" / "run", os.X_OK)
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    given = [shlex.split(line, comments=True) for line in readme.splitlines() if "tools/dev.py test" in line]
    assert TEST_COMMAND.split() in given


def test_the_weekly_run_takes_the_oldest_comfyui_that_is_declared():
    declared = project()["tool"]["comfy"]["requires-comfyui"].removeprefix(">=")
    assert declared in RELEASES
    assert f"options: --comfyui {declared}\n" in (ROOT / ".github" / "workflows" / "hosts.yml").read_text("utf-8")
    assert f"ComfyUI {declared.rpartition('.')[0]} or newer" in (ROOT / "README.md").read_text("utf-8")


def test_every_workflow_of_the_ci_runs_that_command():
    for name in ("tests.yml", "publish.yml"):
        assert "- run: .ci/run" in (ROOT / ".github" / "workflows" / name).read_text(encoding="utf-8")
