"""Lays out a help page's picture: `python help_layout.py OUT.webp SHOWN.json`, as help_pictures.py writes SHOWN.

Runs in the environment's Python, because it needs Pillow. The picture is a light card with rounded corners, so that it
looks the same on a dark page and on a light one, and is drawn for a panel that is about 360 pixels wide.
"""

from __future__ import annotations

import io
import json
import sys
import textwrap
from pathlib import Path

from help_charts import BANDS, CHARTS, GREY, INK, TYPE, font, width_of
from PIL import Image, ImageDraw

PAPER = "#f5f6f8"
PAD, GAP, ROUND = 14, 10, 14
COLOURS = (256, 192, 144, 108)  # as many as fit
ENOUGH = 19_000  # bytes
LINE = round(TYPE * 1.3)


def card(shown: dict) -> Image.Image:
    """All panels of a picture below each other, on one card."""
    panels = [PANELS[panel["kind"]](panel, shown) for panel in shown["panels"]]
    width = max(panel.width for panel in panels) + 2 * PAD
    height = sum(panel.height for panel in panels) + GAP * (len(panels) - 1) + 2 * PAD
    sheet = Image.new("RGBA", (width, height), PAPER)
    top = PAD
    for panel in panels:
        sheet.paste(panel, ((width - panel.width) // 2, top))
        top += panel.height + GAP
    mask = Image.new("L", (4 * width, 4 * height))
    ImageDraw.Draw(mask).rounded_rectangle((0, 0, 4 * width - 1, 4 * height - 1), 4 * ROUND, fill=255)
    sheet.putalpha(mask.resize((width, height), Image.Resampling.LANCZOS))
    return sheet


def grid(panel: dict, shown: dict) -> Image.Image:
    """Rows of small pictures with a heading over each column and, where there are any, words before each row."""
    rows = [[cell(one, panel["zoom"], shown) for one in row] for row in panel["rows"]]
    sides = panel["side"] or [""] * len(rows)
    left = max(width_of(words) for words in sides)
    left += GAP if left else 0
    lines = max(words.count("\n") + 1 if words else 0 for words in panel["head"])
    widths = [max([width_of(words), *(row[i].width for row in rows)]) for i, words in enumerate(panel["head"])]
    top = lines * LINE + (4 if lines else 0)
    heights = [max(one.height for one in row) for row in rows]
    size = left + sum(widths) + GAP * (len(widths) - 1), top + sum(heights) + GAP * (len(rows) - 1)
    sheet = Image.new("RGB", size, PAPER)
    pen = ImageDraw.Draw(sheet)
    x = left
    for i, words in enumerate(panel["head"]):
        pen.text((x + widths[i] / 2, top - 6), words, INK, font(), "md", align="center")
        y = top
        for row, height in zip(rows, heights, strict=True):
            sheet.paste(row[i], (x + (widths[i] - row[i].width) // 2, y + (height - row[i].height) // 2))
            y += height + GAP
        x += widths[i] + GAP
    y = top
    for words, height in zip(sides, heights, strict=True):
        pen.text((0, y + height / 2), words, INK, font(), "lm")
        y += height + GAP
    return sheet


def cell(one: dict, zoom: int, shown: dict) -> Image.Image:
    """A picture of a run, pixel by pixel; several side by side; or words."""
    if "words" in one:
        return written(one["words"])
    parts = [change(shown["pictures"][one["shot"]][i], one) for i in one["picks"]]
    across = one.get("across", len(parts))
    size = zoom * parts[0].width + 3, zoom * parts[0].height + 3
    sheet = Image.new("RGB", (across * size[0] - 3, -(-len(parts) // across) * size[1] - 3), PAPER)
    for i, part in enumerate(parts):
        large = part.resize((part.width * zoom, part.height * zoom), Image.Resampling.NEAREST)
        sheet.paste(large, (i % across * size[0], i // across * size[1]))
    return sheet


def change(file: str, how: dict) -> Image.Image:
    """A picture as it is, or as a network sees it at a noise level (VE sigma), or resized to `small` and back."""
    picture = Image.open(file).convert("RGB")
    if "small" in how:
        small = picture.resize((how["small"],) * 2, Image.Resampling.BOX)
        picture = small if how.get("kept") else small.resize(picture.size, Image.Resampling.BILINEAR)
    if "sigma" in how:
        import numpy as np

        noise = np.random.default_rng(7).standard_normal((picture.height, picture.width, 3))
        seen = (np.asarray(picture) / 127.5 - 1 + how["sigma"] * noise) / (1 + how["sigma"] ** 2) ** 0.5
        picture = Image.fromarray((seen * 127.5 + 127.5).clip(0, 255).astype("uint8"))
    return picture


def written(words: str, colour: str = INK, size: int = TYPE, paper: str = PAPER) -> Image.Image:
    """Lines of words, each from the left."""
    lines = words.split("\n")
    high = round(size * 1.3)
    sheet = Image.new("RGB", (max(width_of(line, size) for line in lines) + 2, high * len(lines)), paper)
    pen = ImageDraw.Draw(sheet)
    for i, line in enumerate(lines):
        pen.text((0, high * (i + 0.5)), line, colour, font(size), "lm")
    return sheet


def words(panel: dict, shown: dict) -> Image.Image:
    """A heading, or a text of a run, in lines of at most `wide` letters."""
    text = panel["text"] if "text" in panel else shown["texts"][panel["of"]]
    lines = text.split("\n")[panel.get("first", 0) : panel.get("last")]
    broken = [part for line in lines for part in textwrap.wrap(line, panel["wide"], subsequent_indent="    ") or [""]]
    return written("\n".join(broken), panel.get("colour", INK), panel.get("size", TYPE))


def whole(panel: dict, shown: dict) -> Image.Image:
    """A picture of a run as it is, or a part of it (left, top, right, bottom); made as wide as `width`."""
    picture = Image.open(shown["pictures"][panel["shot"]][0]).convert("RGB")
    if "part" in panel:
        picture = picture.crop(panel["part"])
    width = panel.get("width", picture.width)
    return picture.resize((width, round(picture.height * width / picture.width)))


def flow(panel: dict, shown: dict) -> Image.Image:
    """Boxes with words side by side, an arrow from each to the next."""
    boxes = [written(words, paper=BANDS[i % len(BANDS)]) for i, words in enumerate(panel["boxes"])]
    high, arrow, rim = max(box.height for box in boxes) + 16, 40, 12
    width = sum(box.width + 2 * rim for box in boxes) + arrow * (len(boxes) - 1)
    sheet = Image.new("RGB", (width, high), PAPER)
    pen, left = ImageDraw.Draw(sheet), 0
    for i, box in enumerate(boxes):
        right = left + box.width + 2 * rim
        pen.rounded_rectangle((left, 0, right - 1, high - 1), 8, BANDS[i % len(BANDS)])
        sheet.paste(box, (left + rim, (high - box.height) // 2))
        if i + 1 < len(boxes):
            pen.line((right + 6, high / 2, right + arrow - 12, high / 2), GREY, 3)
            tip = right + arrow - 6
            pen.polygon([(tip, high / 2), (tip - 11, high / 2 - 7), (tip - 11, high / 2 + 7)], GREY)
        left = right + arrow
    return sheet


def chart(panel: dict, shown: dict) -> Image.Image:
    return CHARTS[panel["draws"]](panel, shown, PAPER)


PANELS = {"grid": grid, "words": words, "whole": whole, "chart": chart, "flow": flow}


def pack(sheet: Image.Image) -> bytes:
    """A picture as WebP: with exact pixels in as many colours as fit, else as a photograph."""
    for colours in COLOURS:
        few = sheet.convert("RGB").quantize(colours, Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE).convert("RGB")
        few.putalpha(sheet.getchannel("A"))
        file = encode(few, lossless=True, quality=100)
        if len(file) <= ENOUGH:
            return file
    return encode(sheet, quality=75)


def encode(sheet: Image.Image, **how) -> bytes:
    file = io.BytesIO()
    sheet.save(file, "webp", method=6, **how)
    return file.getvalue()


if __name__ == "__main__":
    made = card(json.loads(Path(sys.argv[2]).read_text(encoding="utf-8")))
    Path(sys.argv[1]).write_bytes(pack(made))
