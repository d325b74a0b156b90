"""Draws pictures of the shapes world with their exact depth and segmentation maps."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from world.draws import Draws
from world.planes import pixel_grid, plane, rgb
from world.shapes import LABELS, signed_distance

SIZE = 32
_SIMPLE = 3  # a distractor is one of the first kinds (circle, square, triangle): readable even when small


@dataclass(frozen=True)
class Pictures:
    """A batch of pictures and the truth about them.

    Attributes:
        images: float32 [B, 3, 32, 32] in [-1, 1].
        labels: int64 [B], index into LABELS: the kind of the main (largest) shape.
        depth: float32 [B, 1, 32, 32] in (0, 1]; 1 is the background, a larger main shape is nearer, whatever covers
            something is nearer than what it covers.
        segmentation: int64 [B, 32, 32]; 0 is the background, else label + 1 of the foremost shape at a pixel's centre.
    """

    images: Tensor
    labels: Tensor
    depth: Tensor
    segmentation: Tensor


@dataclass(frozen=True)
class _Thing:
    """One flat shape: labels [B], centre and radius in pixels [B], turn in radians [B], hue [B] and the colour made
    with it [B, 3], depth [B]."""

    labels: Tensor
    x: Tensor
    y: Tensor
    radius: Tensor
    turn: Tensor
    hue: Tensor
    colour: Tensor
    depth: Tensor


def render(indices: int | Tensor, seed: int = 0, labels: Tensor | None = None) -> Pictures:
    """Draw the numbered pictures of the world with this seed.

    A picture is determined by (seed, index) alone. Labels cycle through LABELS by index, so that any run of ten
    pictures is balanced.

    Args:
        indices: how many pictures (the first ones), or int64 [B], which.
        seed: which world.
        labels: int64 [B] to draw other kinds than the indices'; everything else stays as it was.

    Raises:
        ValueError: indices that are not one row of whole numbers, or labels outside LABELS.
    """
    numbers = _checked_indices(indices)
    kinds = numbers.remainder(len(LABELS)) if labels is None else _checked_labels(labels, len(numbers))
    draws = Draws(seed, numbers)
    canvas, dark = _background(draws)
    main = _main_thing(draws, kinds, dark)
    other, in_front, behind = _distractor(draws, main, dark)
    depth, segmentation = torch.ones(len(numbers), SIZE, SIZE), torch.zeros(len(numbers), SIZE, SIZE, dtype=torch.int64)
    layers = (canvas, depth, segmentation)
    for thing, present in ((other, behind), (main, torch.ones_like(behind)), (other, in_front)):
        layers = _paint(layers, thing, present)
    canvas, depth, segmentation = layers
    return Pictures(canvas.clamp(0, 1) * 2 - 1, kinds, depth[:, None], segmentation)


def _checked_indices(indices: int | Tensor) -> Tensor:
    if isinstance(indices, int):
        return torch.arange(indices)
    if indices.ndim != 1 or indices.is_floating_point():
        raise ValueError(
            f"render got indices of shape {list(indices.shape)} and type {indices.dtype}; give a count or one row of "
            "whole numbers, such as torch.arange(16)."
        )
    return indices.to(torch.int64)


def _checked_labels(labels: Tensor, count: int) -> Tensor:
    allowed = f"{count} whole numbers from 0 ({LABELS[0]}) to {len(LABELS) - 1} ({LABELS[-1]})"
    if labels.shape != (count,) or labels.is_floating_point():
        raise ValueError(f"render got labels of shape {list(labels.shape)} and type {labels.dtype}; give {allowed}.")
    if count and (labels.min() < 0 or labels.max() >= len(LABELS)):
        raise ValueError(f"render got labels from {labels.min()} to {labels.max()}; give {allowed}.")
    return labels.to(torch.int64)


def _background(draws: Draws) -> tuple[Tensor, Tensor]:
    """Plain, gradient or soft texture, in a dark or a pale tone: canvas [B, 3, 32, 32] and whether dark [B]."""
    dark = draws.uniform() < 0.5
    hue = draws.uniform()
    saturation = torch.where(dark, draws.uniform(0.2, 0.6), draws.uniform(0.05, 0.25))
    value = torch.where(dark, draws.uniform(0.18, 0.4), draws.uniform(0.75, 0.93))
    style = draws.integer(3)
    turn = draws.uniform(0, 2 * torch.pi)
    x, y = pixel_grid(SIZE)
    along = (x * plane(turn.cos()) + y * plane(turn.sin())) / SIZE
    across = (y * plane(turn.cos()) - x * plane(turn.sin())) / SIZE
    phase, waves = plane(draws.uniform(0, 2 * torch.pi)), plane(draws.uniform(2.0, 3.0))
    texture = 0.5 * (torch.sin(2 * torch.pi * waves * along + phase) + torch.sin(2 * torch.pi * waves * across - phase))
    strength = plane(torch.where(dark, 0.12, 0.16))
    change = torch.where(plane(style == 1), along * 1.6, torch.where(plane(style == 2), texture * 0.55, 0.0))
    return rgb(hue, saturation, value)[:, :, None, None] + (change * strength)[:, None], dark


def _foreground_colour(draws: Draws, dark: Tensor, hue: Tensor) -> Tensor:
    """Saturated, and bright on a dark background but deeper on a pale one, so that the outline always shows."""
    value = torch.where(dark, draws.uniform(0.75, 0.95), draws.uniform(0.4, 0.7))
    return rgb(hue, draws.uniform(0.6, 0.9), value)


def _main_thing(draws: Draws, labels: Tensor, dark: Tensor) -> _Thing:
    radius = draws.uniform(7.5, 11.0)
    room = SIZE / 2 - radius  # the shape stays in the picture up to about a pixel
    x, y = draws.uniform(-1, 1) * room, draws.uniform(-1, 1) * room
    turn, hue = draws.uniform(-0.6, 0.6), draws.uniform()
    return _Thing(labels, x, y, radius, turn, hue, _foreground_colour(draws, dark, hue), 4.5 / radius)


def _distractor(draws: Draws, main: _Thing, dark: Tensor) -> tuple[_Thing, Tensor, Tensor]:
    """A smaller thing at the main shape's rim, with whether it is in front [B] and whether behind [B], or neither."""
    fate, angle = draws.uniform(), draws.uniform(0, 2 * torch.pi)
    in_front, behind = fate < 0.18, (fate >= 0.18) & (fate < 0.4)
    distance = main.radius * torch.where(in_front, draws.uniform(0.9, 1.1), draws.uniform(0.85, 1.1))
    limit = SIZE / 2 - 2
    x = (main.x + distance * angle.cos()).clamp(-limit, limit)
    y = (main.y + distance * angle.sin()).clamp(-limit, limit)
    radius = torch.where(in_front, draws.uniform(3.2, 4.2), draws.uniform(4.0, 5.5))
    depth = torch.where(in_front, main.depth * 0.7, 0.5 * (main.depth + 1.0))
    kinds, turn = draws.integer(_SIMPLE), draws.uniform(-0.6, 0.6)
    hue = main.hue + draws.uniform(0.2, 0.8)  # never the main shape's own, or the two would run together
    thing = _Thing(kinds, x, y, radius, turn, hue, _foreground_colour(draws, dark, hue), depth)
    return thing, in_front, behind


