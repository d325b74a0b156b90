#!/usr/bin/env python3
"""Gives the pack hostile input and reports what it does not answer in words.

    python tools/fuzz.py files  --comfyui FOLDER [--seed 0] [--count 1000] [--workers 2] [--out fuzz-files.jsonl]
    python tools/fuzz.py states --comfyui FOLDER [...]

Kinds: `files` spoils valid small files of every kind that the pack reads (denoisers, guides, banks, experts, pictures,
as safetensors, torch files, pickles, folders), `states` what the pack writes for itself (stopped trainings, banks, the
manifests of picture sets), `prompts` the inputs of nodes.

Every input runs in a process of its own pool, with 20 s and 1 GB beyond its files. A fault is an exception that is no
sentence of the pack, a limit that is broken, weights that are taken although they cannot be right, or a message of more
than 1,500 characters. The seed and the number of an input decide it: `--only N` runs one again in this process.
With --out the records are kept, one JSON line each, and the same command goes on where it was stopped. Linux only.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory

from fuzzing.pool import KINDS, outcomes, prepared, run_input
from fuzzing.verdict import FINE


def main(arguments: Sequence[str] | None = None) -> int:
    """0 where nothing was found, else 1."""
    options = _options(arguments)
    if options.only is not None:
        return _one(options)
    done = _done(options.out)
    counted = Counter(record["outcome"] for record in done.values())
    wanted = (index for index in range(options.first, options.first + options.count) if index not in done)
    started, said = time.monotonic(), 0.0
    for record in outcomes(options.kind, options.seed, wanted, options.workers, options.comfyui):
        counted[record["outcome"]] += 1
        if options.out is not None:
            with options.out.open("a", encoding="utf-8") as file:
                file.write(json.dumps(record) + "\n")
        if record["outcome"] not in FINE:
            print("{outcome}: input {input} ({label}): {words}".format(**{"label": "?", **record}), flush=True)
        if time.monotonic() - said > 15:
            said = time.monotonic()
            print(f"  {counted.total()} inputs, {said - started:.0f} s: {_words(counted)}", file=sys.stderr, flush=True)
        if options.seconds is not None and time.monotonic() - started > options.seconds:
            break
    print(f"{options.kind}: {counted.total()} inputs of seed {options.seed}: {_words(counted)}")
    return 1 if counted.keys() - set(FINE) else 0


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kind", choices=KINDS)
    parser.add_argument("--comfyui", type=Path, default=os.environ.get("GUIDANCE_COMFYUI"), help="folder of ComfyUI")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--first", type=int, default=0, help="number of the first input")
    parser.add_argument("--count", type=int, default=1000, help="how many inputs")
    parser.add_argument("--seconds", type=float, help="stop after so many, also before all inputs are done")
    parser.add_argument("--workers", type=int, default=2, help="processes")
    parser.add_argument("--out", type=Path, help="file of the records")
    parser.add_argument("--only", type=int, metavar="N", help="run one input in this process and show its record")
    options = parser.parse_args(arguments)
    if options.comfyui is None:
        parser.error("--comfyui must name the folder of ComfyUI")
    options.comfyui = Path(options.comfyui)
    return options


def _one(options: argparse.Namespace) -> int:
    with TemporaryDirectory(prefix="fuzz-") as folder:
        scene = prepared(options.kind, Path(folder), options.comfyui)
        record = run_input(scene, Random(f"{options.seed} {options.kind} {options.only}"))
    print("\n".join(f"{key}: {value}" for key, value in record.items()))
    return 0 if record["outcome"] in FINE else 1


def _done(out: Path | None) -> dict[int, dict]:
    """The records that are there already, by the numbers of their inputs."""
    if out is None or not out.is_file():
        return {}
    return {record["input"]: record for record in map(json.loads, out.read_text("utf-8").splitlines())}


def _words(counted: Counter[str]) -> str:
    return ", ".join(f"{count} {outcome}" for outcome, count in sorted(counted.items()))


if __name__ == "__main__":
    sys.exit(main())
