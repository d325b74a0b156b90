"""Everything that only a GPU can show, in ten minutes: tests, memory that runs out, and figures, with one report.

    python tools/gpu_check.py --comfyui FOLDER [--minutes 10] [--out gpu-check] [--only NAME ...] [--device cpu]

Each part is a command of its own with a time of its own, so that one that hangs takes nothing from the others; they run
from the most telling to the least, and what does not fit into --minutes is named as left out. Every part's output is
kept in --out; report.md there has the card, a line per part and the ends of those that failed. With --device cpu the
same parts run where no GPU is, to try this script.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
ENGINE = ("engine", "engine_guiders", "engine_samplers", "engine_hooks", "engine_lora", "engine_mixed", "one_call")
NETWORKS = ("engine_families", "degrade_use", "adm_model", "edm2_model", "expert_switch", "loss_weighting")
GRADIENTS = ("engine_gradients", "engine_gradient_runs", "engine_losses", "expert_bank_gradient")
MEMORY = ("engine_memory", "engine_sharing", "compare", "inspect_runs")
TAIL = 30  # lines of a failed part in the report


@dataclass(frozen=True)
class Part:
    """A command and the most seconds that it may take."""

    name: str
    arguments: tuple[str, ...]
    seconds: int
    on_host: bool = True  # whether it takes --comfyui and --device


@dataclass(frozen=True)
class Outcome:
    """What became of a part; code None: it took too long."""

    part: Part
    code: int | None
    seconds: float
    log: Path

    @property
    def last(self) -> str:
        lines = [line for line in self.log.read_text("utf-8", errors="replace").splitlines() if line.strip()]
        return lines[-1].strip() if lines else ""


def tests(name: str, subjects: tuple[str, ...], seconds: int, *more: str) -> Part:
    """In-process tests of these subjects; what is marked slow is left to the suite."""
    files = [f"tests/test_{subject}.py" for subject in subjects]
    chosen = [*files, "-q", "-p", "no:cacheprovider", "-m", "not slow", "--maxfail", "25", *more]
    # -P: the pack's nodes/ would stand before ComfyUI's nodes.py.
    return Part(name, ("-P", "-m", "pytest", *chosen), seconds, on_host=False)


def figures(name: str, seconds: int, *more: str) -> Part:
    return Part(name, (f"benchmarks/{name}.py", *more), seconds)


PARTS = (
    tests("engine", ENGINE, 100),
    tests("engine, dynamic memory", ENGINE, 100, "--dynamic-vram"),
    tests("gradients", GRADIENTS, 80),
    Part("out of memory", ("benchmarks/gpu_memory.py",), 80),
    tests("networks", NETWORKS, 100),
    figures("one_call", 40, "--size", "64"),
    figures("overhead", 60, "--size", "64"),
    figures("gradient", 60, "--size", "64", "--repeats", "3"),
    figures("gradient_memory", 60, "--size", "64"),
    figures("toggle", 60, "--size", "64"),
    tests("memory, compare, inspect", MEMORY, 60),
    tests("gradients, dynamic memory", GRADIENTS, 80, "--dynamic-vram"),
    tests("networks, dynamic memory", NETWORKS, 100, "--dynamic-vram"),
    figures("inspector", 60),
)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--comfyui", type=Path, required=True, help="folder of ComfyUI")
    parser.add_argument("--out", type=Path, default=ROOT / "output" / "gpu-check")
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--only", nargs="+", choices=[part.name for part in PARTS], metavar="NAME")
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    end = time.monotonic() + 60 * options.minutes
    outcomes: list[Outcome] = []
    left_out: list[str] = []
    for part in (part for part in PARTS if options.only is None or part.name in options.only):
        seconds = min(part.seconds, end - time.monotonic())
        if seconds < 15:
            left_out.append(part.name)
            continue
        outcomes.append(run(part, seconds, options))
        print(line(outcomes[-1]), flush=True)
        (options.out / "report.md").write_text(report(outcomes, left_out, options.device), encoding="utf-8")
    (options.out / "report.md").write_text(report(outcomes, left_out, options.device), encoding="utf-8")
    return 1 if any(outcome.code for outcome in outcomes) else 0


def run(part: Part, seconds: float, options: argparse.Namespace) -> Outcome:
    """Run a part with its output in a file, and end it when its time is over."""
    host = ("--comfyui", str(options.comfyui.resolve()), "--device", options.device) if part.on_host else ()
    command = [sys.executable, *part.arguments, *host]
    hidden = {"CUDA_VISIBLE_DEVICES": ""} if options.device == "cpu" else {}
    surroundings = os.environ | {"GUIDANCE_COMFYUI": str(options.comfyui.resolve())} | hidden
    log, began = options.out / f"{part.name.replace(', ', '-').replace(' ', '-')}.log", time.monotonic()
    with log.open("wb") as sink:
        try:
            done = subprocess.run(
                command, cwd=ROOT, env=surroundings, stdout=sink, stderr=subprocess.STDOUT, timeout=seconds, check=False
            )
            code = done.returncode
        except subprocess.TimeoutExpired:
            code = None
    return Outcome(part, code, time.monotonic() - began, log)


def line(outcome: Outcome) -> str:
    ended = {0: "passed", None: "took too long"}.get(outcome.code, f"failed ({outcome.code})")
    return f"| {outcome.part.name} | {ended} | {outcome.seconds:.0f} s | {outcome.last} |"


def report(outcomes: list[Outcome], left_out: list[str], device: str) -> str:
    """All outcomes in Markdown, the figures of those that passed and the ends of those that did not."""
    parts = [f"# {card(device)}", "", "| part | outcome | time | last line |", "| --- | --- | --- | --- |"]
    parts += [line(outcome) for outcome in outcomes]
    if left_out:
        parts += ["", f"Left out for want of time: {', '.join(left_out)}."]
    for outcome in outcomes:
        lines = outcome.log.read_text("utf-8", errors="replace").splitlines()
        shown = [each for each in lines if each.startswith("|")] if outcome.code == 0 else lines[-TAIL:]
        if shown:
            parts += ["", f"## {outcome.part.name}", "", *(shown if outcome.code == 0 else ["```", *shown, "```"])]
    return "\n".join(parts) + "\n"


def card(device: str) -> str:
    import torch

    where = torch.cuda.get_device_name() if device == "cuda" and torch.cuda.is_available() else "no GPU"
    return f"{where}, torch {torch.__version__}, Python {sys.version.split()[0]}"


if __name__ == "__main__":
    sys.exit(main())
