#!/usr/bin/env python3
"""Tries families of the host with components, samplers, guiders and batches, and says what is not as it should be.

    python tools/matrix.py --comfyui FOLDER [--seed 0] [--count 200] [--seconds 600] [--out matrix.jsonl]
    python tools/matrix.py --comfyui FOLDER --only flux/apg/euler/cfg/3
    python tools/matrix.py --out matrix.jsonl --table family
    python tools/matrix.py --comfyui FOLDER --out families.jsonl --families docs/families.md

Every cell is a run of three steps on a small random network, with the component and without: off must be bit-exact and
free, the plain run afterwards bit-identical, a picture of a batch the same alone, and every refusal a sentence that is
in tests/refusals.py. The first sweep of the order, every family with every component, holds every pair of choices.
With --out results are kept, one JSON line per cell, and the same command goes on where it was stopped. --families
judges what the docs' table of families shows, and writes it.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

from devtools.comfyui import read_version

if TYPE_CHECKING:
    from trials.cells import Cell
    from trials.results import Results

ROOT = Path(__file__).resolve().parent.parent
TOGETHER = 400  # cells that are sorted by family, so that each is built once for them


def main(arguments: Sequence[str] | None = None) -> int:
    """0 where nothing was found, else 1."""
    options = _options(arguments)
    _prepare(options.comfyui)
    from refusals import is_read
    from trials import results
    from trials.judge import FINE

    known = results.read(options.out)
    if options.table is None:
        _try(options, known)
    if options.families is not None:
        _write_families(options, known)
    print(results.table(known, options.table or "component"))
    unread = [f"unread: {cell}: {words}" for words, cell in results.sentences(known).items() if not is_read(words)]
    print("\n".join(unread))
    return 1 if unread or any(outcome.kind not in FINE for outcome in known.values()) else 0


def _try(options: argparse.Namespace, known: Results) -> None:
    """Judge what is asked for and not known yet, and add it."""
    from host_families import BUILT
    from trials import results
    from trials.judge import FINE, Bench

    started, bench = time.monotonic(), None
    for cell in _wanted(options, known):
        if options.seconds is not None and time.monotonic() - started > options.seconds:
            return
        if bench is None or bench.spec.name != cell.family:
            bench = Bench(BUILT[cell.family])
        known[cell] = outcome = bench.judge(cell) if options.families is None else bench.glance(cell)
        results.append(options.out, cell, outcome)
        if outcome.kind not in FINE:
            print(f"{outcome.kind}: {cell}: {outcome.words}", flush=True)


def _write_families(options: argparse.Namespace, known: Results) -> None:
    """The docs' table of what is known."""
    from host_families import BUILT
    from trials.families import page

    names = {name: spec.config for name, spec in BUILT.items()}
    options.families.write_text(page(known, names, read_version(Path(options.comfyui))), encoding="utf-8")


def _wanted(options: argparse.Namespace, known: Results) -> Iterator[Cell]:
    """The cells to judge, in the order of judging."""
    from host_families import BUILT
    from trials.cells import Cell, ordered
    from trials.components import COMPONENTS
    from trials.families import cells_of

    if options.only is not None:
        yield Cell.named(options.only)
        return
    if options.families is not None:
        yield from islice((cell for cell in cells_of(list(BUILT)) if cell not in known), options.count)
        return
    cells = islice(ordered(list(BUILT), list(COMPONENTS), options.seed), options.first, None)
    cells = islice((cell for cell in cells if cell not in known), options.count)
    while some := list(islice(cells, TOGETHER)):
        yield from sorted(some, key=lambda cell: cell.family)


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--comfyui", type=Path, default=os.environ.get("GUIDANCE_COMFYUI"), help="folder of ComfyUI")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--first", type=int, default=0, help="number of the first cell in the order")
    parser.add_argument("--count", type=int, help="how many cells more; all without it")
    parser.add_argument("--seconds", type=float, help="stop after so many")
    parser.add_argument("--out", type=Path, help="file of the results")
    parser.add_argument("--only", metavar="CELL", help="judge one: family/component/sampler/guider/batch")
    parser.add_argument("--table", choices=["family", "component", "sampler", "guider", "batch"],
                        help="judge nothing; show what the file has, by this choice")
    parser.add_argument("--families", type=Path, metavar="PAGE", help="judge what this table shows, and write it")
    options = parser.parse_args(arguments)
    if options.comfyui is None:
        parser.error("--comfyui must name the folder of ComfyUI")
    return options


def _prepare(comfyui: Path) -> None:
    """The host in this process, and the small networks of the tests."""
    sys.path.append(str(ROOT / "tests"))
    from devtools.host import load_host

    load_host(Path(comfyui), "cpu")


if __name__ == "__main__":
    sys.exit(main())
