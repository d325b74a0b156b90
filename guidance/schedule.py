"""Schedules: how strong a rule is at a noise level. 1 = as strong as its weight says, 0 = off.

A rule's effective weight is `1 + (weight - 1) * schedule` (or `scale * schedule`), so one schedule serves every rule.
Positions are given in a unit: percent of the model's training timesteps or the model's own sigma, as people type them.
`resolve` turns both into VE sigma once per run; the core itself evaluates schedules in VE sigma only.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Literal, Protocol

import torch
from torch import Tensor

from .noise_level import NoiseLevel

Unit = Literal["percent", "sigma", "sigma_ve"]
RESOLUTION = 128  # pieces per curve segment when a curve in percent is turned into one in sigma


class Positions(Protocol):
    """What a model knows about units. The host implements it for its models."""

    def edge(self, value: float, unit: Unit) -> float:
        """The VE sigma of an interval's edge: percent 0 lies above every sigma, percent 1 is sigma 0."""

    def knot(self, value: float, unit: Unit) -> float:
        """The VE sigma of a point of a curve, inside the model's own range of sigmas."""


class Schedule:
    """A strength over noise. Subclasses are frozen dataclasses; `a * b` multiplies two schedules."""

    def __call__(self, level: NoiseLevel) -> Tensor:
        """Strength per sample, float64 [B]."""
        raise NotImplementedError

    def resolve(self, positions: Positions) -> Schedule:
        """The same schedule with every position in VE sigma."""
        return self

    def __mul__(self, other: Schedule) -> Schedule:
        return Product((self, other))


@dataclass(frozen=True)
class Constant(Schedule):
    """The same strength at every noise level."""

    value: float = 1.0

    def __call__(self, level: NoiseLevel) -> Tensor:
        return torch.full_like(level.b, self.value)


@dataclass(frozen=True)
class Interval(Schedule):
    """1 inside, 0 outside (2404.07724 Eq. 5). `start` is the noisy end, `end` the clean end.

    In sigma the interval is (end, start]: half-open, so that neighbours neither overlap nor leave a gap.
    """

    start: float = 0.0
    end: float = 1.0
    unit: Unit = "percent"

    def __post_init__(self) -> None:
        if self.unit == "percent" and not 0.0 <= self.start <= self.end <= 1.0:
            raise ValueError(
                f"An interval in percent runs from the noisy start to the clean end, 0 <= start <= end <= 1; "
                f"got start {self.start:g} and end {self.end:g}."
            )
        if self.unit != "percent" and not self.start >= self.end >= 0.0:
            raise ValueError(
                f"An interval in sigma runs from the noisy start down to the clean end, start >= end >= 0; "
                f"got start {self.start:g} and end {self.end:g}."
            )

    @property
    def everywhere(self) -> bool:
        """Whether no noise level lies outside."""
        return (self.start, self.end) == ((0.0, 1.0) if self.unit == "percent" else (math.inf, 0.0))

    def __call__(self, level: NoiseLevel) -> Tensor:
        _must_be_resolved(self)
        return ((level.sigma > self.end) & (level.sigma <= self.start)).to(torch.float64)

    def resolve(self, positions: Positions) -> Interval:
        start, end = positions.edge(self.start, self.unit), positions.edge(self.end, self.unit)
        return Interval(start, end, "sigma_ve")


@dataclass(frozen=True)
class Curve(Schedule):
    """Straight lines through points (position, strength), constant beyond the first and the last.

    Between two points it is linear in percent, or in log sigma where positions are sigmas. Points run from noisy to
    clean: percent rising, sigma falling.
    """

    points: tuple[tuple[float, float], ...]
    unit: Unit = "percent"

    def __post_init__(self) -> None:
        positions = [position for position, _ in self.points]
        if len(positions) < 2 or positions != sorted(positions, reverse=self.unit != "percent"):
            raise ValueError(
                f"A curve needs two or more points from noisy to clean (percent rising, sigma falling); "
                f"got positions {positions} in {self.unit}."
            )
        if not all(math.isfinite(number) for point in self.points for number in point):
            raise ValueError("A curve needs finite positions and strengths.")

    def __call__(self, level: NoiseLevel) -> Tensor:
        _must_be_resolved(self)
        positions, values = zip(*reversed(self.points), strict=True)
        knots = torch.tensor([math.log(position) for position in positions], dtype=torch.float64)
        return interpolate(level.sigma.log(), knots, torch.tensor(values, dtype=torch.float64))

    def resolve(self, positions: Positions) -> Curve:
        points = self.points if self.unit == "sigma" else tuple(_subdivide(self.points))
        return Curve(tuple((positions.knot(p, self.unit), value) for p, value in points), "sigma_ve")


@dataclass(frozen=True)
class Product(Schedule):
    """The product of several schedules."""

    parts: tuple[Schedule, ...]

    def __call__(self, level: NoiseLevel) -> Tensor:
        return math.prod((part(level) for part in self.parts), start=torch.ones_like(level.b))

    def resolve(self, positions: Positions) -> Product:
        return replace(self, parts=tuple(part.resolve(positions) for part in self.parts))


def ramp(start: float, end: float, first: float, last: float, unit: Unit = "percent", cosine: bool = False) -> Curve:
    """From strength `start` at position `first` to strength `end` at `last`, straight or along half a cosine."""
    steps = 32 if cosine else 1
    points = []
    for i in range(steps + 1):
        f = i / steps
        position = first + (last - first) * f if unit == "percent" else first ** (1 - f) * last**f
        points.append((position, start + (end - start) * ((1 - math.cos(math.pi * f)) / 2 if cosine else f)))
    return Curve(tuple(points), unit)


ALWAYS = Constant(1.0)


def _must_be_resolved(schedule: Interval | Curve) -> None:
    if schedule.unit != "sigma_ve":
        raise ValueError(f"{schedule} is in {schedule.unit}: call resolve(positions) before it is evaluated.")


def _subdivide(points: tuple[tuple[float, float], ...]):
    """More points on the same straight lines, so that a curve in percent stays one after the change to log sigma."""
    pieces = max(1, RESOLUTION // (len(points) - 1))
    for (p0, v0), (p1, v1) in zip(points, points[1:], strict=False):
        yield from ((p0 + (p1 - p0) * i / pieces, v0 + (v1 - v0) * i / pieces) for i in range(pieces))
    yield points[-1]


def interpolate(x: Tensor, knots: Tensor, values: Tensor) -> Tensor:
    """Piecewise linear through (knots, values), knots not falling; constant beyond the ends. x: [B]."""
    x = x.clamp(knots[0], knots[-1])
    right = torch.searchsorted(knots, x).clamp(1, len(knots) - 1)
    width = knots[right] - knots[right - 1]
    part = torch.where(width > 0, (x - knots[right - 1]) / width.clamp_min(1e-300), torch.ones_like(x))
    return values[right - 1] + (values[right] - values[right - 1]) * part
