"""From a picture in [-1, 1] to what a guide network takes, with a gradient all the way."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor

Filter = Literal["bilinear", "bicubic"]
LARGEST = 4096  # side of what a network may be given, in pixels; a multiple is at most LARGEST_MULTIPLE
LARGEST_MULTIPLE = 256
_LARGEST = 1e6  # of colours, as a file may give them


@dataclass(frozen=True)
class Preprocessing:
    """Resize, crop, scale, normalise.

    Attributes:
        size: (height, width) the network takes; None = pictures as they come. The picture is resized until it covers
            the size and its middle is cut out, so that nothing is stretched; a square picture is seen whole.
        multiple: where nothing is cut out, height and width become multiples of this, the nearest ones.
        black, white: the numbers of black and white before normalisation.
        mean, std: per channel, as the network was trained.
        filter, antialias: how to resize. Old torchvision did not antialias tensors (PPAP's DeiT).
        whole: nothing is cut out: the shorter side becomes that of `size`, the longer one keeps the picture's shape.
        within: where nothing is cut out, the longer side becomes that of `size` instead.

    Raises:
        ValueError: a size, number or word that cannot be, in words.
    """

    size: tuple[int, int] | None = None
    multiple: int = 1
    black: float = 0.0
    white: float = 1.0
    mean: tuple[float, ...] = (0.0, 0.0, 0.0)
    std: tuple[float, ...] = (1.0, 1.0, 1.0)
    filter: Filter = "bilinear"
    antialias: bool = True
    whole: bool = False
    within: bool = False

    def __post_init__(self) -> None:
        if self.size is not None and not (_pair(self.size) and all(_whole(side, LARGEST) for side in self.size)):
            raise ValueError(f"its preprocessing has another size than height and width from 1 to {LARGEST}")
        if not _whole(self.multiple, LARGEST_MULTIPLE):
            raise ValueError(f"its preprocessing has another multiple than a whole number from 1 to {LARGEST_MULTIPLE}")
        if not (_numbers((self.black, self.white), 2) and _numbers(self.mean, 3) and _numbers(self.std, 3)):
            raise ValueError("its preprocessing needs numbers for black and white, three for mean and three for std")
        if not all(self.std) or self.filter not in get_args(Filter):
            raise ValueError(f"its preprocessing has a std of 0, or another filter than {', '.join(get_args(Filter))}")

    def __call__(self, picture: Tensor) -> Tensor:
        """[B, 3, H, W] in [-1, 1] (noisy pictures go beyond) -> [B, 3, h, w]."""
        scaled = self.black + (self.frame(picture) + 1) * ((self.white - self.black) / 2)
        mean, std = (torch.tensor(v, dtype=picture.dtype, device=picture.device) for v in (self.mean, self.std))
        return (scaled - mean.view(-1, 1, 1)) / std.view(-1, 1, 1)

    def frame(self, picture: Tensor, filter: Filter | Literal["nearest"] | None = None) -> Tensor:
        """Resizing and cropping alone, for maps that must lie over the picture: [B, C, H, W] -> [B, C, h, w]."""
        height, width = picture.shape[-2:]
        high, wide = self.input_size(height, width)
        factor = max(high / height, wide / width)
        cover = (max(high, round(height * factor)), max(wide, round(width * factor)))
        if self.size is None or self.whole:
            cover = (high, wide)
        if cover != (height, width):
            picture = resize(picture, cover, filter or self.filter, self.antialias)
        top, left = (cover[0] - high) // 2, (cover[1] - wide) // 2
        return picture[..., top : top + high, left : left + wide]

    def input_size(self, height: int, width: int) -> tuple[int, int]:
        """Height and width of the network's input for a picture of this size."""
        if self.size is not None and not self.whole:
            return self.size
        side = max if self.within else min
        factor = 1.0 if self.size is None else side(self.size) / side(height, width)
        m = self.multiple
        return max(m, round(height * factor / m) * m), max(m, round(width * factor / m) * m)


def _pair(value: Any) -> bool:
    return isinstance(value, tuple) and len(value) == 2


def _whole(value: Any, most: int) -> bool:
    return type(value) is int and 0 < value <= most


def _numbers(values: Any, count: int) -> bool:
    """Whether these are so many numbers, as a file may give them."""
    plain = isinstance(values, tuple) and len(values) == count
    return plain and all(type(value) in (int, float) and abs(value) < _LARGEST for value in values)


def resize(picture: Tensor, size: tuple[int, int], filter: str, antialias: bool = True) -> Tensor:
    """[B, C, H, W] -> [B, C, *size]."""
    if filter == "nearest":
        return F.interpolate(picture, size, mode="nearest-exact")
    # Not every device can antialias half precision.
    exact = picture if picture.dtype == torch.float64 else picture.float()
    return F.interpolate(exact, size, mode=filter, align_corners=False, antialias=antialias).to(picture.dtype)
