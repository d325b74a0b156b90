"""Inspection: what one evaluation of the guided denoiser was made of. It looks on and changes no number.

Every figure is one number per sample, on the device of the predictions: nothing waits for it.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor

from .algebra import dot, norm, ratio
from .branch import NEGATIVE, POSITIVE, Branch

SIDE = 128  # the longest side of a kept picture


@dataclass
class Watch:
    """Told by the law what an evaluation is made of.

    Attributes:
        branches: the branches that were evaluated.
        cfg: the weight with which the host combined them, float64 [B] on the CPU.
        guided: D', the estimate that the sampler gets. [B, ...]
    """

    branches: frozenset[Branch] = frozenset()
    cfg: Tensor = field(init=False)
    guided: Tensor = field(init=False)
    _unguided: Tensor = field(init=False)
    _length: Tensor = field(init=False)  # all of them [B, 1, ...]
    _moves: dict[Hashable, Tensor] = field(default_factory=dict)
    _others: dict[Hashable, Tensor] = field(default_factory=dict)

    def combined(self, denoised: Tensor, branches: Mapping[Branch, Tensor], cfg: Tensor) -> None:
        """The host's combination [B, ...] of these branches at these weights [B], before any rule."""
        self.branches, self.cfg = frozenset(branches), cfg
        positive, negative = branches.get(POSITIVE), branches.get(NEGATIVE)
        self._unguided = denoised if positive is None else positive
        self._length = norm(self._unguided)
        self.moved("host", denoised - self._unguided)
        if positive is not None and negative is not None:
            cosine = ratio(dot(positive, negative), self._length * norm(negative))
            self._others["cosine"] = cosine.clamp(-1.0, 1.0)

    def moved(self, name: Hashable, change: Tensor) -> None:
        """What a part of the guidance added to the estimate, [B, ...]; a rule's name is its place in the chain."""
        self._moves[name] = norm(change)

    def scored(self, objective: Hashable, scores: Tensor) -> None:
        """Minus the loss that a guide found, [B]."""
        self._others[objective] = scores

    def guided_to(self, denoised: Tensor) -> None:
        """The estimate [B, ...] after all rules."""
        self.guided = denoised
        self.moved("total", denoised - self._unguided)

    def figures(self) -> tuple[tuple[Hashable, ...], Tensor]:
        """What was seen: names, and a number for each and for every sample, [K, B].

        "host": |D - D_positive| / |D_positive|, D the host's combination with other packs' hooks in it: CFG.
        A rule's place in the chain: |displacement| / |D_positive|, where it acted; of a transform, what it changed.
        "total": |D' - D_positive| / |D_positive|.
        "cosine": between D_positive and D_negative, where both were evaluated.
        An objective: minus its loss; for a class its log-probability.

        Where a guider has no prompt named positive, the host's own D stands for D_positive.
        """
        moves = ratio(torch.stack([move.flatten() for move in self._moves.values()]), self._length.flatten())
        others = [other.flatten().to(moves) for other in self._others.values()]
        return (*self._moves, *self._others), torch.cat([moves, torch.stack(others)]) if others else moves


def small_picture(picture: Tensor) -> Tensor:
    """[B, 3, H, W] in [-1, 1] -> [B, h, w, 3] uint8, no side longer than `SIDE`."""
    longest = max(picture.shape[-2:])
    if longest > SIDE:
        height, width = (max(1, round(side * SIDE / longest)) for side in picture.shape[-2:])
        picture = F.interpolate(picture.float(), size=(height, width), mode="area")
    return ((picture.movedim(1, -1).float() + 1.0) * 127.5).round().clamp(0.0, 255.0).to(torch.uint8)


def probability(scores: list[float]) -> list[float]:
    """From log-probabilities to probabilities."""
    return torch.tensor(scores, dtype=torch.float64).exp().tolist()
