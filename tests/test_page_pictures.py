"""What nodes show on the page: the host's own previews, for a fraction of their memory, and sheets of bounded size."""

import numpy as np
import pytest
import torch
from fuzzing.pool import peak, reset_peak
from PIL import Image

PROMPT, WORKFLOW = {"1": {"class_type": "GuidanceCompare"}}, {"nodes": [], "name": "üñ"}


@pytest.fixture
def show(comfy, monkeypatch, tmp_path):
    import folder_paths

    from guidance_pack.host.common.page_pictures import show_pictures

    monkeypatch.setattr(folder_paths, "get_temp_directory", lambda: str(tmp_path))
    return show_pictures


def node(prompt=None, workflow=None):
    from comfy_api.latest import io

    pages = None if workflow is None else {"workflow": workflow}
    return type("Node", (), {"hidden": io.HiddenHolder(None, prompt, pages, None, None, None)})


@pytest.mark.parametrize("pages", [(PROMPT, WORKFLOW), (None, None)], ids=["queued on a page", "without a page"])
def test_a_preview_is_the_hosts_own(show, tmp_path, pages):
    """Files and answer, byte for byte, with the graph that a page reads from a dropped picture."""
    from comfy_api.latest import ui

    pictures = torch.rand(2, 40, 30, 3, generator=torch.Generator().manual_seed(0)) * 1.2 - 0.1
    pictures[0, :16, :16] = torch.arange(256).reshape(16, 16, 1) / 255
    theirs, ours = ui.PreviewImage(pictures, cls=node(*pages)).as_dict(), show(pictures, node(*pages))
    assert ours["animated"] == theirs["animated"]
    for mine, other in zip(ours["images"], theirs["images"], strict=True):
        assert {**mine, "filename": ""} == {**other, "filename": ""} and mine["filename"] != other["filename"]
        assert (tmp_path / mine["filename"]).read_bytes() == (tmp_path / other["filename"]).read_bytes()


def test_a_preview_keeps_no_second_picture_of_floats(show):
    picture = torch.full((1, 3000, 3000, 3), 0.25)
    before = reset_peak()
    show(picture, None)
    assert peak() - before < 0.6 * picture.nbytes


@pytest.fixture(scope="module")
def drawing(comfy):
    from guidance_pack.host.compare import sheet

    return sheet


def test_a_sheet_becomes_an_image_without_a_second_copy(drawing):
    picture = Image.new("RGB", (3000, 3001), (0, 51, 255))
    before = reset_peak()
    made = drawing.as_image(picture)
    assert peak() - before < 1.3 * made.nbytes
    assert made.shape == (1, 3001, 3000, 3) and made.dtype == torch.float32
    assert made[0, -1, -1].tolist() == np.float32([0, 0.2, 1]).tolist()


def test_a_sheet_is_never_larger_than_it_can_be_shown(drawing, monkeypatch):
    said = []
    monkeypatch.setattr(drawing, "remark", said.append)
    small = drawing.Tile.of(32, 32, 4096 / 32, 2)
    assert small.size == (4096, 4096) and not said
    many = drawing.Tile.of(32, 64, 4096 / 64, 100)
    width, height = many.size
    assert 0.8 * drawing.MOST_PIXELS < 100 * width * height <= drawing.MOST_PIXELS and width == 2 * height
    assert said == [
        "100 pictures of 4096 x 2048 would be a sheet of 839 megapixels: they are drawn 832 x 416, so that it stays "
        "below 40. The pictures themselves are not changed."
    ]
