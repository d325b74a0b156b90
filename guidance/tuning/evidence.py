"""Whether a search has found anything: how sure a winner is, and whether its measure tells settings apart at all."""

from __future__ import annotations

import math
from collections.abc import Sequence

BY_CHANCE = 2.326  # standard deviations of a normal number: 1 % lie above


def probability_better(differences: Sequence[float]) -> float:
    """That the mean of paired differences is above 0, from those of some pictures: 0 to 1.

    The posterior of a normal mean with nothing known before (Student's t with n - 1 degrees of freedom): Gelman et al.,
    Bayesian Data Analysis, 3rd edition, Section 3.2. One difference alone says nothing of its spread: 0.5.
    """
    count = len(differences)
    if count < 2:
        return 0.5
    mean = math.fsum(differences) / count
    variance = math.fsum((value - mean) ** 2 for value in differences) / (count - 1)
    if variance == 0.0:
        return 0.5 if mean == 0.0 else float(mean > 0.0)
    return student_cdf(mean / math.sqrt(variance / count), count - 1)


def student_cdf(t: float, degrees: int, pieces: int = 400) -> float:
    """Student's distribution function: with t = sqrt(degrees) tan(a) it is 1/2 + c int_0^a cos^(degrees - 1)."""
    constant = math.exp(math.lgamma((degrees + 1) / 2) - math.lgamma(degrees / 2)) / math.sqrt(math.pi)
    width = math.atan(t / math.sqrt(degrees)) / pieces
    heights = [math.cos(width * i) ** (degrees - 1) for i in range(pieces + 1)]
    simpson = heights[0] + heights[-1] + 4 * math.fsum(heights[1:-1:2]) + 2 * math.fsum(heights[2:-1:2])
    return min(max(0.5 + constant * simpson * width / 3, 0.0), 1.0)


def tells_apart(table: Sequence[Sequence[float]]) -> bool:
    """Whether settings differ by more than chance. table: a row per setting, a column per picture, the same noise in
    each column.

    The means of rows are compared with what the pictures' own spread makes of them (what rows and columns do not
    explain, over the root of the number of columns); a column's level, which all settings share, does not count. Their
    ratio squared is Fisher's F, held to 1 % by Paulson's normal approximation (Ann. Math. Statist. 13, 1942).
    """
    spread, chance = spreads(table)
    if chance == 0.0:
        return spread > 0.0
    rows = 2 / (9 * (len(table) - 1))
    rest = 2 / (9 * (len(table) - 1) * (len(table[0]) - 1))
    root = (spread / chance) ** (2 / 3)
    return (1 - rest) * root - (1 - rows) > BY_CHANCE * math.sqrt(rest * root**2 + rows)


def spreads(table: Sequence[Sequence[float]]) -> tuple[float, float]:
    """The spread of the rows' means, and how wide chance alone would make it; (0, 0) of under 2 rows or columns."""
    rows, columns = len(table), len(table[0]) if table else 0
    if rows < 2 or columns < 2:
        return 0.0, 0.0
    means = [math.fsum(row) / columns for row in table]
    levels = [math.fsum(row[at] for row in table) / rows for at in range(columns)]
    middle = math.fsum(means) / rows
    rest = math.fsum(
        (row[at] - mean - levels[at] + middle) ** 2 for row, mean in zip(table, means, strict=True)
        for at in range(columns)
    )
    spread = math.sqrt(math.fsum((mean - middle) ** 2 for mean in means) / (rows - 1))
    return spread, math.sqrt(rest / ((rows - 1) * (columns - 1)) / columns)
