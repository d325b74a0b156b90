"""Shapes: rules that cost no evaluation and change how CFG pushes, or the guided estimate, by an amount (0 = off)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .rule import (
    NEGATIVE,
    POSITIVE,
    Region,
    Rule,
    Schedule,
    Step,
    Term,
    Transform,
    expand,
    param,
    region_field,
    schedule_field,
)


@dataclass(frozen=True)
class Shape(Rule):
    """What shapes have in common. Subclass `UpdateShape` or `EstimateShape`, not this."""

    off = {"amount": 0.0}

    amount: float = param(
        1.0, "How much of it is done: 1 = all of it, as its authors wrote it; 0 = off.", low=0.0, high=1.0
    )
    schedule: Schedule = schedule_field()
    region: Region | None = region_field()


@dataclass(frozen=True)
class UpdateShape(Shape, Term):
    """A shape of CFG's update: D' = D + amount (D_shaped - D_cfg). Without CFG (w = 1) it does nothing."""

    uses = frozenset({POSITIVE, NEGATIVE})
    with_cfg = True

    def displacement(self, step: Step, state: Any) -> tuple[Tensor, Any]:
        return expand(step.strength, step.x) * self.change(step).to(step.x.dtype), state

    def change(self, step: Step) -> Tensor:
        """D_shaped - D_cfg at full amount, [B, ...]; nothing for samples whose step.cfg is 1."""
        raise NotImplementedError


@dataclass(frozen=True)
class EstimateShape(Shape, Transform):
    """A shape of the guided estimate: D' = D + amount (D_shaped - D)."""

    def transform(self, denoised: Tensor, step: Step, state: Any) -> tuple[Tensor, Any]:
        shaped, state = self.shaped(denoised, step, state)
        return torch.lerp(denoised, shaped.to(denoised.dtype), expand(step.strength, denoised)), state

    def shaped(self, denoised: Tensor, step: Step, state: Any) -> tuple[Tensor, Any]:
        """D_shaped [B, ...] at full amount, and the state after it."""
        raise NotImplementedError


def update(step: Step) -> Tensor:
    """CFG's direction Delta = D_positive - D_negative, [B, ...]."""
    return step.branches[POSITIVE] - step.branches[NEGATIVE]


def beyond(step: Step) -> Tensor:
    """w - 1 of CFG: how far the combination goes beyond the positive estimate. [B, 1, ...]"""
    return expand(step.cfg - 1.0, step.x)


def noise_part(step: Step, denoised: Tensor) -> Tensor:
    """x - D, [B, ...]: t times a flow's velocity, sigma times the noise that other models predict."""
    return step.x - denoised
