#!/usr/bin/env python3
"""Breaks off nodes, runs and trainings at a random operation, and says what is not as if it had not been.

    python tools/faults.py --comfyui FOLDER [--seed 0] [--count 100] [--seconds 600] [--out faults.jsonl]
    python tools/faults.py --comfyui FOLDER --only 17

A fault is an exception, an interrupt or an out-of-memory in one operation of torch, forward, backward or in an
optimiser. Afterwards the next plain run and the next guided run must be bit-identical, the next training equal to one
that was never stopped, weights, switches and memory as they were, and no half file may lie about.
The seed and the number of a fault decide it: `--only N` tries one again. With --out records are kept, one JSON line
each, and the same command goes on where it was stopped.
"""

from __future__ import annotations

import argparse
import gc
import os
import sys
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

from devtools.host import load_host
from devtools.records import append_record, read_records

ROOT = Path(__file__).resolve().parent.parent


def main(arguments: Sequence[str] | None = None) -> int:
    """0 where nothing was found, else 1."""
    options = _options(arguments)
    sys.path.append(str(ROOT / "tests"))
    with TemporaryDirectory(prefix="faults-") as base:
        load_host(Path(options.comfyui), "cpu", Path(base))
        records = read_records(options.out) if options.only is None else []
        records += _tried(options, {record["fault"] for record in records})
    return _said(records)


def _tried(options: argparse.Namespace, known: set[int]) -> list[dict]:
    """The records of the faults that are asked for and not known yet."""
    from faulting.draws import Drawer

    gc.collect()
    gc.freeze()  # what modules hold would be looked through at every count of the tensors
    drawer, started, records = Drawer(options.seed), time.monotonic(), []
    numbers = range(options.first, options.first + options.count) if options.only is None else [options.only]
    for number in numbers:
        if options.seconds is not None and time.monotonic() - started > options.seconds:
            break
        if number not in known:
            records.append(record := drawer.record(number))
            append_record(options.out, record)
            if record["outcome"] == "wrong" or options.only is not None:
                print("{outcome}: fault {fault}, {scene}: {kind} at {at} of {of}: {words}".format(**record), flush=True)
    return records


def _said(records: list[dict]) -> int:
    """The table of the scenes, in markdown."""
    counts: dict[str, Counter] = {}
    for record in records:
        counts.setdefault(record["scene"], Counter())[record["outcome"]] += 1
    kinds = ("right", "no fault", "wrong")
    print("\n".join(["| scene | " + " | ".join(kinds) + " |", "| --- | --- | --- | --- |"]))
    for scene, count in [*sorted(counts.items()), ("all", sum(counts.values(), Counter()))]:
        print(f"| {scene} | " + " | ".join(str(count[kind]) for kind in kinds) + " |")
    return 1 if any(count["wrong"] for count in counts.values()) else 0


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--comfyui", type=Path, default=os.environ.get("GUIDANCE_COMFYUI"), help="folder of ComfyUI")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--first", type=int, default=0, help="number of the first fault")
    parser.add_argument("--count", type=int, default=100, help="how many faults")
    parser.add_argument("--seconds", type=float, help="stop after so many, also before all are tried")
    parser.add_argument("--out", type=Path, help="file of the records")
    parser.add_argument("--only", type=int, metavar="N", help="try one again and show its record")
    options = parser.parse_args(arguments)
    if options.comfyui is None:
        parser.error("--comfyui must name the folder of ComfyUI")
    return options


if __name__ == "__main__":
    sys.exit(main())
