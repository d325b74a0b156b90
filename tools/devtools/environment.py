"""The virtual environment: made once, filled once, reused while its inputs stay the same."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Generator
from pathlib import Path

from .comfyui import Source
from .terminal import DevError, clean_environment, last_line, run_logged, say

PINNED_TORCH = ("torch==2.11.0", "torchvision==0.26.0", "torchaudio==2.11.0")  # these load each other
MARKER = "guidance-components.json"
NEEDED_BYTES = 9 * 2**30


def interpreter(environment: Path) -> Path:
    """The Python of a virtual environment."""
    return environment / ("Scripts/python.exe" if os.name == "nt" else "bin/python")


def read_stamp(environment: Path) -> str | None:
    """The stamp of a finished environment, or None when it is unfinished or absent."""
    try:
        return json.loads((environment / MARKER).read_text(encoding="utf-8"))["stamp"]
    except (FileNotFoundError, ValueError, KeyError):
        return None


def write_stamp(environment: Path, stamp: str | None) -> None:
    (environment / MARKER).write_text(json.dumps({"stamp": stamp}), encoding="utf-8")


def create(environment: Path, log: Path) -> None:
    """Make an empty virtual environment with uv in it, unless a finished one is there.

    An unfinished one of ours is removed first; a folder that is not ours is refused (DevError), never removed.
    """
    if read_stamp(environment) is not None and interpreter(environment).exists():
        return
    if environment.exists():
        if not (environment / MARKER).exists():
            raise DevError(
                f"{environment} exists and was not made by this command: move it away or remove it, "
                "then run the same command again"
            )
        say(f"Removing {environment.name}, which an earlier run left unfinished ...")
        shutil.rmtree(environment)
    free = shutil.disk_usage(environment.parent).free
    if free < NEEDED_BYTES:
        raise DevError(
            f"{environment.parent} has {free / 2**30:.1f} GB free and PyTorch with ComfyUI's requirements needs "
            f"about {NEEDED_BYTES // 2**30} GB: free some space and run the same command again"
        )
    environment.mkdir(parents=True)
    write_stamp(environment, None)
    run_logged(
        [sys.executable, "-m", "venv", str(environment)], log, f"Making the environment {environment.name}", "5 s"
    )
    command = [str(interpreter(environment)), "-m", "pip", "install", "--disable-pip-version-check", "uv"]
    run_logged(command, log, "Installing uv, the installer", "5 s")


def fill(environment: Path, source: Source, requirements: list[Path], log: Path) -> None:
    """Install ComfyUI's requirements and ours unless the stamp says that exactly these are installed.

    ComfyUI gets the pinned torch, unless its requirements say which torch they want.
    Raises DevError, also where the three torch packages that were installed do not load together.
    """
    files = [source.root / "requirements.txt", *requirements]
    extra = [] if wants_its_torch(files[0].read_text(encoding="utf-8")) else list(PINNED_TORCH)
    stamp = hash_inputs(files, extra)
    if read_stamp(environment) == stamp:
        return
    write_stamp(environment, None)
    python = str(interpreter(environment))
    command = [python, "-m", "uv", "pip", "install", "--python", python, *extra]
    for file in files:
        command += ["-r", str(file)]
    run_logged(command, log, "Installing PyTorch, ComfyUI's requirements and ours", "1-5 minutes, 6 GB")
    require_torch(environment, files[0])
    write_stamp(environment, stamp)


def wants_its_torch(requirements: str) -> bool:
    """Whether a requirements.txt says more of a torch package than its name: a version, an address, an index."""
    lines = [line.partition(" #")[0].partition(";")[0].strip() for line in requirements.splitlines()]
    said = any(re.match(r"(torch|torchvision|torchaudio)\s*(\[.*\])?\s*[=<>~!@(]", line, re.I) for line in lines)
    return said or any(re.match(r"(--(extra-)?index-url|-i)\b", line) for line in lines)


def require_torch(environment: Path, requirements: Path) -> None:
    """DevError where torch, torchvision and torchaudio, as `requirements` had them installed, do not load together."""
    command = [str(interpreter(environment)), "-c", "import torch, torchvision, torchaudio"]
    answer = subprocess.run(command, env=clean_environment(), capture_output=True, text=True, check=False)
    if answer.returncode != 0:
        raise DevError(
            f"torch, torchvision and torchaudio do not load together as {requirements} asks for them "
            f"({last_line(answer.stderr)}): name versions there that fit, such as {', '.join(PINNED_TORCH)}, and run "
            "the same command again"
        )


def hash_inputs(files: list[Path], extra: list[str]) -> str:
    """One hash of everything that decides what is installed."""
    parts = [*extra, *(file.read_text(encoding="utf-8") for file in files)]
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()


def has_accelerator(environment: Path) -> bool:
    """Whether this environment's torch sees a device that ComfyUI would use without --cpu."""
    code = "import torch; print(torch.cuda.is_available() or torch.backends.mps.is_available())"
    command = [str(interpreter(environment)), "-c", code]
    answer = subprocess.run(command, env=clean_environment(), capture_output=True, text=True, check=False)
    if answer.returncode != 0:
        raise DevError(
            f"PyTorch in {environment} does not start ({last_line(answer.stderr)}): "
            f"remove {environment} and run the same command again"
        )
    return answer.stdout.strip() == "True"


@contextlib.contextmanager
def only_one(lock: Path) -> Generator[None, None, None]:
    """Let one run at a time prepare; the system frees the lock when a run dies, so that none can be left behind."""
    lock.parent.mkdir(parents=True, exist_ok=True)
    with lock.open("a+b") as handle:
        if os.name == "nt":
            import msvcrt

            handle.seek(0)
            msvcrt.locking(handle.fileno(), msvcrt.LK_LOCK, 1)
            yield
            return
        import fcntl

        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say("Waiting for another run that is preparing the same environment ...")
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield
