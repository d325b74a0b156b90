"""The checks of the source text: style, the registry's security rules, types; for the suite and for `dev.py lint`."""

from __future__ import annotations

import contextlib
import subprocess
import tempfile
from collections.abc import Generator
from pathlib import Path

from .server import ROOT
from .terminal import clean_environment

# What the registry's validation looks for and only warns about: exec, eval, two statements on a line.
REGISTRY_RULES = "S102,S307,E702"
TYPED = ("__init__.py", "guidance", "host", "nodes", "tools")


@contextlib.contextmanager
def as_package() -> Generator[Path, None, None]:
    """A temporary folder in which the repository is the package `guidance_pack`, which its relative imports need."""
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "guidance_pack").symlink_to(ROOT, target_is_directory=True)
        yield Path(folder)


def run(python: Path, *arguments: str, cwd: Path = ROOT) -> subprocess.CompletedProcess[str]:
    """Run a checker, a module of the environment, and keep what it says."""
    command = [str(python), "-m", *arguments]
    return subprocess.run(command, cwd=cwd, env=clean_environment(), capture_output=True, text=True, check=False)


def style(python: Path) -> subprocess.CompletedProcess[str]:
    """ruff with the repository's rules."""
    return run(python, "ruff", "check", ".", "--output-format", "concise")


def registry_rules(python: Path, folder: Path = ROOT) -> subprocess.CompletedProcess[str]:
    """ruff with the registry's rules and no exceptions: neither noqa comments nor configured ones count."""
    options = ["--select", REGISTRY_RULES, "--ignore-noqa", "--isolated", "--output-format", "concise"]
    return run(python, "ruff", "check", ".", *options, cwd=folder)


def types(python: Path, comfyui: Path) -> subprocess.CompletedProcess[str]:
    """ty over the pack and the tools, with the real ComfyUI on its path."""
    with as_package() as folder:
        options = ["--project", str(folder), "--config-file", str(ROOT / "tools" / "ty.toml")]
        options += ["--python", str(python.parent.parent), "--output-format", "concise"]
        options += ["--extra-search-path", str(comfyui), "--extra-search-path", str(ROOT / "tools")]
        options += ["--extra-search-path", str(ROOT / "tests")]
        parts = [f"guidance_pack/{part}" for part in TYPED]
        return run(python, "ty", "check", *options, *parts, cwd=folder)
