"""The picture of a comparison: headings stand beside the cells, wrapped and whole; pictures stand where they belong."""

import pytest
import torch
from PIL import ImageFont

LONG = "a rather long name that goes on and on, Supercalifragilisticexpialidocious_with_underscores, without reason"


@pytest.fixture(scope="module")
def drawing(comfy):
    from guidance_pack.host.compare import sheet as compare_picture

    return compare_picture


def sheet(drawing, columns, rows, shape=(1, 32, 32, 3), size=96, **words):
    made = drawing.Sheet(drawing.Words(columns, rows, **words), shape, size)
    return made, shape


def corners(made, columns, rows):
    return [made._corner(column, row) for row in range(rows) for column in range(columns)]


@pytest.mark.many
@pytest.mark.parametrize("count", [1, 2, 3, 4, 5, 8, 9])
@pytest.mark.parametrize("names", [("1", "2"), (LONG, "res_multistep_ancestral_cfg_pp"), ("", "")])
def test_no_heading_reaches_into_a_cell_and_all_stay_inside(drawing, names, count):
    """Cells are filled with one colour, then only ink outside them is left: nothing on them, nothing at the rim."""
    made, shape = sheet(drawing, names, names, (count, 24, 32, 3), column_name=LONG, row_name=LONG, below=LONG * 3)
    before = made.picture()[0]
    red = torch.tensor([1.0, 0.0, 0.0]).expand(*shape)
    places = corners(made, 2, 2)
    empty = torch.tensor([int(drawing.GRID[i : i + 2], 16) for i in (1, 3, 5)]) / 255.0
    for left, top in places:
        cell = before[top : top + made.cell[1], left : left + made.cell[0]]
        assert torch.equal(cell, empty.expand_as(cell))
    for column in range(2):
        for row in range(2):
            made.put(column, row, red)
    after = made.picture()[0]
    for left, top in places:
        after[top : top + made.cell[1], left : left + made.cell[0]] = 1.0
        before[top : top + made.cell[1], left : left + made.cell[0]] = 1.0
    assert torch.equal(before, after)
    rim = torch.cat([after[:2].flatten(), after[-2:].flatten(), after[:, :2].flatten(), after[:, -2:].flatten()])
    assert bool((rim == 1.0).all())


def test_pictures_stand_in_their_cells_side_by_side(drawing):
    made, shape = sheet(drawing, ("1", "2"), ("a",), (4, 8, 8, 3), 16)
    pictures = torch.randint(0, 256, (4, 8, 8, 3), generator=torch.Generator().manual_seed(0)) / 255.0
    made.put(1, 0, pictures)
    left, top = made._corner(1, 0)
    shown = made.picture()[0, top : top + made.cell[1], left : left + made.cell[0]]
    assert made.tile.size == (8, 8) and made.cell == (18, 18)
    for index, (x, y) in enumerate([(0, 0), (10, 0), (0, 10), (10, 10)]):
        torch.testing.assert_close(shown[y : y + 8, x : x + 8], pictures[index], atol=1e-6, rtol=0)
    assert bool((shown[8:10] == 1.0).all() and (shown[:, 8:10] == 1.0).all())


@pytest.mark.parametrize(
    ("shape", "size", "cell"),
    [
        ((1, 32, 32, 3), 100, (96, 96)),  # three times, sharp
        ((8, 32, 32, 3), 384, (390, 194)),  # four beside each other
        ((1, 1024, 512, 3), 256, (128, 256)),  # reduced
        ((2, 1024, 1024, 3), 512, (514, 256)),
        ((1, 8, 2000, 3), 100, (100, 1)),
    ],
)
def test_cells_are_as_large_as_asked(drawing, shape, size, cell):
    made, _ = sheet(drawing, ("1",), ("a",), shape, size)
    assert made.cell == cell


@pytest.mark.parametrize(("count", "across"), [(1, 1), (2, 2), (3, 3), (4, 2), (5, 3), (6, 3), (7, 3), (8, 4), (12, 4)])
def test_pictures_of_a_cell_fill_a_rectangle_where_they_can(drawing, count, across):
    assert drawing._across(count) == across


@pytest.mark.parametrize("width", [40, 90, 200, 1000])
def test_wrapped_lines_fit_and_lose_nothing_before_they_are_cut(drawing, width):
    font = ImageFont.load_default(16)
    text = drawing.wrap(LONG, font, width, 99)
    assert all(font.getlength(line) <= width for line in text.split("\n"))
    assert text.replace("\n", "").replace(" ", "") == LONG.replace(" ", "")
    cut = drawing.wrap(LONG, font, width, 2).split("\n")
    assert len(cut) <= 2 and all(font.getlength(line) <= width for line in cut)
    assert cut[-1].endswith("...") or "\n".join(cut) == text


def test_words_break_after_underscores_before_they_break_anywhere(drawing):
    font = ImageFont.load_default(16)
    lines = drawing.wrap("res_multistep_ancestral", font, font.getlength("multistep_ ")).split("\n")
    assert lines == ["res_", "multistep_", "ancestral"]
