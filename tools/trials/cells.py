"""The cells of the matrix, and the order in which they are tried: pairs of choices first."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

SAMPLERS = ("euler", "heun", "dpmpp_2m_sde", "euler_cfg_pp", "uni_pc", "lcm", "res_multistep", "ddpm")
GUIDERS = ("cfg", "basic", "dual", "perp neg", "dual model")
BATCHES = (1, 3)
SWEEPS = len(SAMPLERS) * len(GUIDERS) * len(BATCHES)


@dataclass(frozen=True)
class Cell:
    """One combination."""

    family: str
    component: str
    sampler: str
    guider: str
    batch: int

    def __str__(self) -> str:
        return f"{self.family}/{self.component}/{self.sampler}/{self.guider}/{self.batch}"

    @staticmethod
    def named(text: str) -> Cell:
        """The cell of such a text. Raises ValueError for any other."""
        parts = text.split("/")
        if len(parts) != 5 or not parts[4].isdigit():
            raise ValueError(f"{text!r} is no cell; a cell is family/component/sampler/guider/batch.")
        return Cell(*parts[:4], int(parts[4]))


def ordered(families: Sequence[str], components: Sequence[str], seed: int) -> Iterator[Cell]:
    """Every cell once. A sweep has every family with every component; the first one also has every other pair."""
    generator = random.Random(seed)
    rows, columns = (generator.sample(list(names), len(names)) for names in (families, components))
    places = [(row, column) for row in range(len(rows)) for column in range(len(columns))]
    for sweep in range(SWEEPS):
        generator.shuffle(places)
        yield from (Cell(rows[row], columns[column], *_rest(row, column, sweep)) for row, column in places)


def _rest(row: int, column: int, sweep: int) -> tuple[str, str, int]:
    """Sampler, guider and batch of a place, as in Latin squares: over the sweeps every combination comes once.

    In a sweep a family meets few combinations of the three, so that few runs of the host alone are needed.
    """
    fast, middle, slow = sweep % 8, sweep // 8 % 5, sweep // 40
    sampler = (row + column + fast) % 8
    guider = (row // 8 + sampler + middle) % 5
    return SAMPLERS[sampler], GUIDERS[guider], BATCHES[(row + sampler // 2 + slow) % 2]
