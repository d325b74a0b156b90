"""Draws a workflow's thumbnail: `python workflow_thumbnail.py OUT.jpg LIST.json`, LIST a list of [title, file].

Runs in the environment's Python, because it needs Pillow.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

SIZE, MARGIN, LABEL = 480, 8, 22
MOST_PICTURES = 4


def thumbnail(entries: list[tuple[str, str]]) -> Image.Image:
    """The pictures of a workflow under each other or side by side, each below its title, on a square."""
    chosen = entries[:MOST_PICTURES]
    columns = 1 if len(chosen) < 4 else 2
    rows = -(-len(chosen) // columns)
    width, height = (SIZE - MARGIN) // columns - MARGIN, (SIZE - MARGIN) // rows - MARGIN - LABEL
    sheet = Image.new("RGB", (SIZE, SIZE), "white")
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(size=15)
    for index, (title, file) in enumerate(chosen):
        left = MARGIN + index % columns * (width + MARGIN)
        top = MARGIN + index // columns * (height + LABEL + MARGIN)
        picture = Image.open(file).convert("RGB")
        picture.thumbnail((width, height), Image.Resampling.LANCZOS)
        draw.text((left, top + 1), title, fill="black", font=font)
        sheet.paste(picture, (left + (width - picture.width) // 2, top + LABEL))
    return sheet


if __name__ == "__main__":
    thumbnail(json.loads(Path(sys.argv[2]).read_text(encoding="utf-8"))).save(sys.argv[1], quality=85, optimize=True)
