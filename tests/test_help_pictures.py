"""The pictures of the help pages: every page has one, and tools/help_pictures.py knows how to make each."""

import re
from pathlib import Path

import pytest
from help_pictures import FOLDER, MOST_BYTES, MOST_PIXELS
from help_scenes import FIRST, PICTURES
from PIL import Image
from workflow_layout import Block, arrange

PAGES = sorted(FOLDER.parent.glob("*.md"))
SHOWN = re.compile(r"!\[([^\]]*)\]\(pictures/([\w-]+)\.webp\)")
MOST_BYTES_TOGETHER = 575_000


def shown(page: Path) -> list[tuple[str, str]]:
    """Alt text and name of each picture of a page."""
    return SHOWN.findall(page.read_text(encoding="utf-8"))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_a_page_shows_its_picture_under_the_first_paragraph(page):
    paragraphs = page.read_text(encoding="utf-8").split("\n\n")
    assert SHOWN.fullmatch(paragraphs[2]), f"{page.name}: no picture under the first paragraph"
    assert all(len(alt.split()) >= 6 for alt, _ in shown(page)), f"{page.name}: the alt text says too little"


def test_the_tool_makes_exactly_the_pictures_that_pages_show():
    used = {name for page in PAGES for _, name in shown(page)}
    assert used == set(PICTURES) == {file.stem for file in FOLDER.iterdir()}
    assert set(FIRST) <= set(PICTURES)


@pytest.mark.parametrize("name", PICTURES)
def test_a_picture_fits_the_help_panel(name):
    file = FOLDER / f"{name}.webp"
    assert file.stat().st_size <= MOST_BYTES
    with Image.open(file) as picture:
        picture.load()
        assert picture.format == "WEBP" and picture.width <= MOST_PIXELS
        assert picture.mode == "RGBA" and picture.getpixel((picture.width // 2, 4))[3] == 255  # a card, on any page


def test_the_pictures_together_are_small():
    assert sum(file.stat().st_size for file in FOLDER.iterdir()) <= MOST_BYTES_TOGETHER


def test_a_workflow_of_one_lane_can_be_laid_out():
    """The pictures' own workflows have no other."""
    assert arrange(Block((), (), (300, 200)), []).corners == ((0, 0),)
