"""What the worlds' renderers share: pixel centres, values of a batch as planes, and colours."""

from __future__ import annotations

import torch
from torch import Tensor


def pixel_grid(size: int) -> tuple[Tensor, Tensor]:
    """Pixel centres in pixels from the middle, y up: two planes [1, size, size]."""
    line = torch.arange(size, dtype=torch.float32) + 0.5 - size / 2
    y, x = torch.meshgrid(-line, line, indexing="ij")
    return x[None], y[None]


def plane(values: Tensor) -> Tensor:
    """Values per picture [B] in the shape that meets planes: [B, 1, 1]."""
    return values[:, None, None]


def rgb(hue: Tensor, saturation: Tensor, value: Tensor) -> Tensor:
    """HSV to RGB, [B] each to [B, 3]: red, green and blue are one trapezoid wave over the hue, shifted by thirds."""
    shifted = hue[:, None] + torch.tensor([0.0, 2 / 3, 1 / 3])
    wave = ((shifted.remainder(1.0) * 6 - 3).abs() - 1).clamp(0, 1)
    return value[:, None] * (1 - saturation[:, None] * (1 - wave))
