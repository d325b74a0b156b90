"""What networks say of pictures, as a sheet: a row per picture, a column per network."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from PIL import Image

from ...guidance.guide import GuideSpec
from .chart import COLOURS, INK, QUIET, Canvas, extent
from .strip import CELL, GAP, MARGIN

HEAD, SIZE = 70, 14
Column = tuple[str, str, torch.Tensor | None]  # two lines of its head; the answers, None where there are none yet


def draw_readings(pictures: torch.Tensor, spec: GuideSpec, columns: Sequence[Column]) -> torch.Tensor:
    """The sheet as an IMAGE [1, H, 960, 3] in [0, 1].

    pictures: [R, 3, H, W] in [-1, 1]. columns: the first is what the others should say; each has answers [R, ...].
    """
    canvas = Canvas(HEAD + len(pictures) * (CELL + GAP) + MARGIN)
    canvas.text(MARGIN, 20, "What the experts read in latents under noise, each at the middle of its range", INK)
    for row, picture in enumerate(pictures):
        _paste(canvas, _colours(picture.movedim(0, -1)), 0, row)
    for place, (name, level, answers) in enumerate(columns, 1):
        across = MARGIN + place * (CELL + GAP) + CELL / 2
        canvas.text(across, 44, name, INK, SIZE, "mm")
        canvas.text(across, 60, level, QUIET, 13, "mm")
        for row in range(len(pictures)):
            if answers is None:
                canvas.text(across, _top(row) + CELL / 2, "not yet", QUIET, SIZE, "mm")
            elif answers.ndim == 4:
                _paste(canvas, _map(answers[row], spec), place, row)
            else:
                _words(canvas, across, _top(row) + CELL / 2, answers[row], spec)
    return canvas.picture()


def _top(row: int) -> float:
    return HEAD + row * (CELL + GAP) + 6


def _words(canvas: Canvas, x: float, y: float, answer: torch.Tensor, spec: GuideSpec) -> None:
    """The likeliest class and how likely it is, or the score."""
    if not spec.labels:
        canvas.text(x, y, f"{float(answer.mean()):.3g}", INK, SIZE, "mm")
        return
    likely, found = answer.float().softmax(0).max(0)
    canvas.text(x, y - 9, _short(spec.labels[int(found)]), COLOURS[int(found) % len(COLOURS)], SIZE, "mm")
    canvas.text(x, y + 9, f"{float(likely):.0%}", QUIET, 13, "mm")


def _short(name: str) -> str:
    while extent(name, SIZE) > CELL:
        name = f"{name.removesuffix('...')[:-1]}..."
    return name


def _map(answer: torch.Tensor, spec: GuideSpec) -> torch.Tensor:
    """[K, h, w] -> [h, w, 3] in [-1, 1]: a colour per class, or from dark to light."""
    if spec.task == "segmentation":
        known = torch.tensor([[int(c[i : i + 2], 16) for i in (1, 3, 5)] for c in COLOURS]) / 127.5 - 1
        return known[answer.argmax(0) % len(known)]
    low, high = answer.min(), answer.max()
    return ((answer[0] - low) / (high - low).clamp_min(1e-12) * 2 - 1)[..., None].expand(-1, -1, 3)


def _colours(picture: torch.Tensor) -> torch.Tensor:
    return picture.float().clamp(-1, 1).cpu()


def _paste(canvas: Canvas, picture: torch.Tensor, place: int, row: int) -> None:
    """A picture [h, w, 3] in [-1, 1], as long as `CELL` on its longer side."""
    pixels = Image.fromarray(((_colours(picture) + 1) * 127.5).round().to(torch.uint8).numpy())
    longest = max(pixels.size)
    wide, high = (max(1, round(side * CELL * canvas.scale / longest)) for side in pixels.size)
    small = longest <= CELL
    larger = pixels.resize((wide, high), Image.Resampling.NEAREST if small else Image.Resampling.LANCZOS)
    canvas.paste(larger, MARGIN + place * (CELL + GAP), _top(row))
