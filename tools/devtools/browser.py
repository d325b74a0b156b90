"""A Chromium for the tests of the page: the user's own, the system's, Debian's package, or Playwright's download."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

from .terminal import DevError, run_logged

NAMES = ("chromium", "google-chrome", "google-chrome-stable", "chromium-browser", "chrome", "msedge")
PLACES = (
    "/Applications/Google Chrome.app/Contents/MacOS/Google Chrome",
    "/Applications/Chromium.app/Contents/MacOS/Chromium",
    "C:/Program Files/Google/Chrome/Application/chrome.exe",
    "C:/Program Files (x86)/Microsoft/Edge/Application/msedge.exe",
)
DOWNLOADED = ("chrome-linux*/chrome", "chrome-mac*/*.app/Contents/MacOS/*", "chrome-win*/chrome.exe")
ANSWER_SECONDS = 60.0


def provide(python: Path, cache: Path, logs: Path) -> Path:
    """The program of a Chromium that runs here: GUIDANCE_BROWSER, an installed one, or one that is installed now.

    python: of the environment, which has Playwright. Raises DevError, which says what was tried and what is missing.
    """
    named = os.environ.get("GUIDANCE_BROWSER", "")
    if named:
        problem = why_not(Path(named))
        if problem:
            raise DevError(f"GUIDANCE_BROWSER={named} does not run ({problem}): name a Chromium or Chrome, or unset it")
        return Path(named)
    tried: list[str] = []
    ways: list[Callable[[], object]] = [lambda: None]
    if shutil.which("apt-get") and hasattr(os, "geteuid") and os.geteuid() == 0:
        ways.append(lambda: install_package(logs / "chromium.log"))
    ways.append(lambda: download(python, cache, logs / "chromium-download.log"))
    for way in ways:
        try:
            way()
        except DevError as error:
            tried.append(str(error))
        for program in candidates(cache):
            problem = why_not(program)
            if problem is None:
                return program
            tried.append(f"{program}: {problem}")
    raise DevError(
        f"the tests of the page need a Chromium and none runs here ({'; '.join(dict.fromkeys(tried))}): install one "
        "(Debian: apt install chromium; elsewhere: Google Chrome), or set GUIDANCE_BROWSER to the program of yours"
    )


def candidates(cache: Path) -> Iterator[Path]:
    """Every browser that is there: on the path, in its usual place, or downloaded before."""
    yield from (Path(found) for name in NAMES if (found := shutil.which(name)))
    yield from (Path(place) for place in PLACES if Path(place).is_file())
    yield from (program for pattern in DOWNLOADED for program in sorted(cache.glob(f"chromium-*/{pattern}")))


def why_not(program: Path) -> str | None:
    """Why a browser does not run here; None if it does. An empty shell of a package or missing libraries show so."""
    try:
        done = subprocess.run(
            [str(program), "--version"], capture_output=True, text=True, timeout=ANSWER_SECONDS, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return str(error)
    if done.returncode == 0 and done.stdout.strip():
        return None
    words = [line.strip() for line in done.stderr.splitlines() if line.strip()]
    return words[-1] if words else f"it ended with code {done.returncode}"


def install_package(log: Path) -> None:
    """Debian's chromium. Ubuntu's package of that name is an empty shell, which `why_not` then notices."""
    run_logged(["apt-get", "update", "-qq"], log, "Asking the archive for chromium", "5 s")
    command = ["apt-get", "install", "-y", "-qq", "--no-install-recommends", "chromium", "fonts-dejavu-core"]
    doing = "Installing chromium, for the tests of the page"
    run_logged(command, log, doing, "10-60 s", DEBIAN_FRONTEND="noninteractive")


def download(python: Path, cache: Path, log: Path) -> None:
    """Playwright's own build, into `cache`."""
    command = [str(python), "-m", "playwright", "install", "--no-shell", "chromium"]
    doing = "Downloading Playwright's Chromium, for the tests of the page"
    run_logged(command, log, doing, "10-60 s, 170 MB", PLAYWRIGHT_BROWSERS_PATH=str(cache))
