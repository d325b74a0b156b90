"""The picture of a verdict: pictures in rows, under each what the guide says of it, under all the sentence."""

from __future__ import annotations

import math

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont

from ..report.chart import INK, PAPER, QUIET
from .score import Verdict
from .sheet import GAP, SMALLEST, wrap

RIGHT, WRONG = "#0b8a5f", "#c92a2a"
FRAME = 4


def score_sheet(images: torch.Tensor, verdict: Verdict, heading: str, columns: int, size: int) -> torch.Tensor:
    """Pictures [B, H, W, C] in [0, 1] with their verdicts, as an IMAGE [1, height, width, 3].

    size: the longest side of a picture on the sheet, in pixels; small pictures are enlarged by whole factors.
    """
    tile, how = _tile(images, size)
    across = min(columns, len(images))
    letter = max(round(max(tile) / 8), SMALLEST)
    font, large = ImageFont.load_default(letter), ImageFont.load_default(round(letter * 1.15))
    step = tile[0] + GAP, tile[1] + GAP + round(letter * 1.4)
    width = GAP + across * step[0]
    words = wrap(f"{heading}: {verdict.words}" if heading.strip() else verdict.words, large, width - 2 * GAP)
    foot = round(letter * 1.5) * (words.count("\n") + 1)
    rows = math.ceil(len(images) / across)
    sheet = Image.new("RGB", (width, GAP + rows * step[1] + foot), PAPER)
    pen = ImageDraw.Draw(sheet)
    for index, picture in enumerate((images[..., :3].clamp(0, 1) * 255).round().to(torch.uint8).cpu()):
        left, top = GAP + index % across * step[0], GAP + index // across * step[1]
        colour = {True: RIGHT, False: WRONG, None: QUIET}[verdict.right[index]]
        if verdict.right[index] is not None:
            pen.rectangle((left - FRAME, top - FRAME, left + tile[0] + FRAME - 1, top + tile[1] + FRAME - 1), colour)
        sheet.paste(Image.fromarray(picture.numpy()).resize(tile, how), (left, top))
        mark = wrap(verdict.marks[index], font, step[0], most=1)
        pen.text((left + tile[0] / 2, top + tile[1] + FRAME + 2), mark, colour, font, anchor="ma")
    pen.multiline_text((GAP, GAP + rows * step[1]), words, INK, large)
    return torch.from_numpy(np.asarray(sheet, dtype=np.float32) / 255.0)[None]


def _tile(images: torch.Tensor, size: int) -> tuple[tuple[int, int], Image.Resampling]:
    height, width = images.shape[1:3]
    scale = size / max(height, width)
    scale = math.floor(scale) if scale >= 1 else scale
    how = Image.Resampling.NEAREST if scale >= 1 else Image.Resampling.LANCZOS
    return (max(1, round(width * scale)), max(1, round(height * scale))), how
