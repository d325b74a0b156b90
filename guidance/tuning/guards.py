"""Guards: what settings may not do to pictures, however well a judge likes them, measured against unguided pictures.

A judge that is the only aim can be cheated: colours that burn, hard contrast, one picture for every seed. Four numbers
of the finished pictures tell.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

import torch
import torch.nn.functional as F
from torch import Tensor

from ..rule import param

EDGE = 2 / 255  # a channel this near to black or full is clipped
SIDE = 8  # of the thumbnails between which variety is measured
SMALLEST = 1e-3  # unguided pictures of less have none: no ratio is taken to it


@dataclass(frozen=True)
class Look:
    """Of some pictures in [0, 1]: mean chroma (largest less smallest channel), the spread of their brightness, the
    share of clipped channels, and the mean distance between their thumbnails (root mean square; 0 of one alone)."""

    saturation: float
    contrast: float
    clipping: float
    variety: float


@dataclass(frozen=True)
class Limits:
    """How far the look of settings may lie from that of unguided pictures from the same noise; 0 = no limit."""

    saturation: float = param(
        1.5, "Most colour saturation, in times of the unguided pictures. 0 = no limit.",
        low=0.0, high=100.0, step=0.05, advanced=True,
    )  # fmt: skip
    contrast: float = param(
        1.5, "Most contrast, in times of the unguided pictures. 0 = no limit.",
        low=0.0, high=100.0, step=0.05, advanced=True,
    )  # fmt: skip
    clipping: float = param(
        0.1, "Most clipped (black or full) channels more than unguided, as a share of all. 0 = no limit.",
        low=0.0, high=1.0, advanced=True,
    )  # fmt: skip
    variety: float = param(
        0.7, "Least difference between the pictures, in times of the unguided. 0 = no limit.",
        low=0.0, high=10.0, step=0.05, advanced=True,
    )  # fmt: skip

    def excess(self, look: Look, unguided: Look) -> dict[str, float]:
        """By how much each limit is passed, as a share of it; at or below 0 it is kept. Only those that are set."""
        found = {}
        for name in ("saturation", "contrast"):
            most = getattr(self, name) * max(getattr(unguided, name), SMALLEST)
            found[name] = getattr(look, name) / most - 1.0 if most else 0.0
        if self.clipping:
            found["clipping"] = look.clipping - unguided.clipping - self.clipping
        if self.variety and unguided.variety > SMALLEST:
            found["variety"] = 1.0 - look.variety / (self.variety * unguided.variety)
        return {name: value for name, value in found.items() if getattr(self, name)}


def thumbnails(pictures: Tensor) -> Tensor:
    """Pictures [B, H, W, 3] in [0, 1] as bytes [B, 3, SIDE, SIDE], for `look_of`."""
    small = F.adaptive_avg_pool2d(_planes(pictures), SIDE)
    return (small * 255).round().to(torch.uint8).cpu()


def measure(pictures: Tensor) -> tuple[float, float, float]:
    """Saturation, contrast and clipping of pictures [B, H, W, 3], as in `Look`: means over the pictures."""
    planes = _planes(pictures)
    saturation = (planes.amax(1) - planes.amin(1)).mean()
    brightness = (planes * planes.new_tensor([0.299, 0.587, 0.114])[:, None, None]).sum(1)
    contrast = brightness.flatten(1).std(1, unbiased=False).mean()
    clipping = ((planes < EDGE) | (planes > 1 - EDGE)).float().mean()
    return float(saturation), float(contrast), float(clipping)


def look_of(measures: Sequence[tuple[float, float, float]], thumbs: Tensor) -> Look:
    """The look of several runs together. measures: of each; thumbs: of all their pictures [N, 3, SIDE, SIDE]."""
    means = [sum(column) / len(measures) for column in zip(*measures, strict=True)]
    flat = thumbs.flatten(1).float() / 255
    pairs = torch.pdist(flat) / flat.shape[1] ** 0.5
    return Look(*means, variety=float(pairs.mean()) if len(pairs) else 0.0)


def describe(excess: dict[str, float]) -> str:
    """Which limits are passed, in words; empty where none is."""
    names = [f.name for f in fields(Limits) if excess.get(f.name, 0.0) > 0.0]
    words = {"variety": "too little variety", "clipping": "too much clipping"}
    return ", ".join(words.get(name, f"too much {name}") for name in names)


def _planes(pictures: Tensor) -> Tensor:
    return pictures[..., :3].movedim(-1, 1).float().clamp(0, 1)
