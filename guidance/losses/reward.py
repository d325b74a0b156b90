"""The reward of PickScore, HPS and other CLIPs that learned which pictures people prefer for a text."""

from __future__ import annotations

from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor

from ..loss import Loss, loss
from .embedding import SHORT


@loss("reward")
@dataclass(frozen=True)
class TextReward(Loss):
    """L = - exp(tau) <e, t> / (|e| |t|)      minus the score of PickScore, 2305.01569 Eq. 1, and HPS v2, 2306.09341

    e is the picture's vector [B, E]; the target is the text's, as long as exp(tau), the network's own logit_scale. Its
    gradient is that of `embedding` times exp(tau), 100 for most CLIPs.
    """

    title = "reward of a text"
    reads = frozenset({"embedding"})
    wants_text = True

    def compare(self, output: Tensor, target: Tensor) -> Tensor:
        return -(F.normalize(output, dim=1, eps=SHORT) * target).sum(1)
