"""Contact sheets: rows of pictures with their captions."""

from __future__ import annotations

from collections.abc import Sequence

from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

_LINE = 18


def contact_sheet(rows: Sequence[tuple[str, Tensor]], columns: int = 10, zoom: int = 3) -> Image.Image:
    """A caption and then pictures, for each (caption, images [N, 3, H, W] in [-1, 1]); pixels stay sharp.

    Raises:
        ValueError: no rows.
    """
    if not rows:
        raise ValueError("a contact sheet needs at least one row of pictures.")
    blocks = [(caption, _mosaic(images, columns, zoom)) for caption, images in rows]
    width = max(block.width for _, block in blocks)
    sheet = Image.new("RGB", (width, sum(block.height + _LINE for _, block in blocks)), "white")
    draw, font, top = ImageDraw.Draw(sheet), ImageFont.load_default(size=13), 0
    for caption, block in blocks:
        draw.text((4, top + 1), caption, fill="black", font=font)
        sheet.paste(block, (0, top + _LINE))
        top += block.height + _LINE
    return sheet


def _mosaic(images: Tensor, columns: int, zoom: int) -> Image.Image:
    pixels = ((images.clamp(-1, 1) + 1) * 127.5).round().byte().permute(0, 2, 3, 1).cpu()
    count, height, width, _ = pixels.shape
    mosaic = Image.new("RGB", (columns * width, -(-count // columns) * height), "white")
    for i, picture in enumerate(pixels):
        mosaic.paste(Image.fromarray(picture.numpy()), (i % columns * width, i // columns * height))
    return mosaic.resize((mosaic.width * zoom, mosaic.height * zoom), Image.Resampling.NEAREST)
