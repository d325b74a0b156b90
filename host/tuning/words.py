"""What came of a search, in Markdown: the verdict first, then a table of what was tried."""

from __future__ import annotations

import math
from collections.abc import Sequence

from ...guidance.tuning.evidence import spreads
from ...guidance.tuning.guards import describe
from .problem import Problem
from .result import Candidate, Check, Tuned, tables_of

MOST_ROWS = 20


def tuned_words(tuned: Tuned, problem: Problem) -> str:
    """The report of a search."""
    names = [judge.name for judge in problem.judges]
    parts = [verdict(tuned, names), _spent(tuned, problem), _table(tuned, problem, names)]
    if tuned.importance:
        told = ", ".join(f"{name} {share:.0%}" for name, share in tuned.importance.items())
        parts.append(f"What matters for {names[0]}: {told}.")
    return "\n\n".join(parts) + "\n"


def verdict(tuned: Tuned, names: Sequence[str]) -> str:
    """What the search found, in a few sentences."""
    if not any(c.whole and c.kept for c in (tuned.first, *tuned.candidates)):
        return (
            f"**Nothing kept the limits**, neither what was tried nor the settings that the MODEL came with "
            f"({describe(tuned.first.excess)}). They are left as they were. Widen the limits, or vary other things."
        )
    if not tuned.candidates:
        why = "the minutes were over" if tuned.out_of_time else "the budget was spent"
        return (
            f"**Nothing else was tried**: {why} with the unguided pictures and the settings that the MODEL came with. "
            f"These are left as they were, and all runs are kept: queue again to go on."
        )
    if not tuned.told_apart:
        return (
            "**This objective cannot tell the settings apart**: their means differ by no more than chance "
            f"makes of them ({_spread(tuned)}). The settings are left as they were. More seeds, wider "
            f"ranges or another judge may show a difference."
        )
    if tuned.winner is None:
        return "**Nothing better was found** than the settings that the MODEL came with; they are left as they were."
    if tuned.check is None:
        why = "the minutes were over; queue again to go on" if tuned.out_of_time else "the budget was spent"
        return f"**The winner was not checked**: {why}. The settings are left as they were."
    return _checked(tuned, tuned.check, names)


def settings_words(candidate: Candidate) -> str:
    """What was tried, by parameter."""
    return ", ".join(f"{name} {_plain(value)}" for name, value in candidate.values.items()) or "as it came"


def _checked(tuned: Tuned, check: Check, names: Sequence[str]) -> str:
    lines = []
    for name, best, first, chance, wins in zip(names, check.best, check.first, check.chances, check.wins, strict=True):
        where = f"on {check.pictures} pictures" if wins is None else f"better in {wins} of {check.pictures} pictures"
        lines.append(
            f"{name}: {best:.3f} instead of {first:.3f}, {where}; the probability that it is better on new seeds is "
            f"{_chance(chance)}."
        )
    assert tuned.winner is not None
    broken = describe(check.excess)
    head = f"**Best: {settings_words(tuned.winner)}.**"
    if not tuned.won:
        why = f"on new seeds it has {broken}" if broken else "that it is better is not shown"
        head = f"**No sure winner**: {settings_words(tuned.winner)} was the best of the search, but {why}. "
        head += "The settings are left as they were."
    if not tuned.first.kept:
        head += f" The settings that the MODEL came with pass the limits ({describe(tuned.first.excess)})."
    runs = f"Checked on {check.runs} new seeds, against the settings that the MODEL came with."
    return "\n".join([head, runs, *lines])


def _spent(tuned: Tuned, problem: Problem) -> str:
    tried = len(tuned.candidates)
    whole = sum(c.whole for c in tuned.candidates)
    broken = sum(not c.kept for c in tuned.candidates)
    limit = problem.effort.minutes
    took = f", {tuned.minutes:.1f} of {limit:g} minutes" if limit else f" in {tuned.minutes:.1f} minutes"
    ended = " The minutes were over; queue again to go on." if tuned.out_of_time else ""
    return (
        f"{tuned.spent} of {problem.effort.budget} evaluations{took}; {tried} settings tried, {whole} of them with all "
        f"{problem.effort.seeds} seeds; {broken} passed a limit.{ended}"
    )


def _spread(tuned: Tuned) -> str:
    found = [spreads(table) for table in tables_of([tuned.first, *tuned.candidates])]
    spread, chance = max(found, key=lambda pair: pair[0] / pair[1] if pair[1] else 0.0)
    return f"spread {spread:.3g}, by chance {chance:.3g}"


def _table(tuned: Tuned, problem: Problem, names: Sequence[str]) -> str:
    inside = [dimension.name for dimension in problem.space]
    head = ["", *inside, *names, "seeds", "evaluations", "limits"]
    rows = [_row("as it came", tuned.first, inside)]
    ranked = sorted(tuned.candidates, key=lambda c: (c.whole and c.kept, c.kept, c.means), reverse=True)
    marks = {id(tuned.winner): "best"} | {id(c): "front" for c in tuned.front if c is not tuned.winner}
    rows += [_row(marks.get(id(c), f"{(c.number or 0) + 1}"), c, inside) for c in ranked[:MOST_ROWS]]
    lines = [_line(head), _line(["---"] * len(head)), *(_line(row) for row in rows)]
    more = len(ranked) - MOST_ROWS
    return "\n".join(lines) + (f"\n\n{more} more were tried." if more > 0 else "")


def _row(mark: str, candidate: Candidate, inside: Sequence[str]) -> list[str]:
    numbers = [_plain(candidate.values[name]) if candidate.values else "" for name in inside]
    means = [f"{mean:.3f}" if math.isfinite(mean) else "too few" for mean in candidate.means]
    limits = describe(candidate.excess) or "kept"
    return [mark, *numbers, *means, f"{len(candidate.readings)}", f"{candidate.evaluations:g}", limits]


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _plain(value: object) -> str:
    if isinstance(value, float | int):
        return f"{value:g}"
    start, end = getattr(value, "start", None), getattr(value, "end", None)
    return f"{value}" if start is None else f"{start:g} to {end:g}"


def _chance(chance: float) -> str:
    if chance > 0.999:
        return "over 99.9%"
    return "under 0.1%" if chance < 0.001 else f"{chance:.1%}"
