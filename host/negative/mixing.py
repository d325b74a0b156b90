"""What all networks share: which samples of a call have the negative in their attention, and how much of it."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch

from ...guidance.negative_attention import NegativeAttention
from ..degrade.draws import on_rows, places


@dataclass(frozen=True)
class Mixing:
    """One call of a network.

    Attributes:
        weight: of every row of the call, float64 [rows].
        chosen: bool [rows], those that it acts on.
    """

    rule: NegativeAttention
    weight: torch.Tensor
    chosen: torch.Tensor

    @cached_property
    def rows(self) -> torch.Tensor:
        """The numbers of the chosen rows."""
        return self.chosen.nonzero()[:, 0]

    def mix(self, positive: torch.Tensor, negative: torch.Tensor) -> torch.Tensor:
        """The attention of a layer [layer's rows, tokens, channels] from that with either prompt.

        A layer may take the frames of a video, or the places of its picture, for rows.
        """
        weight = self.weight[places(len(self.weight), len(positive))]
        found = self.rule.steer(positive, negative, weight)
        return found if bool(self.chosen.all()) else on_rows(self.chosen, found, positive)
