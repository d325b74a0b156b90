"""Cutouts: random crops of a picture, so that an embedding judges it at many places and sizes."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from einops import rearrange
from torch import Tensor

from .seeds import generator_of


@dataclass(frozen=True)
class Cutouts:
    """Square crops, the same for every picture of a batch, drawn anew at every step of the sampler.

    Attributes:
        count: crops per picture.
        seed: the same seed and step give the same crops.
        smallest: side of the smallest crop as a share of the picture's shorter side; the largest is all of it.
        size: side of the crops in pixels after resizing.

    Raises ValueError for a count or size below 1, or a share that is not above 0 and at most 1.
    """

    count: int
    seed: int = 0
    smallest: float = 0.4
    size: int = 224

    def __post_init__(self) -> None:
        for word, value in (("count", self.count), ("size", self.size)):
            if value < 1:
                raise ValueError(f"Cutouts: {word} is {value}; it must be 1 or more.")
        if not 0 < self.smallest <= 1:
            raise ValueError(f"Cutouts: smallest is {self.smallest:g}; it is a share above 0, at most 1.")

    def __call__(self, picture: Tensor, position: int) -> Tensor:
        """[B, 3, H, W] -> [B * count, 3, size, size], the crops of a picture next to each other. Differentiable."""
        from kornia.geometry.transform import crop_by_indices

        boxes = self.boxes(picture.shape[-2], picture.shape[-1], position)
        crops = [
            crop_by_indices(picture, _corners(*box).expand(len(picture), 4, 2), (self.size, self.size), antialias=True)
            for box in boxes.tolist()
        ]
        return rearrange(crops, "count b c h w -> (b count) c h w")

    def boxes(self, height: int, width: int, position: int) -> Tensor:
        """Left, top and side of the crops in pixels, all inside the picture: int64 [count, 3]."""
        draws = torch.rand(self.count, 3, dtype=torch.float64, generator=generator_of(self.seed, position))
        shorter = min(height, width)
        side = (shorter * (self.smallest + (1 - self.smallest) * draws[:, 0])).round().clamp(1, shorter)
        left, top = (draws[:, 1] * (width - side + 1)).floor(), (draws[:, 2] * (height - side + 1)).floor()
        return torch.stack([left, top, side], 1).long()


def _corners(left: int, top: int, side: int) -> Tensor:
    """The corner pixels of a square, clockwise from the top left, as (x, y): [1, 4, 2]."""
    right, bottom = left + side - 1, top + side - 1
    return torch.tensor([[(left, top), (right, top), (right, bottom), (left, bottom)]])
