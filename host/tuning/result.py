"""What a search gives: what was tried, the check of the best, and which are the best of several judges."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch

from ..compare.settings import Settings
from .judges import Judge, SetJudge
from .reading import Reading

Judges = Sequence[Judge | SetJudge]


@dataclass(frozen=True, eq=False)
class Candidate:
    """Settings that were tried.

    Attributes:
        number: of the trial; None for the settings that the MODEL came with.
        readings: of its runs, in the order of the runs. whole: whether all of the search's runs were made.
        excess: by how much it passes each guard's limit (`Limits.excess`).
        judges: of the search.
    """

    number: int | None
    values: dict[str, Any]
    settings: Settings
    readings: tuple[Reading, ...]
    whole: bool
    excess: dict[str, float]
    judges: Judges

    @cached_property
    def means(self) -> tuple[float, ...]:
        """Of all pictures, per judge; -infinity where one cannot say yet."""
        return tuple(mean(column) for column in pictures_of(self.readings, self.judges))

    @property
    def kept(self) -> bool:
        """Whether it keeps every limit."""
        return all(value <= 0.0 for value in self.excess.values())

    @property
    def evaluations(self) -> float:
        """Of one run."""
        return sum(reading.evaluations for reading in self.readings) / len(self.readings)


@dataclass(frozen=True, eq=False)
class Check:
    """The winner beside the settings that the MODEL came with, on new seeds; per judge.

    Attributes:
        best, first: means over the same pictures. chances: that the winner is better on average over all pictures.
        wins: pictures on which it is; None where a judge looks at sets. runs: of the sampler that were compared.
        excess: of the winner, on these.
    """

    best: tuple[float, ...]
    first: tuple[float, ...]
    chances: tuple[float, ...]
    wins: tuple[int | None, ...]
    pictures: int
    runs: int
    excess: dict[str, float]


@dataclass(frozen=True, eq=False)
class Tuned:
    """What came of a search.

    Attributes:
        chosen: the settings to use: the winner's where it is one, else those that the MODEL came with.
        winner: the best that was tried, None if nothing else kept the limits. front: the best of several judges.
        told_apart: whether the judges tell the settings apart at all.
        spent: evaluations of all who searched. minutes: of this search; out_of_time: whether they ended it.
        strip: pictures of the winner, of the first settings and unguided from the same new seeds, [B, H, W, 3] each.
    """

    chosen: Settings
    first: Candidate
    winner: Candidate | None
    front: tuple[Candidate, ...]
    candidates: tuple[Candidate, ...]
    check: Check | None
    told_apart: bool
    spent: int
    minutes: float = 0.0
    out_of_time: bool = False
    importance: dict[str, float] = field(default_factory=dict)
    strip: tuple[torch.Tensor, ...] = ()

    @property
    def won(self) -> bool:
        return self.winner is not None and self.chosen is self.winner.settings


def pictures_of(readings: Sequence[Reading], judges: Judges) -> list[list[float]]:
    """The numbers of all pictures of some runs, per judge; none of one for whom they are too few."""
    return [
        judge.numbers([value for reading in readings for value in reading.values[goal]])
        for goal, judge in enumerate(judges)
    ]


def tables_of(candidates: Sequence[Candidate]) -> list[list[list[float]]]:
    """For each judge and each number of runs: a row per candidate that has made so many, a column per picture. Those of
    few runs hold the settings that were stopped early too, those of many runs more pictures of fewer settings."""
    tables = []
    for runs in range(1, max(len(c.readings) for c in candidates) + 1):
        columns = [pictures_of(c.readings[:runs], c.judges) for c in candidates if len(c.readings) >= runs]
        tables += [[list(row) for row in goal] for goal in zip(*columns, strict=True)]
    return tables


def mean(values: Sequence[float]) -> float:
    """-infinity of none."""
    return sum(values) / len(values) if values else -math.inf


def ranked(candidates: list[Candidate]) -> Iterator[Candidate]:
    """Candidates from the best on: each the middle of the front of those that are left."""
    left = list(candidates)
    while (best := _middle(front(left))) is not None:
        yield best
        left.remove(best)


def dominates(one: Candidate, other: Candidate) -> bool:
    """Whether a candidate is nowhere worse than another, and keeps the limits."""
    return one.kept and all(a >= b for a, b in zip(one.means, other.means, strict=True))


def front(candidates: list[Candidate]) -> list[Candidate]:
    """Those than which none is better for one judge and as good for all; of one judge the best alone."""
    found = [
        one for one in candidates
        if not any(dominates(other, one) and other.means != one.means for other in candidates)
    ]
    return sorted(found, key=lambda one: one.means, reverse=True)


def _middle(best: list[Candidate]) -> Candidate | None:
    """Of a front, the one whose worst goal is the best, each goal counted from 0 to 1 over the front."""
    if not best:
        return None
    ends = [(min(column), max(column)) for column in zip(*(one.means for one in best), strict=True)]

    def worst(one: Candidate) -> float:
        places = zip(one.means, ends, strict=True)
        return min((mean - low) / (high - low) if high > low else 1.0 for mean, (low, high) in places)

    return max(best, key=worst)
