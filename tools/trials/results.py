"""The file of results, one JSON line per cell, and the table that is made of it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path

from devtools.records import append_record, read_records

from .cells import Cell
from .judge import FINE, Outcome

Results = dict[Cell, Outcome]


def read(path: Path | None) -> Results:
    """What was found already; nothing if there is no file yet."""
    return {Cell.named(record["cell"]): Outcome(record["kind"], record["words"]) for record in read_records(path)}


def append(path: Path | None, cell: Cell, outcome: Outcome) -> None:
    """Write one more down, if there is a file to keep."""
    append_record(path, {"cell": str(cell), **asdict(outcome)})


def table(results: Results, by: str = "component") -> str:
    """Counts in markdown, a row for each value of one of the cell's choices; then every fault with its cell."""
    kinds = [*FINE, *sorted({outcome.kind for outcome in results.values()} - set(FINE))]
    counts: dict[str, Counter] = {}
    for cell, outcome in results.items():
        counts.setdefault(str(getattr(cell, by)), Counter())[outcome.kind] += 1
    whole = sum(counts.values(), Counter())
    rows = [_row(by, kinds), _row("---", ["---"] * len(kinds))]
    rows += [_row(name, [count[kind] for kind in kinds]) for name, count in sorted(counts.items())]
    rows.append(_row("all", [whole[kind] for kind in kinds]))
    return "\n".join([*rows, "", *faults(results)])


def faults(results: Results) -> list[str]:
    """Every cell that is not as it should be, with what was found."""
    wrong = ((cell, outcome) for cell, outcome in results.items() if outcome.kind not in FINE)
    return [f"{outcome.kind}: {cell}: {outcome.words}" for cell, outcome in wrong]


def sentences(results: Results) -> dict[str, Cell]:
    """Every refusal that was met, with a cell in which it came."""
    return {outcome.words: cell for cell, outcome in results.items() if outcome.kind == "refused"}


def _row(name: str, values: Iterable) -> str:
    return "| " + " | ".join(map(str, (name, *values))) + " |"
