"""What the rules of a MODEL do over a sampler's noise levels: known without sampling, unless rules choose weights."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch

from ...guidance.branch import NEGATIVE, POSITIVE, Branch
from ...guidance.compose import Acting, Guidance, Memory, needs_of
from ...guidance.noise_level import NoiseLevel
from ...guidance.sigma_list import SigmaList


@dataclass(frozen=True)
class Forecast:
    """One evaluation that is to come."""

    acting: tuple[Acting, ...]  # the rules beside CFG that do something
    branches: frozenset[Branch]  # all that are evaluated, those of the host too


def forecasts(guidance: Guidance, sigmas: SigmaList, level: NoiseLevel, cfg: torch.Tensor) -> Iterator[Forecast]:
    """A run that evaluates every level but the last once. level, cfg: one of them in each row."""
    memory = Memory()
    for row, position in enumerate(sigmas.walk):
        memory.move_to(position)
        acting = guidance.acting(level[torch.tensor([row])], cfg[row : row + 1], memory)
        for one in acting:
            memory.keep(one.index, "a state")
        own = {POSITIVE, NEGATIVE} if float(cfg[row]) != 1.0 else {POSITIVE}
        yield Forecast(acting, needs_of(acting) | own)
