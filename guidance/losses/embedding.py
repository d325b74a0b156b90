"""Similarity of embeddings: the picture is to mean what a text or another picture means."""

from __future__ import annotations

from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor

from ..loss import Loss, loss

SHORT = 1e-4  # vectors shorter than this have no direction


@loss("embedding")
@dataclass(frozen=True)
class Embedding(Loss):
    """L = 1 - <e, t> / (|e| |t|)      one minus the cosine similarity of CLIP, 2103.00020 Section 2.3

    0 to 2; e and t are vectors [B, E] of any length. 1 where one of them is zero.
    """

    title = "similarity"
    reads = frozenset({"embedding"})

    def compare(self, output: Tensor, target: Tensor) -> Tensor:
        return 1 - F.cosine_similarity(output, target, dim=1, eps=SHORT)
