"""The denoised estimate over a run as a strip: a row per sample, a column per step, noisy to clean."""

from __future__ import annotations

import numpy as np
import torch
from PIL import Image

from ..recording.record import Record, mean
from .chart import INK, QUIET, Canvas

CELL, GAP, MARGIN, HEAD = 110, 6, 19, 46


def draw_strip(record: Record) -> torch.Tensor:
    """The run's estimates as an IMAGE [1, H, 960, 3] in [0, 1]."""
    shown = [(e, e.picture) for e in record.evaluations if e.picture is not None]
    if not shown:
        return _words("No picture: these latents are no pictures, or ComfyUI has no preview colours for them.")
    count, height, width, _ = shown[0][1].shape
    wide, high = _cell(width, height)
    canvas = Canvas(2 * HEAD + count * (high + GAP) - GAP)
    total = len(record.evaluations)
    some = "" if len(shown) == total else f", {len(shown)} of {total} evaluations"
    canvas.text(MARGIN, 22, f"The estimate of the clean picture{some}", INK)
    below = HEAD + count * (high + GAP) + 10
    for column, (evaluation, samples) in enumerate(shown):
        left = MARGIN + column * (CELL + GAP) + (CELL - wide) / 2
        for row, pixels in enumerate(samples):
            picture = Image.fromarray(np.asarray(pixels))
            larger = picture.resize((wide * canvas.scale, high * canvas.scale), _filter(width, wide))
            canvas.paste(larger, left, HEAD + row * (high + GAP))
        canvas.text(left + wide / 2, below, f"step {evaluation.step}", INK, 13, "mm")
        canvas.text(left + wide / 2, below + 18, f"sigma {mean(evaluation.sigma):.3g}", QUIET, 13, "mm")
    return canvas.picture()


def _cell(width: int, height: int) -> tuple[int, int]:
    """The size of a picture in the strip: as long as `CELL` on its longer side."""
    longest = max(width, height)
    return max(1, round(width * CELL / longest)), max(1, round(height * CELL / longest))


def _filter(width: int, shown: int) -> Image.Resampling:
    """Small pictures keep their pixels."""
    return Image.Resampling.NEAREST if width <= shown else Image.Resampling.LANCZOS


def _words(words: str) -> torch.Tensor:
    canvas = Canvas(80)
    canvas.text(MARGIN, 40, words, QUIET)
    return canvas.picture()
