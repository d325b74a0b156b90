"""Draws a workflow's card in the Templates dialog: `python workflow_thumbnail.py OUT.jpg CARD.json`.

CARD is an object: "name", the file's; "says", one sentence; "components", the names of the pack's nodes in it; and
"pictures", a list of [title, file, columns], columns 0 for a picture that is shown whole, else those of a sheet of
Score Pictures, of which the first row is shown, or two where there is room. A card without pictures says what the
workflow adds to a model.

Runs in the environment's Python, because it needs Pillow.
"""

from __future__ import annotations

import json
import re
import sys
import textwrap
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

SIDE, MARGIN, LABEL, HEAD = 480, 14, 22, 52
PAPER, INK, QUIET = "#12151c", "#f4f6fa", "#9aa4b5"
PILLS = ("#2563eb", "#d9480f", "#0b8a5f", "#8b3fd1", "#b58900", "#c2255c")
MOST_PICTURES = 4
GAP, FRAME, SMALLEST = 12, 4, 15  # of a sheet, as host/compare/score_sheet.py draws it
SEAM = 8


def card(name: str, says: str, components: list[str], pictures: list[list]) -> Image.Image:
    """A dark square with the name and, below it, the pictures with their titles, or the sentence and the components."""
    made = Image.new("RGB", (SIDE, SIDE), PAPER)
    pen = ImageDraw.Draw(made)
    title = re.sub(r"^(\d+|More)-", "", name).replace("-", " ")
    pen.text((MARGIN, HEAD / 2), title, INK, _fitting(title, 27), anchor="lm")
    if pictures:
        _rows(made, pen, pictures[-MOST_PICTURES:])
    else:
        _words(pen, says, components)
    return made


def _fitting(text: str, size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    font = ImageFont.load_default(size)
    return font if font.getlength(text) <= SIDE - 2 * MARGIN else _fitting(text, size - 1)


def _rows(made: Image.Image, pen: ImageDraw.ImageDraw, pictures: list[list]) -> None:
    """The pictures under each other, each below its title."""
    step = (SIDE - HEAD) // len(pictures)
    rows = 2 if len(pictures) <= 2 else 1
    for number, (title, file, columns) in enumerate(pictures):
        top = HEAD + number * step
        pen.text((MARGIN, top + LABEL / 2 - 2), title, QUIET, _fitting(title, 17), anchor="lm")
        picture = Image.open(file).convert("RGB")
        shown = _tiles(picture, columns, rows) if columns else [[picture]]
        room = (SIDE - 2 * MARGIN + SEAM) / len(shown[0]) - SEAM, (step - LABEL) / len(shown) - SEAM
        scale = min(room[0] / shown[0][0].width, room[1] / shown[0][0].height)
        size = round(shown[0][0].width * scale), round(shown[0][0].height * scale)
        for row, tiles in enumerate(shown):
            for column, tile in enumerate(tiles):
                place = MARGIN + column * (size[0] + SEAM), top + LABEL + row * (size[1] + SEAM)
                made.paste(tile.resize(size, Image.Resampling.LANCZOS), place)


def _tiles(sheet: Image.Image, columns: int, rows: int) -> list[list[Image.Image]]:
    """The pictures of a sheet's first rows with their frames."""
    tile = (sheet.width - GAP) // columns - GAP
    side = tile + 2 * FRAME

    def cut(column: int, row: int) -> Image.Image:
        left, top = GAP + column * (tile + GAP) - FRAME, GAP + row * (tile + GAP + caption(tile)) - FRAME
        return sheet.crop((left, top, left + side, top + side))

    return [[cut(column, row) for column in range(columns)] for row in range(rows)]


def caption(tile: int) -> int:
    """The height of the words under a picture of a sheet."""
    return round(max(round(tile / 8), SMALLEST) * 1.4)


def _words(pen: ImageDraw.ImageDraw, says: str, components: list[str]) -> None:
    """The sentence, and the pack's nodes in the order of the workflow as pills under each other."""
    large = ImageFont.load_default(22)
    pen.multiline_text((MARGIN, HEAD + 10), textwrap.fill(says, 40), QUIET, large, spacing=8)
    font = ImageFont.load_default(24)
    top = SIDE - MARGIN - 56 * len(components)
    for number, words in enumerate(components):
        box = (MARGIN, top, MARGIN + font.getlength(words) + 36, top + 44)
        pen.rounded_rectangle(box, 22, PILLS[number % len(PILLS)])
        pen.text((MARGIN + 18, top + 22), words, INK, font, anchor="lm")
        top += 56


if __name__ == "__main__":
    described = json.loads(Path(sys.argv[2]).read_text(encoding="utf-8"))
    card(**described).save(sys.argv[1], quality=85, optimize=True)
