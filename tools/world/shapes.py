"""The ten kinds of shapes as signed-distance functions.

Each function takes points [N, H, W] as two planes x (right) and y (up), in units of the shape's radius, and returns the
signed distance [N, H, W] to the outline in the same unit: negative inside. Distances are exact near the outline, which
is all that anti-aliasing needs.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

Point = tuple[float, float]


def _disc(x: Tensor, y: Tensor, centre: Point, radius: float) -> Tensor:
    return torch.hypot(x - centre[0], y - centre[1]) - radius


def _box(x: Tensor, y: Tensor, half_width: float, half_height: float) -> Tensor:
    beyond_x, beyond_y = x.abs() - half_width, y.abs() - half_height
    outside = torch.hypot(beyond_x.clamp(min=0), beyond_y.clamp(min=0))
    return outside + torch.maximum(beyond_x, beyond_y).clamp(max=0)


def _polygon(x: Tensor, y: Tensor, corners: Sequence[Point]) -> Tensor:
    """Distance to the nearest edge, negative where a ray to the right crosses the outline an odd number of times."""
    nearest = torch.full_like(x, math.inf)
    inside = torch.zeros_like(x, dtype=torch.bool)
    for (ax, ay), (bx, by) in zip(corners, [*corners[1:], corners[0]], strict=True):
        ex, ey = bx - ax, by - ay
        dx, dy = x - ax, y - ay
        along = ((dx * ex + dy * ey) / (ex * ex + ey * ey)).clamp(0, 1)
        nearest = torch.minimum(nearest, (dx - along * ex).square() + (dy - along * ey).square())
        if ey != 0:
            inside ^= ((y >= ay) != (y >= by)) & (dx < dy * (ex / ey))
    return nearest.sqrt() * torch.where(inside, -1.0, 1.0)


def _wheel(radii: Sequence[float], points: int) -> list[Point]:
    """Corners around the centre, the first one straight up, taking the radii in turn."""
    corners = []
    for i in range(points):
        angle, radius = 2 * math.pi * i / points, radii[i % len(radii)]
        corners.append((radius * math.sin(angle), radius * math.cos(angle)))
    return corners


def _circle(x: Tensor, y: Tensor) -> Tensor:
    return _disc(x, y, (0, 0), 0.92)


def _square(x: Tensor, y: Tensor) -> Tensor:
    return _box(x, y, 0.8, 0.8)


def _triangle(x: Tensor, y: Tensor) -> Tensor:
    return _polygon(x, y + 0.2, _wheel((1.15,), 3))


def _star(x: Tensor, y: Tensor) -> Tensor:
    return _polygon(x, y, _wheel((1.15, 0.48), 10))


def _ring(x: Tensor, y: Tensor) -> Tensor:
    return (torch.hypot(x, y) - 0.72).abs() - 0.24


def _cross(x: Tensor, y: Tensor) -> Tensor:
    return torch.minimum(_box(x, y, 1.0, 0.3), _box(x, y, 0.3, 1.0))


def _heart(x: Tensor, y: Tensor) -> Tensor:
    """A square standing on its corner and a disc over each of its two upper edges."""
    side, half = 1.15, 0.5**0.5
    y = y + 0.1
    lobe = side / 2 * half
    tilted = _box((x + y) * half, (y - x) * half, side / 2, side / 2)
    lobes = torch.minimum(_disc(x, y, (-lobe, lobe), side / 2), _disc(x, y, (lobe, lobe), side / 2))
    return torch.minimum(tilted, lobes)


def _moon(x: Tensor, y: Tensor) -> Tensor:
    return torch.maximum(_disc(x, y, (0, 0), 1.0), -_disc(x, y, (0.5, 0.1), 0.8))


def _arrow(x: Tensor, y: Tensor) -> Tensor:
    corners = [(0.0, 1.1), (0.9, 0.1), (0.32, 0.1), (0.32, -1.0), (-0.32, -1.0), (-0.32, 0.1), (-0.9, 0.1)]
    return _polygon(x, y, corners)


def _pill(x: Tensor, y: Tensor) -> Tensor:
    return torch.hypot(x - x.clamp(-0.7, 0.7), y) - 0.38


DISTANCES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "circle": _circle,
    "square": _square,
    "triangle": _triangle,
    "star": _star,
    "ring": _ring,
    "cross": _cross,
    "heart": _heart,
    "moon": _moon,
    "arrow": _arrow,
    "pill": _pill,
}
LABELS: tuple[str, ...] = tuple(DISTANCES)


def signed_distance(labels: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """Signed distance of each picture's own shape.

    Args:
        labels: int64 [B], index into LABELS.
        x, y: [B, H, W], the pixel centres in units of the shape's radius; y points up.
    """
    distance = torch.empty_like(x)
    for label, function in enumerate(DISTANCES.values()):
        chosen = (labels == label).nonzero().squeeze(1)
        if len(chosen):
            distance[chosen] = function(x[chosen], y[chosen])
    return distance
