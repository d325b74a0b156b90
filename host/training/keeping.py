"""A training that is left early, or goes on for long, is kept on disk."""

from __future__ import annotations

import logging
from collections.abc import Callable, Generator
from contextlib import contextmanager
from time import monotonic
from typing import Protocol

from ...guidance.training.checkpoint import Stoppable, StoppedFiles

log = logging.getLogger(__name__)
SAVE_SECONDS = 120.0


class Keepable(Stoppable, Protocol):
    """A training that says whether it can be saved."""

    @property
    def consistent(self) -> bool:
        """False where a step broke off half done."""


@contextmanager
def kept(training: Keepable, files: StoppedFiles) -> Generator[Callable[[], None]]:
    """Saves the training when it is left early, and every so often when the given function is called."""
    last = monotonic()

    def now_and_then() -> None:
        nonlocal last
        if monotonic() - last > SAVE_SECONDS:
            files.save(training)
            last = monotonic()

    finished = False
    try:
        yield now_and_then
        finished = True
    finally:
        if not finished and training.losses and training.consistent:
            _save_if_possible(training, files)


def _save_if_possible(training: Keepable, files: StoppedFiles) -> None:
    """Save beside an error or an interrupt, which stays what is raised."""
    try:
        files.save(training)
    except OSError as error:
        log.warning("Guidance Components: the training %s could not be saved. %s", files.waiting.stem, error)
