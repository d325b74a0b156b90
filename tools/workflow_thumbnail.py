"""Draws a workflow's thumbnail: `python workflow_thumbnail.py OUT.jpg LIST.json`, LIST a list of [title, file].

Runs in the environment's Python, because it needs Pillow.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

WIDTH, MARGIN, LABEL = 480, 8, 22
MOST_PICTURES = 6


def thumbnail(entries: list[tuple[str, str]]) -> Image.Image:
    """The last pictures of a workflow, each below its title: two under each other, more in two columns."""
    chosen = [(title, Image.open(file).convert("RGB")) for title, file in entries[-MOST_PICTURES:]]
    columns = 1 if len(chosen) <= 2 else 2
    width = (WIDTH - MARGIN) // columns - MARGIN
    for _, picture in chosen:
        picture.thumbnail((width, WIDTH), Image.Resampling.LANCZOS)
    rows = [chosen[i : i + columns] for i in range(0, len(chosen), columns)]
    heights = [LABEL + MARGIN + max(picture.height for _, picture in row) for row in rows]
    sheet = Image.new("RGB", (WIDTH, sum(heights) + MARGIN), "white")
    draw, font, top = ImageDraw.Draw(sheet), ImageFont.load_default(size=15), MARGIN
    for row, height in zip(rows, heights, strict=True):
        for column, (title, picture) in enumerate(row):
            left = MARGIN + column * (width + MARGIN)
            draw.text((left, top), title, fill="black", font=font)
            sheet.paste(picture, (left, top + LABEL))
        top += height
    return sheet


if __name__ == "__main__":
    thumbnail(json.loads(Path(sys.argv[2]).read_text(encoding="utf-8"))).save(sys.argv[1], quality=85, optimize=True)