def _paint(layers: tuple[Tensor, Tensor, Tensor], thing: _Thing, present: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Lay a thing over canvas, depth and segmentation. Colour is blended over one pixel; the maps change where the
    pixel's centre is inside, so they stay exact."""
    canvas, depth, segmentation = layers
    x, y = pixel_grid(SIZE)
    dx, dy = (x - plane(thing.x)) / plane(thing.radius), (y - plane(thing.y)) / plane(thing.radius)
    cos, sin = plane(thing.turn.cos()), plane(thing.turn.sin())
    rows = present.nonzero().squeeze(1)
    u, v = (dx * cos + dy * sin)[rows], (dy * cos - dx * sin)[rows]
    distance = torch.full_like(dx, 1e3)
    distance[rows] = signed_distance(thing.labels[rows], u, v) * plane(thing.radius[rows])
    light = (1 + 0.12 * (dy - dx).clamp(-1.5, 1.5))[:, None]  # lit from the upper left
    cover = (0.5 - distance).clamp(0, 1)[:, None]
    canvas = canvas + cover * (thing.colour[:, :, None, None] * light - canvas)
    inside = distance < 0
    depth = torch.where(inside, plane(thing.depth), depth)
    return canvas, depth, torch.where(inside, plane(thing.labels) + 1, segmentation)
