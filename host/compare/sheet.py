"""The picture of a comparison: cells in rows and columns, each of one or several pictures, with headings in words."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont

from ..common.remarks import remark
from ..report.chart import GRID, INK, PAPER, QUIET

GAP, SEAM = 12, 2  # between cells; between the pictures of one cell
SMALLEST, LARGEST = 15, 40  # of letters, in pixels
MOST_LINES = 4
WIDEST = 0.6  # of the row headings, in cells
MOST_PIXELS = 40_000_000  # of all pictures on a sheet: as an IMAGE, with its headings, it takes up to 1 GB
BAND = 2**22  # bytes that are turned into numbers at once


@dataclass(frozen=True)
class Words:
    """What is written around the cells. A side that is not varied has one heading, which is empty."""

    columns: tuple[str, ...]
    rows: tuple[str, ...]
    column_name: str = ""
    row_name: str = ""
    below: str = ""


@dataclass(frozen=True)
class Tile:
    """How one picture is drawn: small ones enlarged by whole factors, larger ones reduced.

    Attributes:
        size: width and height on the sheet, in pixels.
    """

    size: tuple[int, int]
    how: Image.Resampling

    @classmethod
    def of(cls, height: int, width: int, scale: float, count: int) -> Tile:
        """scale: as much as there is room for. count: of all pictures; if they would take more than MOST_PIXELS, they
        are drawn smaller, and the node says so."""
        room = math.sqrt(MOST_PIXELS / (count * height * width))
        wanted, made = cls._scaled(height, width, scale), cls._scaled(height, width, min(scale, room))
        if made != wanted:
            across, down = wanted.size
            remark(
                f"{count} pictures of {across} x {down} would be a sheet of {count * across * down / 1e6:.0f} "
                f"megapixels: they are drawn {made.size[0]} x {made.size[1]}, so that it stays below "
                f"{MOST_PIXELS // 1_000_000}. The pictures themselves are not changed."
            )
        return made

    @classmethod
    def _scaled(cls, height: int, width: int, scale: float) -> Tile:
        scale = math.floor(scale) if scale >= 1 else scale
        how = Image.Resampling.NEAREST if scale >= 1 else Image.Resampling.LANCZOS
        return cls((max(1, round(width * scale)), max(1, round(height * scale))), how)

    def draw(self, pictures: torch.Tensor) -> list[Image.Image]:
        """[B, H, W, C] in [0, 1]."""
        levels = (pictures[..., :3].clamp(0, 1) * 255).round().to(torch.uint8).cpu()
        return [Image.fromarray(picture.numpy()).resize(self.size, self.how) for picture in levels]


def as_image(sheet: Image.Image) -> torch.Tensor:
    """A finished sheet as an IMAGE [1, H, W, 3] in [0, 1]."""
    width, height = sheet.size
    image = torch.empty(1, height, width, 3)
    rows = max(1, BAND // (12 * width))  # in bands: a large sheet is held once
    for top in range(0, height, rows):
        bottom = min(top + rows, height)
        band = np.array(sheet.crop((0, top, width, bottom)), dtype=np.float32)
        image[0, top:bottom] = torch.from_numpy(band / 255.0)
    return image


class Sheet:
    """A grid that fills cell by cell.

    Args:
        words: the headings.
        shape: of the pictures of a cell, [B, H, W, 3].
        size: the longest side of a cell, in pixels, without its seams: larger pictures are reduced, small ones enlarged
            by whole factors.
    """

    def __init__(self, words: Words, shape: Sequence[int], size: int):
        self.words, self.count = words, shape[0]
        self.across = _across(shape[0])
        down = -(-shape[0] // self.across)
        scale = min(size / self.across / shape[2], size / down / shape[1])
        self.tile = Tile.of(shape[1], shape[2], scale, shape[0] * len(words.columns) * len(words.rows))
        width, height = self.tile.size
        self.cell = self.across * (width + SEAM) - SEAM, down * (height + SEAM) - SEAM
        self.letter = min(max(round(self.cell[0] / 18), SMALLEST), LARGEST)
        self.image = Image.new("RGB", self._size, PAPER)
        self._write()

    def put(self, column: int, row: int, pictures: torch.Tensor) -> None:
        """Fill a cell. pictures: [B, H, W, 3] in [0, 1]."""
        left, top, right, bottom = self.box(column, row)
        self.image.paste(PAPER, (left, top, right, bottom))
        width, height = self.tile.size
        for index, picture in enumerate(self.tile.draw(pictures)):
            at = index % self.across, index // self.across
            self.image.paste(picture, (left + at[0] * (width + SEAM), top + at[1] * (height + SEAM)))

    def box(self, column: int, row: int) -> tuple[int, int, int, int]:
        """Where a cell lies: its left, top, right and bottom, in pixels."""
        left, top = self._corner(column, row)
        return left, top, left + self.cell[0], top + self.cell[1]

    def picture(self) -> torch.Tensor:
        """As an IMAGE [1, H, W, 3] in [0, 1]."""
        return as_image(self.image)

    @cached_property
    def _font(self) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
        return ImageFont.load_default(self.letter)

    @cached_property
    def _small(self) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
        return ImageFont.load_default(max(SMALLEST - 2, round(self.letter * 0.8)))

    @cached_property
    def _columns(self) -> list[str]:
        return [wrap(words, self._font, self.cell[0]) for words in self.words.columns]

    @cached_property
    def _rows(self) -> list[str]:
        most = min(MOST_LINES, max(1, int(self.cell[1] / (1.3 * self.letter))))
        return [wrap(words, self._font, self._widest, most) for words in self.words.rows]

    @property
    def _widest(self) -> int:
        return max(round(self.cell[0] * WIDEST), 8 * self.letter)

    @cached_property
    def _row_name(self) -> str:
        return wrap(self.words.row_name, self._small, self._widest)

    @cached_property
    def _left(self) -> int:
        """Where the first column begins."""
        rows = [self._extent(row, self._font)[0] for row in self._rows]
        widest = max(self._extent(self._row_name, self._small)[0], *rows)
        return GAP + (widest + GAP if widest else 0)

    @cached_property
    def _top(self) -> int:
        """Where the first row begins."""
        name = self._extent(self._column_name, self._small)[1]
        heading = max(self._extent(column, self._font)[1] for column in self._columns)
        above = (name + GAP // 2 if name else 0) + (heading + GAP // 2 if heading else 0)
        beside = self._extent(self._row_name, self._small)[1]
        return GAP + max(above, beside + GAP // 2 if beside else 0)

    @cached_property
    def _column_name(self) -> str:
        return wrap(self.words.column_name, self._small, self._across_all)

    @property
    def _across_all(self) -> int:
        return len(self.words.columns) * (self.cell[0] + GAP) - GAP

    @cached_property
    def _below(self) -> str:
        return wrap(self.words.below, self._small, self._left - GAP + self._across_all, MOST_LINES * 2)

    @property
    def _size(self) -> tuple[int, int]:
        below = self._extent(self._below, self._small)[1]
        right, bottom = self._corner(len(self.words.columns), len(self.words.rows))
        return right, bottom + (below + GAP if below else 0)

    def _corner(self, column: int, row: int) -> tuple[int, int]:
        return self._left + column * (self.cell[0] + GAP), self._top + row * (self.cell[1] + GAP)

    def _write(self) -> None:
        """The headings, and a place for every cell."""
        pen = ImageDraw.Draw(self.image)
        bottom = self._top - GAP // 2
        across = self._left + self._across_all / 2
        pen.multiline_text((across, GAP), self._column_name, QUIET, self._small, anchor="ma", align="center")
        pen.multiline_text((self._left - GAP, bottom), self._row_name, QUIET, self._small, anchor="rd", align="right")
        for column, words in enumerate(self._columns):
            middle = self._corner(column, 0)[0] + self.cell[0] / 2
            pen.multiline_text((middle, bottom), words, INK, self._font, anchor="md", align="center")
        for row, words in enumerate(self._rows):
            middle = self._corner(0, row)[1] + self.cell[1] / 2
            pen.multiline_text((self._left - GAP, middle), words, INK, self._font, anchor="rm", align="right")
            for column in range(len(self._columns)):
                left, top, right, bottom = self.box(column, row)
                pen.rectangle((left, top, right - 1, bottom - 1), fill=GRID)
        pen.multiline_text((GAP, self._corner(0, len(self._rows))[1]), self._below, QUIET, self._small)

    def _extent(self, words: str, font) -> tuple[int, int]:
        if not words:
            return 0, 0
        _, _, right, bottom = ImageDraw.Draw(Image.new("L", (1, 1))).multiline_textbbox((0, 0), words, font)
        return math.ceil(right), math.ceil(bottom)


def wrap(words: str, font, width: int, most: int = MOST_LINES) -> str:
    """The words on lines no wider than this, cut after `most` lines.

    Broken between words; a word that is too long for a line, after its underscores or dashes, else anywhere.
    """
    lines = [""]
    for word in words.split():
        glue = " " if lines[-1] else ""
        for part in [word] if font.getlength(word) <= width else re.findall(r"[^_\-/]*[_\-/]|[^_\-/]+", word):
            if lines[-1] and font.getlength(lines[-1] + glue + part) > width:
                lines.append("")
            else:
                lines[-1] += glue
            glue = ""
            for letter in part:
                if lines[-1] and font.getlength(lines[-1] + letter) > width:
                    lines.append("")
                lines[-1] += letter
    if len(lines) > most:
        last = lines[most - 1]
        while last and font.getlength(f"{last}...") > width:
            last = last[:-1]
        lines = [*lines[: most - 1], f"{last}..."]
    return "\n".join(lines)


def _across(count: int) -> int:
    """How many pictures of a cell stand beside each other: a full rectangle, not too wide, if there is one."""
    least = math.ceil(math.sqrt(count))
    full = [n for n in range(least, 2 * least) if count % n == 0 and n <= 2 * math.sqrt(count)]
    return full[0] if full else least
