"""The draws of one evaluation, the same for every sample at the same noise level, whatever else is in its batch; and
the rows of that batch which a perturbation is for."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from ...guidance.perturbation import chance, key_of, normal, order, uniform


@dataclass(frozen=True)
class Draws:
    """What is drawn depends on the seed, the sample's noise level and the place in the network, on nothing else.

    So a sample is perturbed alone as it is in a batch, at any position, and the perturbed network is a function of its
    input like any other.
    """

    seed: int
    sigmas: tuple[float, ...]  # the model's own, one per row of the batch

    def uniform(self, like: torch.Tensor, place: str) -> torch.Tensor:
        """Numbers in (0, 1), [B, ...] or [1, ...], for a tensor [B, ...]."""
        return self._rows(uniform, like, place)

    def normal(self, like: torch.Tensor, place: str) -> torch.Tensor:
        """Standard normal numbers, [B, ...] or [1, ...], for a tensor [B, ...]."""
        return self._rows(normal, like, place)

    def hits(self, probability: float, place: str, rows: int) -> torch.Tensor:
        """1 for the rows in which something of this probability happens, else 0: float32 [rows] on the CPU."""
        return torch.tensor([float(chance(key_of(self.seed, s, place)) < probability) for s in self._of(rows)])

    def order(self, count: int, share: float, place: str, like: torch.Tensor) -> torch.Tensor:
        """Places of tokens, of which a share has changed, for each row of a tensor [B, ...]: int64 [B, count]."""
        sigmas = self._of(len(like))
        drawn = {s: order(count, share, key_of(self.seed, s, place), like.device) for s in dict.fromkeys(sigmas)}
        return torch.stack([drawn[s] for s in sigmas])

    def _rows(self, draw, like: torch.Tensor, place: str) -> torch.Tensor:
        sigmas = self._of(len(like))
        drawn = {s: draw(like.shape[1:], key_of(self.seed, s, place), like.device) for s in dict.fromkeys(sigmas)}
        return next(iter(drawn.values()))[None] if len(drawn) == 1 else torch.stack([drawn[s] for s in sigmas])

    def _of(self, rows: int) -> list[float]:
        """The noise level of each row."""
        return [self.sigmas[place] for place in places(len(self.sigmas), rows)]


def places(batch: int, rows: int) -> list[int]:
    """Where in the batch each of a network's own rows belongs: it may take the frames of a video for rows, or, for
    attention over time, the places of its picture."""
    return [row * batch // rows for row in range(rows)]


def spread_over(chosen: torch.Tensor, rows: int) -> torch.Tensor:
    """bool [batch] for a network's own rows [rows]."""
    return chosen[places(len(chosen), rows)]


def on_rows(chosen: torch.Tensor | None, perturbed: torch.Tensor, whole: torch.Tensor) -> torch.Tensor:
    """`perturbed` [rows, ...] in the chosen rows, `whole` in the others; None chooses all."""
    if chosen is None:
        return perturbed
    rows = spread_over(chosen, len(whole)).to(whole.device, non_blocking=True)
    return torch.where(rows.reshape(-1, *[1] * (whole.ndim - 1)), perturbed, whole)
