"""Draws 64x64 pictures of scenes: a thing of a named shape and colour before a named ground, with their exact maps."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from world.draws import Draws
from world.planes import pixel_grid, plane, rgb
from world.shapes import LABELS, signed_distance

SIZE = 64
HUES = {
    "red": 0.0, "orange": 0.075, "yellow": 0.145, "green": 0.34, "teal": 0.48, "blue": 0.61, "purple": 0.76,
    "pink": 0.9,
}
COLOURS: tuple[str, ...] = tuple(HUES)
GROUNDS: tuple[str, ...] = ("plain", "stripes", "checks", "dots", "waves")
WORDS: tuple[tuple[str, ...], ...] = (LABELS, COLOURS, GROUNDS)
_SIMPLE = 3  # the small thing is one of the first kinds (circle, square, triangle): readable even when small
_RIM = 1.8  # pixels


@dataclass(frozen=True)
class Scenes:
    """A batch of scenes and the truth about them.

    Attributes:
        images: float32 [B, 3, 64, 64] in [-1, 1].
        words: int64 [B, 3]: the main thing's shape, its colour and the ground, indices into WORDS.
        depth: float32 [B, 1, 64, 64] in (0, 1]; 1 is the ground, a larger main thing is nearer, whatever covers
            something is nearer than what it covers.
        segmentation: int64 [B, 64, 64]; 0 is the ground, else shape + 1 of the foremost thing at a pixel's centre.
    """

    images: Tensor
    words: Tensor
    depth: Tensor
    segmentation: Tensor

    @property
    def labels(self) -> Tensor:
        """int64 [B], index into LABELS."""
        return self.words[:, 0]


@dataclass(frozen=True)
class _Body:
    """One flat thing: shape [B], centre and radius in pixels [B], turn in radians [B], RGB [B, 3], depth [B]."""

    shape: Tensor
    x: Tensor
    y: Tensor
    radius: Tensor
    turn: Tensor
    colour: Tensor
    depth: Tensor

    def distance(self, x: Tensor, y: Tensor, rows: Tensor) -> Tensor:
        """Signed distance in pixels to the outline, [N, 64, 64], of the rows [N] of the batch."""
        radius, turn = plane(self.radius[rows]), plane(self.turn[rows])
        dx, dy = (x - plane(self.x[rows])) / radius, (y - plane(self.y[rows])) / radius
        u, v = dx * turn.cos() + dy * turn.sin(), dy * turn.cos() - dx * turn.sin()
        return signed_distance(self.shape[rows], u, v) * radius


def render_scenes(indices: Tensor, seed: int = 0) -> Scenes:
    """Draw the numbered scenes [B] of the world with this seed; a scene is determined by (seed, index) alone.

    Shapes cycle by index, so that any run of ten scenes is balanced; colour and ground are drawn.
    """
    draws = Draws(seed, indices)
    shape, colour, ground = indices.remainder(len(LABELS)), draws.integer(len(COLOURS)), draws.integer(len(GROUNDS))
    hue = torch.tensor(list(HUES.values()))[colour]
    canvas = _ground(draws, ground, hue)
    main = _main(draws, shape, hue)
    small, in_front, behind = _small(draws, main, colour)
    depth = torch.ones(len(indices), SIZE, SIZE)
    layers = (canvas, depth, torch.zeros(depth.shape, dtype=torch.int64))
    for body, present in ((small, behind), (main, torch.ones_like(behind)), (small, in_front)):
        layers = _paint(layers, body, present)
    canvas, depth, segmentation = layers
    return Scenes(canvas.clamp(0, 1) * 2 - 1, torch.stack([shape, colour, ground], 1), depth[:, None], segmentation)


def _bands(along: Tensor, period: Tensor) -> Tensor:
    """Signed distance in pixels to the edges of bands as wide as their gaps."""
    return ((along / period).remainder(1.0) - 0.5).abs() * period - period / 4


def _cover(distance: Tensor) -> Tensor:
    return (0.5 - distance).clamp(0, 1)


def _ground(draws: Draws, kind: Tensor, hue: Tensor) -> Tensor:
    """Two muted tones of a hue away from the main thing's, in the pattern of the kind: [B, 3, 64, 64]."""
    dark = draws.uniform() < 0.5
    hue = hue + draws.uniform(0.25, 0.75)
    saturation = torch.where(dark, draws.uniform(0.25, 0.55), draws.uniform(0.08, 0.25))
    value = torch.where(dark, draws.uniform(0.2, 0.36), draws.uniform(0.82, 0.95))
    other = value + torch.where(dark, draws.uniform(0.14, 0.2), -draws.uniform(0.14, 0.2))
    turn = draws.uniform(-0.5, 0.5) * math.pi
    period = plane(draws.uniform(12.0, 17.0))
    x, y = pixel_grid(SIZE)
    x, y = x + plane(draws.uniform(0, 17)), y + plane(draws.uniform(0, 17))
    u = x * plane(turn.cos()) + y * plane(turn.sin())
    v = y * plane(turn.cos()) - x * plane(turn.sin())
    stripe, cross = _cover(_bands(u, period)), _cover(_bands(v, period))
    centre_u, centre_v = (u / period).remainder(1.0) - 0.5, (v / period).remainder(1.0) - 0.5
    dots = _cover(torch.hypot(centre_u, centre_v) * period - 0.28 * period)
    waves = _cover(_bands(u + 0.3 * period * torch.sin(2 * math.pi * v / (1.5 * period)), period))
    patterns = (torch.zeros_like(stripe), stripe, stripe + cross - 2 * stripe * cross, dots, waves)
    mask = torch.stack(patterns, 1)[torch.arange(len(kind)), kind][:, None]
    first, second = rgb(hue, saturation, value), rgb(hue, saturation, other)
    return first[:, :, None, None] * (1 - mask) + second[:, :, None, None] * mask


