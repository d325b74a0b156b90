"""Pastes labelled pictures into one sheet: `python sheet.py SHEET.png LIST.json`, LIST a list of [row, label, file].

Runs in the environment's Python, because it needs Pillow.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

WIDE, HIGH, LABEL, MARGIN = 528, 296, 20, 12
COLUMNS = 5


def paste(entries: list[tuple[str, str, str]]) -> Image.Image:
    """A row of pictures for each distinct row name, or several of `COLUMNS`, the name above and each label below its
    picture."""
    named: dict[str, list[tuple[str, str]]] = {}
    for row, label, file in entries:
        named.setdefault(row, []).append((label, file))
    rows = [(row, cells[i : i + COLUMNS]) for row, cells in named.items() for i in range(0, len(cells), COLUMNS)]
    columns = max(len(cells) for _, cells in rows)
    height = HIGH + 2 * LABEL + MARGIN
    sheet = Image.new("RGB", (columns * (WIDE + MARGIN) + MARGIN, len(rows) * height + MARGIN), "white")
    draw = ImageDraw.Draw(sheet)
    font = ImageFont.load_default(size=13)
    for i, (row, cells) in enumerate(rows):
        top = MARGIN + i * height
        draw.text((MARGIN, top), row, fill="black", font=font)
        for j, (label, file) in enumerate(cells):
            left = MARGIN + j * (WIDE + MARGIN)
            sheet.paste(fitted(file), (left, top + LABEL))
            draw.text((left, top + LABEL + HIGH + 2), label, fill=(90, 90, 90), font=font)
    return sheet


def fitted(file: str) -> Image.Image:
    """The picture scaled into a cell; small pixel pictures by whole factors, so that their pixels stay sharp."""
    picture = Image.open(file).convert("RGB")
    scale = min(WIDE / picture.width, HIGH / picture.height)
    how = Image.Resampling.NEAREST if scale >= 1 else Image.Resampling.LANCZOS
    scale = int(scale) if scale >= 1 else scale
    picture = picture.resize((round(picture.width * scale), round(picture.height * scale)), how)
    cell = Image.new("RGB", (WIDE, HIGH), (240, 240, 240))
    cell.paste(picture, ((WIDE - picture.width) // 2, (HIGH - picture.height) // 2))
    return cell


if __name__ == "__main__":
    paste(json.loads(Path(sys.argv[2]).read_text(encoding="utf-8"))).save(sys.argv[1])
