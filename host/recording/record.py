"""What the inspector has written down of a run, as plain numbers."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch

from ...guidance.branch import MAIN, Branch

MOST_SHOWN = 8  # steps with a picture; of longer runs evenly spread ones


@dataclass(frozen=True)
class TermRecord:
    """One component in one evaluation, a number per sample."""

    label: str
    strength: list[float]  # weight (1 = off) or scale (0 = off)
    update: list[float]  # the norm of what it added, relative to that of the unguided estimate


@dataclass(frozen=True)
class Score:
    """What a guide said in one evaluation, a number per sample: a class's probability, or a loss."""

    label: str
    is_probability: bool
    values: list[float]


@dataclass(frozen=True, eq=False)
class Evaluation:
    """One evaluation of the guided denoiser; lists hold a number per sample."""

    step: int  # of the noise level in the sampler's list, 1 = the first
    sigma: list[float]  # the model's own
    branches: tuple[Branch, ...]
    terms: tuple[TermRecord, ...]  # CFG first, then the chain
    total: list[float]  # the same of all updates together
    cosine: list[float] | None  # between D_positive and D_negative
    effective: list[float] | None  # the weight at which plain CFG goes as far, where both prompts were evaluated
    scores: tuple[Score, ...]
    seconds: float
    memory: int  # bytes: see inspect_meter.py
    picture: torch.Tensor | None  # the guided estimate, uint8 [S, h, w, 3], where the strip shows it

    @property
    def main(self) -> int:
        """Evaluations of the main network."""
        return sum(branch.network == MAIN for branch in self.branches)

    @property
    def guides(self) -> int:
        """Evaluations of guides."""
        return len(self.branches) - self.main


@dataclass(eq=False)
class Record:
    """One run: all evaluations that were made, in order."""

    model: str
    node: str  # the id of the node that sampled; empty outside the queue
    levels: int
    finished: bool = False
    evaluations: list[Evaluation] = field(default_factory=list)

    @property
    def samples(self) -> int:
        """How many pictures were sampled together."""
        return len(self.evaluations[0].sigma) if self.evaluations else 0

    @property
    def effective_weight(self) -> float | None:
        """The weight at which plain CFG goes as far, over all evaluations and samples (2602.22570); 1 where nothing was
        moved. None where no evaluation tells."""
        told = [abs(mean(e.effective)) for e in self.evaluations if e.effective is not None]
        told += [1.0 for e in self.evaluations if e.effective is None and not any(e.total)]
        return mean(told) if told else None


def mean(values: list[float]) -> float:
    """Over the samples."""
    return sum(values) / len(values)


def shown_steps(count: int) -> list[int]:
    """Which of `count` steps are shown: evenly spread, with the first and the last."""
    if count <= MOST_SHOWN:
        return list(range(count))
    return [round(i * (count - 1) / (MOST_SHOWN - 1)) for i in range(MOST_SHOWN)]
