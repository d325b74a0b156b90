"""Which noise levels the papers' own samplers visit.

Sources: guided-diffusion (2105.05233; P2 and PPAP use it), GLIDE (2112.10741, fast27), EDM (2206.00364 Eq. 5).
"""

from __future__ import annotations

import re
from itertools import accumulate, chain, repeat

import torch
from torch import Tensor

FAST27, PARTS_OF_FAST27 = "fast27", (10, 10, 3, 2, 2)
COUNT = "[1-9][0-9]{0,4}"
EXAMPLES = (
    "ddim25 (25 steps at a whole stride), 250 (so many steps, the first and the last timestep among them), "
    "90,60,60,20,20 (steps in equal parts of the timesteps, from clean to noisy) or fast27 (GLIDE's)"
)


def respacing_problem(respacing: str) -> str | None:
    """What is wrong with how a respacing is written, in words; None if nothing is."""
    if respacing == FAST27 or re.fullmatch(rf"(ddim)?{COUNT}|{COUNT}(\s*,\s*{COUNT}){{1,99}}", respacing):
        return None
    return f"respacing is {respacing[:60]!r}; it can be {EXAMPLES}."


def respaced(respacing: str, total: int) -> list[int]:
    """The timesteps that are visited, of 0 .. total - 1, from noisy to clean.

    Raises:
        ValueError: a respacing that is none, or that so many timesteps do not have, in words.
    """
    if problem := respacing_problem(respacing):
        raise ValueError(problem)
    if respacing.startswith("ddim"):
        return _at_a_stride(int(respacing.removeprefix("ddim")), total)
    if respacing != FAST27:
        return _in_parts([int(part) for part in respacing.split(",")], total)
    # GLIDE takes the noisiest timestep two lower, against artefacts of DDIM.
    return [total - 3, *_in_parts(PARTS_OF_FAST27, total)[1:]]


def edm_sigmas(steps: int, low: float, high: float, rho: float = 7.0) -> Tensor:
    """EDM's noise levels from `high` to `low` and 0: [steps + 1], float64. Raises ValueError below two steps."""
    if steps < 2:
        raise ValueError(f"EDM's noise levels need two steps or more, and {steps} is asked for.")
    first, last = high ** (1 / rho), low ** (1 / rho)
    rising = torch.arange(steps, dtype=torch.float64) / (steps - 1)
    return torch.cat([(first + rising * (last - first)) ** rho, torch.zeros(1, dtype=torch.float64)])


def _at_a_stride(count: int, total: int) -> list[int]:
    """Timesteps at a stride from 0 on, at the smallest stride that gives this many."""
    strides = {len(range(0, total, stride)): stride for stride in range(total - 1, 0, -1)}
    if count not in strides:
        nearest = sorted(strides, key=lambda found: abs(found - count))[:2]
        near = " and ".join(f"ddim{found}" for found in sorted(nearest))
        raise ValueError(
            f"No whole stride through {total} timesteps gives {count} steps. The nearest that there are: {near}. Or "
            f"write {count} alone for steps that are not quite equal."
        )
    return list(range(0, total, strides[count]))[::-1]


def _in_parts(counts: list[int] | tuple[int, ...], total: int) -> list[int]:
    """So many timesteps in each of equal parts, its first and its last among them; the first parts take what is over.

    The places are added up and rounded one by one, halves to the even side, as the papers' code does.
    """
    size, over = divmod(total, len(counts))
    found, start = [], 0
    for part, count in enumerate(counts):
        inside = size + (part < over)
        if count > inside:
            raise ValueError(
                f"respacing asks for {count} steps of {inside} timesteps"
                + (f" in part {part + 1} of {len(counts)}." if len(counts) > 1 else ".")
            )
        stride = (inside - 1) / (count - 1) if count > 1 else 1.0
        found += [start + round(place) for place in accumulate(chain([0.0], repeat(stride, count - 1)))]
        start += inside
    return found[::-1]
