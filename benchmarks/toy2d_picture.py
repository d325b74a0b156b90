"""The picture of the 2-D toy experiment: samples as dots on the true density, one panel per sampler."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from PIL import Image, ImageChops, ImageDraw, ImageFilter, ImageFont
from torch import Tensor
from toy2d_world import Mixture

SIDE, MARGIN, GAP, TITLE = 520, 28, 16, 60
FINE = 2  # drawn this much larger and reduced, for smooth dots and lines
LEFT, BOTTOM, EXTENT = -0.58, -0.68, 2.24  # the window of a panel, in data units
PAPER, INK, FAINT = (251, 250, 247), (38, 42, 51), (120, 126, 138)
LAND, EDGE = (232, 228, 218), (176, 168, 150)
DOT = (196, 78, 42)
DOTS, RADIUS, OPACITY = 4096, 1.25, 0.62


def draw(truth: Mixture, samples: Mapping[str, Tensor], outline: float) -> Image.Image:
    """All panels in a row. samples: [N, 2] by title; `outline` is the log density at the edge of the tinted region."""
    width = 2 * MARGIN + len(samples) * SIDE + (len(samples) - 1) * GAP
    sheet = Image.new("RGB", (width, TITLE + SIDE + MARGIN), PAPER)
    pen = ImageDraw.Draw(sheet)
    ground = _ground(truth, outline)
    for index, (title, x) in enumerate(samples.items()):
        left = MARGIN + index * (SIDE + GAP)
        sheet.paste(_panel(ground, x), (left, TITLE))
        pen.text((left + 4, TITLE - 14), title, INK, ImageFont.load_default(26), anchor="ls")
        outside = truth.log_density(x, torch.zeros(len(x))) < outline
        note = f"{100 * float(outside.double().mean()):.1f} % outside"
        pen.text((left + SIDE - 4, TITLE - 14), note, FAINT, ImageFont.load_default(20), anchor="rs")
    return sheet


def _ground(truth: Mixture, outline: float) -> Image.Image:
    """The region above the outline, tinted, with a line around it."""
    size = SIDE * FINE
    axis = (torch.arange(size) + 0.5) / size * EXTENT
    down, right = torch.meshgrid(axis.flip(0) + BOTTOM, axis + LEFT, indexing="ij")
    grid = torch.stack([right.flatten(), down.flatten()], 1)
    inside = (truth.log_density(grid, torch.zeros(len(grid))) >= outline).reshape(size, size)
    mask = Image.frombytes("L", (size, size), (inside.byte() * 255).numpy().tobytes())
    line = ImageChops.subtract(mask.filter(ImageFilter.MaxFilter(5)), mask)
    ground = Image.new("RGB", (size, size), (255, 255, 255))
    ground.paste(LAND, mask=mask)
    ground.paste(EDGE, mask=line)
    return ground


def _panel(ground: Image.Image, x: Tensor) -> Image.Image:
    """The ground with a dot per sample, and a thin frame."""
    dots = Image.new("L", ground.size, 0)
    pen = ImageDraw.Draw(dots)
    scale, radius = ground.size[0] / EXTENT, RADIUS * FINE
    for right, up in x[:DOTS].tolist():
        across, along = (right - LEFT) * scale, ground.size[1] - (up - BOTTOM) * scale
        pen.ellipse((across - radius, along - radius, across + radius, along + radius), fill=round(255 * OPACITY))
    panel = ground.copy()
    panel.paste(DOT, mask=dots)
    ImageDraw.Draw(panel).rectangle((0, 0, panel.size[0] - 1, panel.size[1] - 1), outline=EDGE, width=FINE)
    return panel.resize((SIDE, SIDE), Image.Resampling.LANCZOS)
