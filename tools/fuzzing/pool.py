"""Processes that run hostile inputs one at a time, with a limit of processor time and memory; one that breaks is
replaced."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import resource
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from importlib import import_module
from multiprocessing.connection import Connection, wait
from pathlib import Path
from random import Random
from traceback import format_exception
from typing import Any, Protocol

import psutil

from .verdict import MOST_BYTES, MOST_SECONDS, Verdict, accepted, refusal

HERE = Path(__file__).resolve().parent
KINDS = tuple(kind for kind in ("files", "prompts", "states") if (HERE / f"{kind}.py").is_file())
START_SECONDS = 600.0
PATIENCE = 6  # as many times the processor's seconds may pass on the clock, as others may use the processor too
_CEILING = 4 * MOST_BYTES  # of address space beyond what a process has; asking for more is an error in it


@dataclass(frozen=True)
class Attempt:
    """One hostile input.

    Attributes:
        label: what it is made of and how it was spoilt.
        run: gives it to the pack; returns what is wrong with what was accepted, in words, or raises.
        size: bytes of its files.
    """

    label: str
    run: Callable[[], list[str]]
    size: int = 0


class Scene(Protocol):
    """What a kind's module calls `Scene`: made once in each process, after ComfyUI and the pack are loaded."""

    def __init__(self, folder: Path) -> None: ...

    def draw(self, random: Random) -> Attempt:
        """The next input; `random` decides everything. What it writes lies below the scene's folder."""
        ...


def outcomes(kind: str, seed: int, indices: Iterable[int], workers: int, comfyui: Path) -> Iterator[dict[str, Any]]:
    """Run the inputs of these numbers; a record of each, in the order in which they end."""
    with tempfile.TemporaryDirectory(prefix="fuzz-") as folder, contextlib.ExitStack() as stack:
        team = [_Worker(kind, seed, Path(folder) / str(n), comfyui) for n in range(workers)]
        for worker in team:
            stack.callback(worker.stop)
        left = iter(indices)
        for worker in team:
            worker.give(next(left, None))
        while busy := [worker for worker in team if worker.index is not None]:
            wait([worker.pipe for worker in busy], timeout=0.5)
            for worker in busy:
                record = worker.record()
                if record is not None:
                    yield record
                    worker.give(next(left, None))


class _Worker:
    """A process, and the input that it has."""

    def __init__(self, kind: str, seed: int, folder: Path, comfyui: Path) -> None:
        self.arguments = (kind, seed, folder, comfyui)
        self.index: int | None = None
        self.start()

    def start(self) -> None:
        context = multiprocessing.get_context("spawn")
        self.pipe, theirs = context.Pipe()
        self.process = context.Process(target=serve, args=(theirs, *self.arguments), daemon=True)
        self.process.start()
        theirs.close()
        self.ready = False

    def give(self, index: int | None) -> None:
        """Begin an input; the time counts from when the process is ready for it."""
        self.index = index
        self._begin()
        if index is not None:
            self.pipe.send(index)

    def _begin(self) -> None:
        self.until = time.monotonic() + (PATIENCE * MOST_SECONDS if self.ready else START_SECONDS)
        self.busy = self._processor() + (MOST_SECONDS if self.ready else START_SECONDS)

    def _processor(self) -> float:
        """Seconds of the processor that the process has used so far."""
        try:
            used = psutil.Process(self.process.pid).cpu_times()
        except psutil.NoSuchProcess:
            return 0.0
        return used.user + used.system

    def record(self) -> dict[str, Any] | None:
        """What came of the input; None while it runs."""
        if self.pipe.poll():
            try:
                told = self.pipe.recv()
            except (EOFError, ConnectionResetError):
                return self._replaced(Verdict("died", f"the process ended with code {self._code()}"))
            if told == "ready":
                self.ready = True
                self._begin()
                return None
            return {"input": self.index, **told}
        if time.monotonic() > self.until or self._processor() > self.busy:
            return self._replaced(Verdict("slow", f"more than {MOST_SECONDS:g} s"))
        return None

    def _code(self) -> int | None:
        self.process.join(10)
        return self.process.exitcode

    def _replaced(self, verdict: Verdict) -> dict[str, Any]:
        if not self.ready:
            raise RuntimeError(f"a process of the kind {self.arguments[0]} does not start: {verdict.words}")
        self.stop()
        self.start()
        return {"input": self.index, **asdict(verdict)}

    def stop(self) -> None:
        self.process.kill()
        self.process.join()
        self.pipe.close()


def serve(pipe: Connection, kind: str, seed: int, folder: Path, comfyui: Path) -> None:
    """A process of the pool: loads everything once, then answers each number with its record."""
    scene = prepared(kind, folder, comfyui)
    quiet = os.open(os.devnull, os.O_WRONLY)
    for stream in (1, 2):  # what libraries say of hostile input, page after page
        os.dup2(quiet, stream)
    pipe.send("ready")
    while True:
        index = pipe.recv()
        pipe.send(run_input(scene, Random(f"{seed} {kind} {index}")))


def prepared(kind: str, folder: Path, comfyui: Path) -> Scene:
    """The scene of a kind in this process, with ComfyUI and the pack loaded."""
    from devtools.host import load_host

    folder.mkdir(parents=True, exist_ok=True)
    load_host(comfyui, "cpu", folder)
    import torch

    torch.set_num_threads(1)
    return import_module(f"fuzzing.{kind}").Scene(folder)


def run_input(scene: Scene, random: Random) -> dict[str, Any]:
    """Draw one input and judge what it does: its label, outcome, words, seconds and bytes."""
    try:
        attempt = scene.draw(random)
    except Exception as error:  # a fault of the kind's own module, which must not stop the others
        return {"label": "drawing", **asdict(Verdict("broken", "".join(format_exception(error)[-4:])))}
    before = reset_peak()
    resource.setrlimit(resource.RLIMIT_AS, (_status("VmSize") + _CEILING, resource.RLIM_INFINITY))
    started = time.process_time()
    try:
        verdict = accepted(attempt.run())
    except BaseException as error:  # an interrupt or exit that a file brings about is a fault like any other
        verdict = refusal(error)
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    seconds, used = time.process_time() - started, peak() - before
    if seconds > MOST_SECONDS:
        verdict = Verdict("slow", f"{seconds:.1f} s; {verdict.words}")
    elif used > MOST_BYTES + attempt.size:
        verdict = Verdict("memory", f"{used / 2**20:.0f} MiB for {attempt.size} bytes; {verdict.words}")
    return {"label": attempt.label, **asdict(verdict), "seconds": round(seconds, 3), "mebibytes": used >> 20}


def reset_peak() -> int:
    """Bytes that this process has in memory now; from here on `peak` counts."""
    Path("/proc/self/clear_refs").write_text("5")
    return _status("VmRSS")


def peak() -> int:
    """The most bytes that this process had in memory since `reset_peak`."""
    return _status("VmHWM")


def _status(entry: str) -> int:
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(f"{entry}:"))
    return int(line.split()[1]) * 1024


def path_of_tests() -> None:
    """Make the writers of small valid files, which the tests use too, importable."""
    sys.path.append(str(HERE.parents[1] / "tests"))
