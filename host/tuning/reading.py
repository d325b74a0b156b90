"""What is kept of one run of the sampler. Nothing here needs ComfyUI, so that a study can be read without it."""

from __future__ import annotations

import json
from dataclasses import dataclass

Kept = float | str  # what a judge keeps of a picture: its judgement, or features in hexadecimal


class BudgetSpent(Exception):
    """The next run would take more evaluations than there are left."""


@dataclass(frozen=True)
class Reading:
    """What is kept of one run.

    Attributes:
        values: per judge, what it keeps of each picture.
        measures: saturation, contrast and clipping; thumbs: of each picture, bytes in hex. For the guards.
        evaluations: of networks, that the run took.
    """

    values: tuple[tuple[Kept, ...], ...]
    measures: tuple[float, float, float]
    thumbs: tuple[str, ...]
    evaluations: int

    def text(self) -> str:
        return json.dumps([self.values, self.measures, self.thumbs, self.evaluations])

    @classmethod
    def parse(cls, text: str) -> Reading:
        """Of `text`, as a study keeps it."""
        values, measures, thumbs, evaluations = json.loads(text)
        return cls(tuple(map(tuple, values)), tuple(measures), tuple(thumbs), evaluations)
