"""Tune Guidance: search for settings, check the winner on seeds that the search did not see, and say how sure it is."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

import comfy.model_management
import torch

from ...guidance.tuning.evidence import probability_better, tells_apart
from ...guidance.tuning.guards import Look
from ..common.waiting import wait_for_others
from ..compare.settings import Settings
from .clock import Clock
from .problem import Problem, seen_in
from .reading import BudgetSpent, Reading
from .recipes import key_of
from .result import Candidate, Check, Tuned, dominates, front, mean, pictures_of, ranked, tables_of
from .space import set_all, value_now, value_of_paper

if TYPE_CHECKING:
    from .study import Study

SURE = 0.9  # a winner is one from this probability on
CHECKED = 2  # candidates that the budget is kept for: the best may pass a limit on new seeds
WAIT = 0.1  # seconds between two looks at what others do
MOST_IDLE = 24  # trials in a row that were all tried before: there is nothing more to try
MOST_SHOWN = 8  # pictures of each row of the strip
Progress = Callable[[str, int, int], None]  # what is drawn, evaluations spent and in all


def tune(problem: Problem, study: Study, progress: Progress) -> Tuned:
    """Search until the budget is spent, then check the winner.

    Raises:
        ValueError: judges that cannot judge these pictures, or a budget for less than one setting, in words.
    """
    problem.check()
    search = _Search(problem, study, progress)
    search.begin()
    search.run()
    return search.conclude()


class _Search:
    def __init__(self, problem: Problem, study: Study, progress: Progress):
        self.problem, self.study, self.progress = problem, study, progress
        self.runs = range(problem.effort.seeds)
        self.new = range(problem.effort.seeds, problem.effort.seeds + problem.effort.checks)
        self.clock = Clock(problem.effort.minutes)
        self.per_level = 1.0  # how often the sampler evaluates a noise level
        self.dearest = 0
        self.costs: dict[str, int] = {}  # of a run at one evaluation per level
        self.pictures: dict[tuple[str, int], torch.Tensor] = {}

    def begin(self) -> None:
        """The unguided pictures and those of the MODEL's own settings, which everything else is compared with."""
        problem = self.problem
        self._check_budget()
        if self.study.rank == 0.0:  # two at once would offer twice
            self._offer()
        pairs = ((problem.unguided, "unguided"), (problem.first, "as it came"))
        self._share([(settings, index, words) for index in self.runs for settings, words in pairs], spare=None)
        for index in self.runs:
            for settings, words in pairs:
                reading = self._reading(settings, index, words, spare=None)
                self.per_level = max(self.per_level, reading.evaluations / problem.cost(settings))
                self._check_budget()
        self.first = self._candidate(None, {}, problem.first, len(self.runs), whole=True)
        if not self.study.begun:
            self._offer()

    def _offer(self) -> None:
        """Have the settings as they came tried first, and those of new nodes, which are the papers'."""
        first, space = self.problem.first, self.problem.space
        for values in ({d.name: find(first, d) for d in space} for find in (value_now, value_of_paper)):
            if all(value is not None for value in values.values()):
                self.study.offer(values)

    def _check_budget(self) -> None:
        """Raise ValueError if not even one other setting could be tried."""
        effort = self.problem.effort
        costs = [self._cost(settings) for settings in (self.problem.unguided, self.problem.first)]
        least = (effort.seeds + effort.checks) * sum(costs) + (effort.seeds + CHECKED * effort.checks) * max(costs)
        if effort.budget < least:
            raise ValueError(
                f"budget is {effort.budget} evaluations. The unguided pictures, the MODEL's own settings and one other "
                f"take about {least} with seeds {effort.seeds} and new_seeds {effort.checks}. Raise budget, or lower "
                f"seeds, new_seeds or steps."
            )

    def run(self) -> None:
        """Try settings while there is budget for the check after them."""
        try:
            idle = 0
            while self._left() > 0 and idle < MOST_IDLE:
                before = self.study.spent()
                self._try_next()
                idle = 0 if self.study.spent() > before else idle + 1
        except BudgetSpent:
            return

    def _try_next(self) -> None:
        trial, values = self.study.ask(self.problem.space)
        settings = set_all(self.problem.first, self.problem.space, values)
        readings: list[Reading] = []
        done = False
        try:
            for index in self.runs:
                readings.append(self._reading(settings, index, f"setting {trial.number + 1}", spare=self._spare()))
                excess = self._excess(readings)
                means = [mean(column) for column in pictures_of(readings, self.problem.judges)]
                if self.study.halving and math.isfinite(means[0]):
                    trial.report(means[0], index + 1)
                last = index + 1 == len(self.runs)
                if not last and (max(excess.values(), default=0.0) > 0.0 or self._is_worse(trial)):
                    break
            self.study.finish(trial, means, excess, whole=last)
            done = True
        finally:
            if not done:
                self.study.put_back(trial)

    def _is_worse(self, trial) -> bool:
        return self.study.halving and trial.should_prune()

    def _left(self) -> int:
        return self.problem.effort.budget - self.study.spent() - self._spare()

    def _spare(self) -> int:
        """What the check will take: its runs of the best, of the first settings and unguided."""
        others = sum(self._cost(settings) for settings in (self.problem.first, self.problem.unguided))
        return len(self.new) * (CHECKED * self.dearest + others)

    def _cost(self, settings: Settings) -> int:
        key = key_of(settings)
        if key not in self.costs:
            self.costs[key] = self.problem.cost(settings)
        return round(self.per_level * self.costs[key])

    def _reading(self, settings: Settings, index: int, words: str, spare: int | None = 0) -> Reading:
        """Of one run: from the study's memory, or drawn now. Raises BudgetSpent, keeping `spare` back.

        spare: evaluations to be kept for later; None where the run is needed, however much is left of the time.
        """
        comfy.model_management.throw_exception_if_processing_interrupted()
        key, budget = key_of(settings), self.problem.effort.budget
        known = self.study.reading(key, index)
        if known is not None:
            return known
        cost = self._cost(settings)
        self.dearest = max(self.dearest, cost)
        if spare is not None:
            self.clock.check(cost + spare)
        try:
            known = self._claim(key, index, cost, budget - (spare or 0))
            if known is not None:
                return known
            self.progress(words, self.study.spent(), budget)
            began = time.monotonic()
            reading, pictures = self.problem.run(settings, index, _stop_if_asked)
            self.clock.learn(time.monotonic() - began, reading.evaluations)
            self.study.keep(key, index, reading)
        finally:
            self.study.claim(0, budget)
        if index in self.new:
            self.pictures[key, index] = pictures
        return reading

    def _claim(self, key: str, index: int, cost: int, budget: int) -> Reading | None:
        """Claim a run for this process, or wait for another's; what that gave. A process may be gone, so nobody waits
        longer than twice the longest run.

        Of two that claim at once at least one sees the other: whoever does steps back.
        """
        until = time.monotonic() + 2 * self.clock.longest
        while True:
            if self._is_free(key, index, until):
                self.study.claim(cost, budget, key, index)
                if self._is_free(key, index, until):
                    return self.study.reading(key, index)
                self.study.claim(0, budget)
            known = self.study.reading(key, index)
            if known is not None:
                return known
            wait_for_others(WAIT * (1.0 + self.study.rank))

    def _is_free(self, key: str, index: int, until: float) -> bool:
        return not self.study.busy(key, index) or time.monotonic() > until

    def _share(self, runs: Sequence[tuple[Settings, int, str]], spare: int | None) -> None:
        """Make those of some runs that no other process makes at this moment, so that all share the work; who asks for
        the others' readings then waits for them."""
        left = [(key_of(run[0]), *run) for run in runs]
        first = int(self.study.rank * len(left)) if spare is None else 0  # at the start each begins elsewhere
        for key, settings, index, words in (*left[first:], *left[:first]):
            if not self.study.busy(key, index):
                self._reading(settings, index, words, spare)

    def _excess(self, readings: Sequence[Reading], first: int = 0) -> dict[str, float]:
        return self.problem.limits.excess(seen_in(readings), self._unguided_look(first, len(readings)))

    def _unguided_look(self, first: int, count: int) -> Look:
        key = key_of(self.problem.unguided)
        found = [self.study.reading(key, index) for index in range(first, first + count)]
        return seen_in([reading for reading in found if reading is not None])

    def _candidate(self, number: int | None, values: dict, settings: Settings, most: int, whole: bool) -> Candidate:
        key, readings = key_of(settings), []
        for index in range(most):
            reading = self.study.reading(key, index)
            if reading is None:
                break
            readings.append(reading)
        judges = self.problem.judges
        return Candidate(number, values, settings, tuple(readings), whole, self._excess(readings), judges)

    def conclude(self) -> Tuned:
        """The winner, checked on new seeds."""
        candidates = self._candidates()
        able, first = [c for c in candidates if c.whole and c.kept], self.first
        others = ranked([c for c in able if not dominates(first, c)])
        winner, check = next(others, None), None
        apart = any(map(tells_apart, tables_of([first, *candidates])))
        if winner is not None and apart:
            winner, check = self._checked(winner, others)
        chosen = winner.settings if winner is not None and check is not None and self._won(check) else first.settings
        best = winner.settings if winner is not None else first.settings
        return Tuned(
            chosen, first, winner, tuple(front(able)), tuple(candidates), check, apart, self.study.spent(),
            self.clock.minutes, self.clock.over, self.study.importance(), self._strip(best),
        )

    def _candidates(self) -> list[Candidate]:
        found: dict[str, Candidate] = {}
        own = key_of(self.first.settings)
        for tried in self.study.tried(self.problem.space):
            settings = set_all(self.problem.first, self.problem.space, tried.values)
            one = self._candidate(tried.number, tried.values, settings, len(self.runs), tried.whole)
            key = key_of(settings)
            if key != own and (one.whole or key not in found):
                found[key] = one
        return list(found.values())

    def _won(self, check: Check) -> bool:
        """A winner that keeps the limits on new seeds and is surely better for a judge, and surely worse for none. One
        that keeps limits which the first settings pass has won by that."""
        if _passes(check):
            return False
        better = any(chance >= SURE for chance in check.chances) and min(check.chances) > 1.0 - SURE
        return better or not self.first.kept

    def _checked(self, best: Candidate, others: Iterator[Candidate]) -> tuple[Candidate, Check | None]:
        """The best of those that keep the limits on new seeds too, with its check; if none does, the best."""
        found = check = self._check(best)
        one = best
        while found is not None and _passes(found):
            following = next(others, None)
            if following is None:
                break
            one, found = following, self._check(following)
        return (one, found) if found is not None and not _passes(found) else (best, check)

    def _check(self, winner: Candidate) -> Check | None:
        best, first, made = [], [], 0
        rows = [(self.problem.unguided, "new seeds, unguided"), (winner.settings, "new seeds")]
        rows.append((self.first.settings, "new seeds"))
        with contextlib.suppress(BudgetSpent):
            self._share([(settings, index, words) for index in self.new for settings, words in rows], spare=0)
        for index in self.new:
            try:
                self._reading(self.problem.unguided, index, "new seeds, unguided")
                pair = [self._reading(s, index, "new seeds") for s in (winner.settings, self.first.settings)]
            except BudgetSpent:
                break
            best.append(pair[0])
            first.append(pair[1])
            made += 1
        judges = self.problem.judges
        columns = list(zip(pictures_of(best, judges), pictures_of(first, judges), strict=True))
        if not all(one for one, _ in columns):
            return None
        gaps = [[a - b for a, b in zip(*pair, strict=True)] for pair in columns]
        return Check(
            tuple(mean(a) for a, _ in columns), tuple(mean(b) for _, b in columns),
            tuple(probability_better(gap) for gap in gaps),
            tuple(None if judge.of_sets else sum(g > 0 for g in gap) for judge, gap in zip(judges, gaps, strict=True)),
            len(gaps[0]), made, self._excess(best, self.new[0]),
        )

    def _strip(self, best: Settings) -> tuple[torch.Tensor, ...]:
        """Rows of pictures from the same new seeds; runs that this process has not drawn are drawn again."""
        rows = []
        for settings in (best, self.first.settings, self.problem.unguided):
            row: list[torch.Tensor] = []
            for index in self.new:
                if sum(map(len, row)) >= MOST_SHOWN or (row and self.clock.over):
                    break
                known = self.pictures.get((key_of(settings), index))
                row.append(self.problem.run(settings, index, _stop_if_asked)[1] if known is None else known)
            rows.append(torch.cat(row)[:MOST_SHOWN])
        return tuple(rows)


def _stop_if_asked(*step) -> None:
    comfy.model_management.throw_exception_if_processing_interrupted()


def _passes(check: Check) -> bool:
    """Whether the checked settings pass a limit."""
    return any(value > 0.0 for value in check.excess.values())
