"""A limit of minutes, kept with what is still to be done in mind."""

from __future__ import annotations

import math
import time

from .reading import BudgetSpent


class Clock:
    """The minutes of one search, from now on; 0 = no limit. What evaluations take is learned from the runs so far."""

    def __init__(self, minutes: float):
        self.limit = minutes
        self.began = time.monotonic()
        self.until = self.began + 60.0 * minutes if minutes else math.inf
        self.over = False
        self.longest = 0.0  # seconds of a run
        self._seconds, self._evaluations = 0.0, 0

    @property
    def minutes(self) -> float:
        """How many have gone by."""
        return (time.monotonic() - self.began) / 60.0

    def learn(self, seconds: float, evaluations: int) -> None:
        """A run took so long, its decoding and judging included."""
        self.longest = max(self.longest, seconds)
        self._seconds += seconds
        self._evaluations += evaluations

    def check(self, evaluations: int) -> None:
        """Raise BudgetSpent if so many more evaluations do not fit."""
        each = self._seconds / self._evaluations if self._evaluations else 0.0
        if time.monotonic() + each * evaluations > self.until:
            self.over = True
            raise BudgetSpent
