"""How the tools speak: progress lines on stderr, failures as one sentence, and long commands that are never silent."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

HEARTBEAT_SECONDS = 15.0

NETWORK_SIGNS = (
    "failed to establish a new connection",
    "temporary failure in name resolution",
    "name or service not known",
    "dns error",
    "network is unreachable",
    "connection refused",
    "connection timed out",
    "tcp connect error",
    "error sending request",
    "no matching distribution found",
)


class DevError(Exception):
    """An expected failure; its text is the one sentence that the user reads."""


def say(text: str) -> None:
    """Print one line of progress."""
    print(text, file=sys.stderr, flush=True)


def clean_environment() -> dict[str, str]:
    """The surroundings for our own Python processes: what would mix other packages in, or forbid the bytecode files
    without which ComfyUI takes three times as long to start, is left out."""
    unwanted = ("PYTHONPATH", "PYTHONHOME", "PYTHONDONTWRITEBYTECODE")
    return {name: value for name, value in os.environ.items() if name not in unwanted}


def run_logged(command: list[str], log: Path, doing: str, usual: str, **settings: str) -> None:
    """Run `command` with its output in `log` and `settings` in its environment; say every 15 seconds that it runs.

    Raises DevError with one sentence when it fails: no network, no space, or else the command's last line.
    """
    say(f"{doing} (usually {usual}) ...")
    log.parent.mkdir(parents=True, exist_ok=True)
    started = time.monotonic()
    with log.open("wb") as sink:
        process = subprocess.Popen(
            command, stdout=sink, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL,
            env=clean_environment() | settings,
        )
        try:
            while True:
                try:
                    code = process.wait(timeout=HEARTBEAT_SECONDS)
                    break
                except subprocess.TimeoutExpired:
                    say(f"  still {doing[0].lower()}{doing[1:]}: {time.monotonic() - started:.0f} s")
        finally:
            if process.poll() is None:
                process.terminate()
                process.wait()
    if code != 0:
        raise DevError(explain_failure(doing, log.read_text(encoding="utf-8", errors="replace"), log))
    say(f"  done in {time.monotonic() - started:.0f} s")


def explain_failure(doing: str, output: str, log: Path) -> str:
    """One sentence for a failed command: what was being done, why it failed as far as its output tells, what to do."""
    lowered = output.lower()
    if "no space left" in lowered or "os error 28" in lowered:
        return f"{doing} failed: the disk is full; free some space and run the same command again"
    if "ensurepip is not available" in lowered:
        return (
            f"{doing} failed: this Python lacks its venv module; install it (Debian, Ubuntu: apt install python3-venv) "
            "and run the same command again"
        )
    if any(sign in lowered for sign in NETWORK_SIGNS):
        return (
            f"{doing} failed: the package registry could not be reached or does not have it; check the network "
            f"(and any proxy or mirror settings of pip and uv) and run the same command again; details in {log}"
        )
    return f"{doing} failed: {last_line(output)}; details in {log}"


def last_line(output: str) -> str:
    """The last words of a program: of one that Python ended, the error."""
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    return lines[-1] if lines else "it said nothing"


def tail(text: str, lines: int = 25) -> str:
    """The last lines of a log, indented."""
    return "\n".join("    " + line for line in text.splitlines()[-lines:])
