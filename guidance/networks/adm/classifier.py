"""ADM's classifiers of noisy pictures: the way down of its U-Net and attention pooling.

Source: Dhariwal and Nichol 2021 (2105.05233), section 4 and appendix H; attention pooling after Radford et al. 2021
(2103.00020). Tensor names are those of the released files.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .blocks import Layers, Stem, attend, exact_dtype
from .config import ClassifierConfig


class AttentionPool(nn.Module):
    """What the mean of all places asks of them."""

    def __init__(self, channels: int, config: ClassifierConfig, layers: Layers) -> None:
        super().__init__()
        self.heads = config.heads_of(channels)
        self.positional_embedding = nn.Parameter(layers.empty(channels, config.positions))
        self.qkv_proj = layers.pointwise(channels, 3 * channels, exact=True)
        self.c_proj = layers.pointwise(channels, config.classes, exact=True)

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, h, w] -> [B, K]."""
        places = x.flatten(2)
        places = torch.cat([places.mean(dim=2, keepdim=True), places], dim=2) + self.positional_embedding.to(x)
        return self.c_proj(attend(self.qkv_proj(places), self.heads, "new"))[:, :, 0]


class AdmClassifier(Stem):
    """Tells the class of a noisy picture.

    Args:
        operations, device, dtype: as in `blocks.Layers`.
        config: the fields of ClassifierConfig.
    """

    config: ClassifierConfig

    def __init__(self, *, operations: Any = nn, device: Any = None, dtype: Any = None, **config: Any) -> None:
        c, layers = ClassifierConfig(**config), Layers(operations, device, dtype)
        super().__init__(c, layers)
        last = c.widths[-1]
        self.out = nn.ModuleDict({"0": layers.norm(last), "2": AttentionPool(last, c, layers)})

    def forward(self, x: Tensor, timesteps: Tensor | None = None) -> Tensor:
        """Class scores (logits) of a noisy batch.

        Args:
            x: [B, 3, size, size] in VP coordinates, sqrt(alpha_bar) x0 + sqrt(1 - alpha_bar) n with x0 in [-1, 1].
            timesteps: [B] in 0 .. 999 of its own schedule, fractions allowed.

        Returns:
            [B, classes], in float32 at least.

        Raises:
            ValueError: a picture of another size, or no timesteps.
        """
        if timesteps is None:
            raise ValueError("this classifier was trained on noisy pictures; it needs their timesteps, 0 to 999.")
        hidden, _ = self.encode(x, self.embed(timesteps, x.dtype))
        hidden = hidden.to(exact_dtype(hidden.dtype))
        pooled = F.silu(self.out["0"](hidden))
        return self.out["2"](pooled)

    def _check(self, x: Tensor) -> None:
        super()._check(x)
        places = (x.shape[-2] // self.config.stride) * (x.shape[-1] // self.config.stride)
        if places + 1 != self.config.positions:
            side = round((self.config.positions - 1) ** 0.5) * self.config.stride
            raise ValueError(f"this classifier sees pictures of {side}x{side} pixels, not {x.shape[-1]}x{x.shape[-2]}.")
