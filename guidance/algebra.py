"""Per-sample algebra on tensors [B, ...] of any rank.

Every reduction runs over all dimensions but the batch, so that a picture means the same alone and in a batch, and
pictures, video and audio are treated alike. Computed in float32 or better; dtype and device of the input are kept.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor


def dot(a: Tensor, b: Tensor) -> Tensor:
    """Inner product per sample: [B, ...], [B, ...] -> [B, 1, ...]."""
    return _reduce(torch.sum, _exact(a) * _exact(b))


def norm(a: Tensor) -> Tensor:
    """Euclidean norm per sample: [B, ...] -> [B, 1, ...]."""
    return dot(a, a).sqrt()


def cosine(a: Tensor, b: Tensor) -> Tensor:
    """Of the angle between two per sample: [B, ...], [B, ...] -> [B, 1, ...]; 0 where one of them is 0."""
    return ratio(dot(a, b), norm(a) * norm(b))


def std(a: Tensor) -> Tensor:
    """Standard deviation per sample, over the whole sample: [B, ...] -> [B, 1, ...]."""
    a = _exact(a)
    return _reduce(torch.mean, (a - _reduce(torch.mean, a)) ** 2).sqrt()


def parallel(a: Tensor, b: Tensor) -> Tensor:
    """The part of `a` along `b`, per sample; zero where `b` is zero: [B, ...]."""
    share = ratio(dot(a, b), dot(b, b))
    return (_exact(b) * share).to(a.dtype)


def shorten(a: Tensor, longest: float | Tensor) -> Tensor:
    """Every sample brought to a largest norm: [B, ...]. longest: a number, or one per sample [B, 1, ...]."""
    length = norm(a)
    limit = longest + torch.zeros_like(length)
    return a * ratio(limit, length, at_zero=1.0).clamp(max=1.0).to(a.dtype)


def length(a: Tensor) -> Tensor:
    """Euclidean norm over the channels, at every place of a sample: [B, C, ...] -> [B, 1, ...]."""
    return torch.linalg.vector_norm(_exact(a), dim=1, keepdim=True)


def coarse(a: Tensor) -> Tensor:
    """What one level of a Laplacian pyramid keeps: down to half the size and up again. [B, C, ...] -> the same.

    Over height and width of every frame, or over the one axis of [B, C, T]. Blurs by (1, 4, 6, 4, 1) / 16, mirrored at
    the edges, and goes straight between pixels (Burt & Adelson 1983; as kornia's pyrdown and pyrup).
    """
    found = _exact(a)
    for axis in range(max(2, a.ndim - 2), a.ndim):
        found = _coarse_line(found.movedim(axis, -1)).movedim(-1, axis)
    return found.to(a.dtype)


def _coarse_line(a: Tensor) -> Tensor:
    """`coarse` along the last axis."""
    size = a.shape[-1]
    line = _blur(a.reshape(-1, 1, size))
    for wanted in (max(1, size // 2), size):
        line = F.interpolate(line, wanted, mode="linear", align_corners=False)
    return _blur(line).reshape(a.shape)


def _blur(line: Tensor) -> Tensor:
    """[N, 1, L] -> the same, blurred; an axis too short to be mirrored is continued instead."""
    kernel = torch.tensor([1.0, 4.0, 6.0, 4.0, 1.0], dtype=line.dtype, device=line.device).reshape(1, 1, 5) / 16
    return F.conv1d(F.pad(line, (2, 2), mode="reflect" if line.shape[-1] > 2 else "replicate"), kernel)


def fine(a: Tensor, cutoff: float, steepness: float = 50.0) -> Tensor:
    """What of a sample varies fast: its cosine transform times sigmoid(steepness (R - cutoff)): [B, C, ...].

    Over the axes of `coarse`; R is the length of the frequencies, each as a share of the highest (2509.22300 Eq. 8).
    """
    found = _exact(a)
    radius = found.new_zeros(1)
    axes = range(max(2, a.ndim - 2), a.ndim)
    for axis in axes:
        size = a.shape[axis]
        found = (found.movedim(axis, -1) @ _cosines(size, found).T).movedim(-1, axis)
        share = torch.arange(size, dtype=found.dtype, device=a.device) / size
        radius = radius + share.square().reshape(-1, *[1] * (a.ndim - 1 - axis))
    found = found * torch.sigmoid(steepness * (radius.sqrt() - cutoff))
    for axis in axes:
        found = (found.movedim(axis, -1) @ _cosines(a.shape[axis], found)).movedim(-1, axis)
    return found.to(a.dtype)


def _cosines(size: int, like: Tensor) -> Tensor:
    """The orthonormal cosine transform (DCT-II) as a matrix [frequency, place]."""
    place = torch.arange(size, dtype=like.dtype, device=like.device)
    matrix = torch.cos(math.pi / size * (place + 0.5) * place.unsqueeze(1)) * math.sqrt(2.0 / size)
    return torch.where(place.unsqueeze(1) == 0, math.sqrt(1.0 / size), matrix)


def quantile(a: Tensor, share: float) -> Tensor:
    """The value below which this share of a sample's numbers lies, straight between neighbours: [B, 1, ...].

    torch.quantile gives the same, but refuses large samples and has no half precision.
    """
    numbers = _exact(a).flatten(1)
    place = share * (numbers.shape[1] - 1)
    below = int(place)
    first = numbers.kthvalue(below + 1).values
    second = numbers.kthvalue(min(below + 2, numbers.shape[1])).values
    return torch.lerp(first, second, place - below).reshape(-1, *[1] * (a.ndim - 1))


def ratio(numerator: Tensor, denominator: Tensor, at_zero: float = 0.0) -> Tensor:
    """numerator / denominator, `at_zero` where the denominator is 0."""
    zero = denominator == 0
    return torch.where(zero, at_zero, numerator / torch.where(zero, 1.0, denominator))


def _exact(a: Tensor) -> Tensor:
    return a if a.dtype in (torch.float32, torch.float64) else a.float()


def _reduce(how, a: Tensor) -> Tensor:
    return how(a, dim=tuple(range(1, a.ndim)), keepdim=True)
