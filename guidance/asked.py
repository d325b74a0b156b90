"""What pictures are asked to be, in numbers: a class, or the pooled vector of a prompt."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True, eq=False)
class Asked:
    """Attributes:
    classes: int64 [K], one per picture or dealt to them in turn; what is no class's number asks for none.
    pooled: vectors [K, P], in the same way.
    """

    classes: Tensor | None = None
    pooled: Tensor | None = None

    def over(self, count: int) -> Asked:
        """The same with one row for each of so many pictures."""
        return Asked(*(None if rows is None else _dealt(rows, count) for rows in (self.classes, self.pooled)))


def _dealt(rows: Tensor, count: int) -> Tensor:
    return rows.repeat(-(-count // len(rows)), *[1] * (rows.ndim - 1))[:count]
