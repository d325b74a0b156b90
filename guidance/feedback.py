"""Feedback: a weight of guidance that follows how well a run already fits its condition (2506.06085).

The sampler moves from x at sigma s to x' at the lower s'. If x' lies nearer to where the condition would have taken x
than to where its rival would (m_c, m_u), the condition is met, and less guidance is needed. With the posterior ratio
p = e^L of condition and rival, in variance-exploding coordinates and with the condition's share pi:

    w = p / (p - (1 - pi))
    L' = L - tau / (2 v) (|x' - m_c|^2 - |x' - m_u|^2) + delta         kept in [ln((1 - pi) w_max / (w_max - 1)), 3]
    m = (s'^2 / s^2) x + (1 - s'^2 / s^2) D        v = (s^2 - s'^2) s'^2 / s^2
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .algebra import dot
from .noise_level import NoiseLevel, expand
from .rule import Rule, param, schedule_field
from .schedule import Schedule
from .step import Step

HIGHEST = 3.0  # of L
REFERENCE, SHARE = 3.0, 10.0  # the weight that t0 stands for; the part of delta that t1 stands for


@dataclass(frozen=True)
class Pace:
    """How fast L moves in a run: both follow from its noise levels (their code, `delta_from_t0`, `Temp_from_t1`)."""

    drift: float = 0.0  # delta, in each step
    temperature: float = 0.0  # tau

    @classmethod
    def of(cls, levels: NoiseLevel, pi: float, t0: float, t1: float) -> Pace:
        """For the noise levels [N + 1] of a run of N steps.

        delta: without evidence, w is 3 when a share t0 of the steps is left. tau: at t1 a tenth of delta for each unit
        by which |x' - m|^2 differs.
        """
        steps = len(levels.b) - 1
        drift = math.log((1.0 - pi) * REFERENCE / (REFERENCE - 1.0)) / ((1.0 - t0) * steps)
        after = levels.sigma[1:]
        kept = (after / levels.sigma[:-1]).square()
        variance = (after.square() * (1.0 - kept)).nan_to_num(0.0, 0.0, 0.0).clamp_min(0.0).flip(0)
        below = min(int(t1 * steps), steps - 1)
        between = torch.lerp(variance[below], variance[min(below + 1, steps - 1)], t1 * steps - below)
        return cls(drift, abs(2.0 * float(between) / SHARE * drift))


class Trail(NamedTuple):
    """Where the two predictions were compared last."""

    x: Tensor  # [B, ...] the noisy input there
    difference: Tensor  # [B, ...] of condition and rival
    middle: Tensor  # [B, ...] between both
    level: NoiseLevel
    position: int
    log_ratio: Tensor  # [B] L


@dataclass(frozen=True)
class FeedbackRule(Rule):
    """What rules with this weight share: its settings, the weight, and the trail as their state."""

    paper = "2506.06085"
    off, neutral = {"max_weight": 1.0}, 1.0
    adaptive = True

    max_weight: float = param(
        10.0, "The largest weight that it may choose. 1 = off. The paper's is 10.", low=1.0, high=100.0, step=0.1
    )
    pi: float = param(
        0.95, "How much of the condition the model has learned: the paper's pi. Lower = more guidance from the start.",
        low=0.5, high=0.999, step=0.005, advanced=True,
    )
    t0: float = param(
        0.5, "The share of steps still to come at which the weight is 3 if nothing speaks against it: the paper's t0. "
        "Higher = guidance sets in earlier.", low=0.0, high=0.95, advanced=True,
    )  # fmt: skip
    t1: float = param(
        0.4, "The share of steps still to come around which the picture has the most say: the paper's t1.",
        low=0.0, high=1.0, advanced=True,
    )
    schedule: Schedule = schedule_field()
    pace: Pace = field(default=Pace(), metadata={"doc": "Of a run."})

    def over(self, levels: NoiseLevel) -> Rule:
        return replace(self, pace=Pace.of(levels, self.pi, self.t0, self.t1))

    def strength(self, level: NoiseLevel) -> Tensor:
        return self._weight(self._limited(torch.zeros_like(level.b)), level)

    def choose(self, x: Tensor, level: NoiseLevel, position: int, state: Any) -> Tensor:
        return self._weight(self.log_ratio(x, level, position, state), level)

    def log_ratio(self, x: Tensor, level: NoiseLevel, position: int, trail: Trail | None) -> Tensor:
        """L of a sampler that has come from the trail to x [B, ...] at its next level: [B] on its device.

        Noise that a sampler adds (a rising sigma) says nothing about the condition.
        """
        if trail is None:
            return self._limited(torch.zeros_like(level.b))
        falls = (level.sigma < trail.level.sigma) & (level.sigma > 0)
        kept = torch.where(falls, level.sigma.square() / trail.level.sigma.square(), 0.0)
        # kept / a, which has a limit where no signal was left (a = 0)
        carried = torch.where(falls, level.sigma.square() * trail.level.a / trail.level.b.square(), 0.0)
        here = torch.where(falls, 1.0 / level.a, 0.0)
        off = expand(here, x) * x - expand(carried, x) * trail.x - expand(1.0 - kept, x) * trail.middle
        evidence = dot(trail.difference, off).flatten()
        share = torch.where(falls, self.pace.temperature / level.sigma.square(), 0.0)
        drift = torch.where(falls, self.pace.drift * max(0, position - trail.position), 0.0)
        return self._limited(trail.log_ratio.to(evidence) + share.to(evidence) * evidence + drift.to(evidence))

    def trail(self, step: Step, condition: Tensor, rival: Tensor, before: Trail | None) -> Trail:
        """The trail after an evaluation of both predictions, [B, ...] each."""
        log_ratio = self.log_ratio(step.x, step.level, step.position, before)
        difference = condition - rival
        return Trail(step.x.clone(), difference, rival + 0.5 * difference, step.level, step.position, log_ratio)

    def _limited(self, log_ratio: Tensor) -> Tensor:
        most = self.max_weight
        lowest = math.log((1.0 - self.pi) * most / (most - 1.0)) if most > 1.0 else HIGHEST
        return log_ratio.clamp(min(lowest, HIGHEST), HIGHEST)

    def _weight(self, log_ratio: Tensor, level: NoiseLevel) -> Tensor:
        ratio = log_ratio.exp()
        weight = (ratio / (ratio - (1.0 - self.pi))).clamp(max=self.max_weight)
        return self.scheduled(weight, self.schedule(level).to(weight))
