"""Inspection: what one evaluation of the guided denoiser was made of. It looks on and changes no number."""

from __future__ import annotations

from collections.abc import Hashable, Iterator
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor

from .branch import NEGATIVE, POSITIVE
from .objective import Objective
from .step import Step

HOST, TOTAL, COSINE, EFFECTIVE = "host", "total", "cosine", "effective weight"
UNGUIDED, OTHER, GAP, REACH = "unguided", "negative", "unguided - negative", "guided - negative"
SIDE = 128  # the longest side of a kept picture


@dataclass
class Watch:
    """Told by the law what an evaluation is made of. It computes nothing before `kept`.

    Attributes:
        step: what the rules saw.
        parts: estimates and displacements by name, [B, ...].
        scores: minus the losses that guides found, by objective, [B].
        strengths: what adaptive rules chose, by their places in the chain, [B].
    """

    step: Step = field(init=False)
    parts: dict[Hashable, Tensor] = field(default_factory=dict)
    scores: dict[Objective, Tensor] = field(default_factory=dict)
    strengths: dict[int, Tensor] = field(default_factory=dict)

    def combined(self, denoised: Tensor, step: Step) -> None:
        """The host's combination [B, ...] of the step's branches, before any rule."""
        self.step = step
        self.parts |= {UNGUIDED: step.branches.get(POSITIVE, denoised), HOST: denoised}
        if POSITIVE in step.branches and NEGATIVE in step.branches:
            self.parts[OTHER] = step.branches[NEGATIVE]

    def moved(self, name: int, change: Tensor) -> None:
        """What a rule added to the estimate, [B, ...]; its name is its place in the chain."""
        self.parts[name] = change

    def chose(self, name: int, strength: Tensor) -> None:
        """The strength [B] that an adaptive rule has chosen."""
        self.strengths[name] = strength

    def scored(self, objective: Objective, scores: Tensor) -> None:
        """Minus the loss that a guide found, [B]."""
        self.scores[objective] = scores

    def guided_to(self, denoised: Tensor) -> None:
        """The estimate [B, ...] after all rules."""
        self.parts[TOTAL] = denoised

    @property
    def guided(self) -> Tensor:
        """D', the estimate that the sampler gets. [B, ...]"""
        return self.parts[TOTAL]

    def kept(self) -> Kept:
        """What is kept of it."""
        unguided = self.parts[UNGUIDED]
        moves = {name: part - unguided if name in (HOST, TOTAL) else part for name, part in self.parts.items()}
        if OTHER in moves:
            moves |= {GAP: unguided - moves[OTHER], REACH: self.guided - moves[OTHER]}
        lengths = {name: _length(move) for name, move in moves.items()}
        return Kept(lengths, {name: score.to(lengths[UNGUIDED]) for name, score in self.scores.items()})


@dataclass(frozen=True)
class Kept:
    """Of one evaluation: lengths of the parts as displacements, and scores; [B] each, where the predictions lie."""

    lengths: dict[Hashable, Tensor]
    scores: dict[Objective, Tensor]

    def rows(self) -> list[Tensor]:
        return [*self.lengths.values(), *self.scores.values()]

    def shares(self, rows: Iterator[list[float]]) -> dict[Hashable, list[float]]:
        """The next rows, as plain numbers -> what `figures` gives."""
        lengths = {name: next(rows) for name in self.lengths}
        unguided, other, gap, reach = (lengths.pop(name, []) for name in (UNGUIDED, OTHER, GAP, REACH))
        found = {name: [*map(_ratio, length, unguided)] for name, length in lengths.items()}
        if other:
            found[COSINE] = [*map(_cosine, unguided, other, gap)]
            found[EFFECTIVE] = [*map(_effective, lengths[TOTAL], reach, gap)]
        return found | {name: next(rows) for name in self.scores}


def figures(evaluations: list[Kept]) -> list[dict[Hashable, list[float]]]:
    """What evaluations of B samples each were made of: for each of them a number per sample by name.

    HOST: |D - D_positive| / |D_positive|, D the host's combination with other packs' hooks in it: CFG.
    A rule's place in the chain: |displacement| / |D_positive|, where it acted; of a transform, what it changed.
    TOTAL: |D' - D_positive| / |D_positive|.
    COSINE: between D_positive and D_negative, where both were evaluated.
    EFFECTIVE: there, <D' - D_negative, Delta> / <Delta, Delta> with Delta = D_positive - D_negative: the weight at
    which plain CFG goes as far that way (2602.22570, its effective scale).
    An objective: minus its loss; for a class its log-probability.

    Where a guider has no prompt named positive, the host's own D stands for D_positive. The device is waited for once,
    and quotients are plain numbers: on a small network every operation counts.
    """
    rows = iter(torch.stack([row for kept in evaluations for row in kept.rows()]).tolist())
    return [kept.shares(rows) for kept in evaluations]


def small_picture(picture: Tensor) -> Tensor:
    """[B, 3, H, W] in [-1, 1] -> [B, h, w, 3] uint8, no side longer than `SIDE`."""
    longest = max(picture.shape[-2:])
    if longest > SIDE:
        height, width = (max(1, round(side * SIDE / longest)) for side in picture.shape[-2:])
        picture = F.interpolate(picture.float(), size=(height, width), mode="area")
    return (picture.float() * 127.5).add_(128.0).clamp_(0.0, 255.0).to(torch.uint8).movedim(1, -1)  # cut off = rounded


def probability(scores: list[float]) -> list[float]:
    """From log-probabilities to probabilities."""
    return torch.tensor(scores, dtype=torch.float64).exp().tolist()


def _length(move: Tensor) -> Tensor:
    """[B, ...] -> [B]. One operation, which counts here; `algebra.norm` is three, and more exact for large samples."""
    exact = torch.promote_types(move.dtype, torch.float32)
    return torch.linalg.vector_norm(move, dim=tuple(range(1, move.ndim)), dtype=exact)


def _ratio(numerator: float, denominator: float) -> float:
    return numerator / denominator if denominator else 0.0


def _effective(beyond: float, reach: float, gap: float) -> float:
    """By the three sides of the triangle D_negative, D_positive, D'. 1 where the prompts agree: nothing is guided."""
    return (reach * reach + gap * gap - beyond * beyond) / (2.0 * gap * gap) if gap else 1.0


def _cosine(a: float, b: float, gap: float) -> float:
    """Of the angle between two sides of a triangle, by the third; exact also where the sides are almost one."""
    return min(max(_ratio(a * a + b * b - gap * gap, 2.0 * a * b), -1.0), 1.0)
