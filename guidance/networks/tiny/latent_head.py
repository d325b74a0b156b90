"""A small network that looks at a model's latents, of any size, and says what a network of pictures would say."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .guide import STRIDE, TinyGuide

WIDTH = 48  # channels after the first layer


class LatentHead(nn.Module):
    """The tiny guide's network on latents [B, channels, h, w].

    Args:
        channels: of the latents.
        task: classification, depth, segmentation or score.
        outputs: classes, of classification and segmentation; 1 of the others.
        width: channels after the first layer.

    Attributes:
        settings: the arguments, as JSON keeps them.

    Raises:
        ValueError: settings that cannot be.
    """

    def __init__(self, channels: int, task: str, outputs: int, width: int = WIDTH) -> None:
        super().__init__()
        self.settings: dict[str, Any] = {"channels": channels, "task": task, "outputs": outputs, "width": width}
        maps = task in ("depth", "segmentation")
        self.network = TinyGuide(
            task=task if maps else "classification", num_classes=outputs - 1 if maps else outputs, width=width,
            patch=1, channels=channels,
        )

    def forward(self, input: Tensor, timestep: Tensor | None = None) -> Tensor:
        """[B, C, h, w] -> [B, outputs], or a map [B, outputs, h, w] on the latents' own grid."""
        height, width = input.shape[-2:]
        found = self.network(F.pad(input, (0, -width % STRIDE, 0, -height % STRIDE), mode="replicate"))
        return found if found.ndim == 2 else found[..., :height, :width]

    def initialise(self, seed: int) -> None:
        """Draw all weights anew."""
        self.network.initialise(torch.Generator().manual_seed(seed))
