"""Another version of ComfyUI's page than the one that it asks for: its package, in a folder of its own."""

from __future__ import annotations

import argparse
import re
import shutil
import tempfile
from pathlib import Path

from .terminal import DevError, run_logged

PACKAGE = "comfyui-frontend-package"
NEWEST = "newest"


def page_version(text: str) -> str:
    """A version such as 1.58.1, or NEWEST, as the command line has it. Raises ArgumentTypeError."""
    if text != NEWEST and not re.fullmatch(r"\d+(\.\w+)*", text):
        raise argparse.ArgumentTypeError(f"{text!r} is no version of {PACKAGE}: give one such as 1.58.1, or {NEWEST}")
    return text


def locate_page(version: str, cache: Path, python: Path, log: Path) -> Path:
    """The folder of the page's files, for --front-end-root; fetched into `cache` if it is not there.

    python: of an environment with uv. NEWEST is asked of the registry every time. Raises DevError.
    """
    if version != NEWEST and (folder := cache / version).is_dir():
        return static(folder)
    cache.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="unfinished-", dir=cache) as unfinished:
        wanted = PACKAGE if version == NEWEST else f"{PACKAGE}=={version}"
        command = [str(python), "-m", "uv", "pip", "install", "--python", str(python), "--no-deps", "--target"]
        run_logged([*command, unfinished, wanted], log, f"Downloading the page ({wanted})", "10 s, 30 MB")
        found = next(Path(unfinished).glob("*.dist-info")).name.removesuffix(".dist-info").rpartition("-")[2]
        folder = cache / found
        if not folder.is_dir():
            shutil.copytree(unfinished, folder)
    return static(folder)


def static(folder: Path) -> Path:
    """The page's files in an installed package; DevError where there is no page in it."""
    page = folder / "comfyui_frontend_package" / "static"
    if not (page / "index.html").is_file():
        raise DevError(f"{folder} has no page in it ({page / 'index.html'} not found): remove that folder, run again")
    return page