def _main(draws: Draws, shape: Tensor, hue: Tensor) -> _Body:
    radius = draws.uniform(16.0, 22.0)
    room = SIZE / 2 - radius - 1
    x, y = draws.uniform(-1, 1) * room, draws.uniform(-1, 1) * room
    turn = draws.uniform(-0.45, 0.45)
    colour = rgb(hue + draws.uniform(-0.012, 0.012), draws.uniform(0.72, 0.9), draws.uniform(0.82, 0.95))
    return _Body(shape, x, y, radius, turn, colour, 9.0 / radius)


def _small(draws: Draws, main: _Body, colour: Tensor) -> tuple[_Body, Tensor, Tensor]:
    """A smaller thing of another colour at the main one's rim: in front [B], behind [B], or absent."""
    fate, angle = draws.uniform(), draws.uniform(0, 2 * math.pi)
    in_front, behind = fate < 0.16, (fate >= 0.16) & (fate < 0.34)
    distance = main.radius * draws.uniform(0.95, 1.15)
    limit = SIZE / 2 - 5
    x = (main.x + distance * angle.cos()).clamp(-limit, limit)
    y = (main.y + distance * angle.sin()).clamp(-limit, limit)
    radius = draws.uniform(6.5, 8.5)
    depth = torch.where(in_front, main.depth * 0.7, 0.5 * (main.depth + 1.0))
    other = (colour + 1 + draws.integer(len(COLOURS) - 1)).remainder(len(COLOURS))
    hue = torch.tensor(list(HUES.values()))[other]
    shape, turn = draws.integer(_SIMPLE), draws.uniform(-0.45, 0.45)
    body = _Body(shape, x, y, radius, turn, rgb(hue, draws.uniform(0.72, 0.9), draws.uniform(0.82, 0.95)), depth)
    return body, in_front, behind


def _paint(layers: tuple[Tensor, Tensor, Tensor], body: _Body, present: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Lay a thing with its shadow and rim over canvas, depth and segmentation. Colour is blended over one pixel; the
    maps change where the pixel's centre is inside, so they stay exact."""
    canvas, depth, segmentation = (layer.clone() for layer in layers)
    rows = present.nonzero().squeeze(1)
    x, y = pixel_grid(SIZE)
    distance = body.distance(x, y, rows)
    shadow = torch.sigmoid(-body.distance(x - 2.0, y + 2.5, rows) / 1.5)[:, None]
    height = (y - x - plane((body.y - body.x)[rows])) / plane(body.radius[rows])
    light = (1 + 0.1 * height.clamp(-1.6, 1.6))[:, None]  # lit from the upper left
    rim = _cover(-distance - _RIM)[:, None]
    colour = body.colour[rows][:, :, None, None] * light * (1 - 0.45 * rim)
    under = canvas[rows] * (1 - 0.4 * shadow)
    canvas[rows] = under + _cover(distance)[:, None] * (colour - under)
    inside = distance < 0
    depth[rows] = torch.where(inside, plane(body.depth[rows]), depth[rows])
    segmentation[rows] = torch.where(inside, plane(body.shape[rows]) + 1, segmentation[rows])
    return canvas, depth, segmentation
