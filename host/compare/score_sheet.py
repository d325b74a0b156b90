"""The picture of a verdict: pictures in rows, under each what the guide says of it, under all the sentence."""

from __future__ import annotations

import math

import torch
from PIL import Image, ImageDraw, ImageFont

from ..report.chart import INK, PAPER, QUIET
from .score import Verdict
from .sheet import GAP, SMALLEST, Tile, as_image, wrap

RIGHT, WRONG = "#0b8a5f", "#c92a2a"
FRAME = 4


def score_sheet(images: torch.Tensor, verdict: Verdict, heading: str, columns: int, size: int) -> torch.Tensor:
    """Pictures [B, H, W, C] in [0, 1] with their verdicts, as an IMAGE [1, height, width, 3].

    size: the longest side of a picture on the sheet, in pixels; small pictures are enlarged by whole factors.
    """
    height, width = images.shape[1:3]
    drawn = Tile.of(height, width, size / max(height, width), len(images))
    tile = drawn.size
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
    for index, picture in enumerate(drawn.draw(images)):
        left, top = GAP + index % across * step[0], GAP + index // across * step[1]
        colour = {True: RIGHT, False: WRONG, None: QUIET}[verdict.right[index]]
        if verdict.right[index] is not None:
            pen.rectangle((left - FRAME, top - FRAME, left + tile[0] + FRAME - 1, top + tile[1] + FRAME - 1), colour)
        sheet.paste(picture, (left, top))
        mark = wrap(verdict.marks[index], font, step[0], most=1)
        pen.text((left + tile[0] / 2, top + tile[1] + FRAME + 2), mark, colour, font, anchor="ma")
    pen.multiline_text((GAP, GAP + rows * step[1]), words, INK, large)
    return as_image(sheet)
