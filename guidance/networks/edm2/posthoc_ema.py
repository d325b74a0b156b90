"""Averages of weights chosen after training: another averaging width from two or more stored ones.

A power-function average taken at time T counts the weights of time t by p(t) = (gamma + 1) t^gamma / T^(gamma + 1).
Stored averages are combined so that their profiles come nearest, in the least squares, to the wanted one.

Source: Karras et al. 2024 (EDM2), Section 3 and its appendix on post-hoc averages.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

WIDEST = math.sqrt(1 / 12)  # of the even average, gamma = 0
_NAMED = re.compile(r"-(\d{7})-(\d\.\d{3})\.\w+$")
_BUFFERS = (".freqs", ".phases")  # never averaged: they do not change in training


@dataclass(frozen=True)
class Snapshot:
    """A power-function average of a training's weights.

    Attributes:
        time: when it was taken, in any unit (EDM2 counts pictures seen).
        std: standard deviation of its profile as a share of that time (the paper's sigma_rel), in (0, WIDEST).
    """

    time: float
    std: float


def power_exponent(std: float) -> float:
    """gamma of an average: the root in [0, inf) of std^2 = (gamma + 1) / ((gamma + 2)^2 (gamma + 3)), by bisection.

    Raises:
        ValueError: a width outside (0, sqrt(1/12)).
    """
    if not 0 < std < WIDEST:
        raise ValueError(f"the averaging width is {std}; it must lie in (0, {WIDEST:.4f}).")
    low, high = 0.0, 1 / std
    for _ in range(100):
        middle = (low + high) / 2
        wider = (middle + 1) / ((middle + 2) ** 2 * (middle + 3)) > std**2
        low, high = (middle, high) if wider else (low, middle)
    return low


def inner_product(first: Snapshot, second: Snapshot) -> float:
    """The integral over all times of the product of two profiles."""
    one, two = power_exponent(first.std), power_exponent(second.std)
    ratio = first.time / second.time
    shrunk = ratio**two if first.time < second.time else ratio**-one
    return (one + 1) * (two + 1) * shrunk / ((one + two + 1) * max(first.time, second.time))


def coefficients(snapshots: Sequence[Snapshot], target: Snapshot) -> list[float]:
    """The share of each snapshot in the target; they sum to 1.

    Raises:
        ValueError: no snapshots, one of them twice, or an impossible width.
    """
    if not snapshots or len(set(snapshots)) < len(snapshots):
        raise ValueError(f"a reconstruction needs snapshots of different times or widths; got {list(snapshots)}.")
    scale = max(snapshot.time for snapshot in snapshots)
    # One unit of time for all keeps the numbers near 1.
    near = [Snapshot(snapshot.time / scale, snapshot.std) for snapshot in snapshots]
    wanted = Snapshot(target.time / scale, target.std)
    products = torch.tensor([[inner_product(a, b) for b in near] for a in near], dtype=torch.float64)
    goal = torch.tensor([inner_product(a, wanted) for a in near], dtype=torch.float64)
    shares = torch.linalg.solve(products, goal)
    return (shares / shares.sum()).tolist()


def combine_states(states: Iterable[Mapping[str, Tensor]], shares: Sequence[float]) -> dict[str, Tensor]:
    """The linear combination of state dicts, in float32; buffers are the last one's. Reads one state dict at a time.

    Raises:
        ValueError: state dicts of different networks.
    """
    total: dict[str, Tensor] = {}
    for state, share in zip(states, shares, strict=True):
        shapes = {name: tensor.shape for name, tensor in state.items()}
        if total and shapes != {name: tensor.shape for name, tensor in total.items()}:
            raise ValueError("one of the snapshots has other tensors than the ones before; combine one network's own.")
        for name, tensor in state.items():
            if name.endswith(_BUFFERS):
                total[name] = tensor.float()
            else:
                total[name] = share * tensor.float() + total.get(name, 0)
    return total


def snapshot_of(name: str) -> Snapshot:
    """Time (in pictures seen) and width by the published file names: ...-<thousands of pictures>-<width>.pkl.

    Raises:
        ValueError: another name.
    """
    found = _NAMED.search(name)
    if not found:
        raise ValueError(
            f"{name} does not end in -<thousands of pictures>-<width>, as edm2-img512-xs-2147483-0.050.pkl does, so "
            f"it is unknown when it was taken; rename it."
        )
    return Snapshot(math.ceil(int(found[1]) * 1000 / 1024) * 1024, float(found[2]))
