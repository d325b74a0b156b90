"""Folders of pictures: what is found, how it is cut, what it is called, and mistakes in words."""

import re

import numpy as np
import pytest
import torch
from PIL import Image


@pytest.fixture
def folders(comfy, tmp_path, monkeypatch):
    """ComfyUI's input and output folders, empty."""
    import folder_paths

    for name in ("input", "output"):
        (tmp_path / name).mkdir()
        monkeypatch.setattr(folder_paths, f"{name}_directory", str(tmp_path / name))
    return tmp_path


def write(path, size=(8, 8), colour=(0, 0, 0), mode="RGB"):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, size, colour).save(path)


def load(folder, height=8, width=8):
    from guidance_pack.host.training.pictures import load_pictures

    return load_pictures(folder, height, width)


@pytest.mark.slow
def test_files_are_sorted_and_nothing_else_is_taken(folders):
    photos = folders / "input" / "photos"
    for name in ("b.png", "a.JPG", "c.webp", "10.jpeg", ".hidden.png", "__MACOSX/d.png"):
        write(photos / name)
    (photos / "notes.txt").write_text("no picture")
    found = load("photos")
    assert found.files == ("10.jpeg", "a.JPG", "b.png", "c.webp") and len(found) == 4 and found.labels == ()
    pictures, classes = found.batch([2, 0, 2])
    assert pictures.shape == (3, 3, 8, 8) and pictures.dtype == torch.float32 and classes is None


def test_sub_folders_are_classes_unless_pictures_lie_beside_them(folders):
    photos = folders / "input" / "photos"
    for name in ("dog/1.png", "cat/2.png", "cat/deep/1.png"):
        write(photos / name)
    found = load("photos")
    assert found.labels == ("cat", "dog") and found.files == ("cat/2.png", "cat/deep/1.png", "dog/1.png")
    classes = found.batch(torch.tensor([2, 0, 1]))[1]
    assert classes.dtype == torch.int64 and classes.tolist() == [1, 0, 0]
    write(photos / "beside.png")
    assert load("photos").labels == () and load("photos").batch([0])[1] is None


def test_every_level_arrives_as_it_is(folders):
    levels = np.arange(256, dtype=np.uint8).reshape(16, 16)
    (folders / "input" / "x").mkdir()
    Image.fromarray(np.stack([levels, 255 - levels, levels], -1)).save(folders / "input" / "x" / "a.png")
    picture = load("x", 16, 16).batch([0])[0][0]
    expected = torch.from_numpy(levels).float() / 127.5 - 1
    assert torch.equal(picture[0], expected) and torch.equal(picture[1], torch.from_numpy(255 - levels) / 127.5 - 1)
    assert picture.min() == -1 and picture.max() == 1
    image = load("x", 16, 16).first()
    assert image.shape == (1, 16, 16, 3) and image.min() == 0 and image.max() == 1


def test_a_preview_of_large_pictures_is_reduced(folders):
    (folders / "input" / "x").mkdir()
    write(folders / "input" / "x" / "a.png")
    assert load("x", 16384, 4096).first().shape == (1, 4096, 1024, 3)


@pytest.mark.parametrize(("size", "height", "width"), [((30, 10), 10, 10), ((10, 30), 10, 10), ((20, 20), 10, 20)])
def test_the_middle_is_cut_out_and_not_stretched(folders, size, height, width):
    """Red margins around a green middle of the wanted shape: only green is left."""
    scale = min(size[0] / width, size[1] / height)
    inner = round(width * scale), round(height * scale)
    picture = Image.new("RGB", size, (255, 0, 0))
    picture.paste((0, 255, 0), ((size[0] - inner[0]) // 2, (size[1] - inner[1]) // 2,
                                (size[0] + inner[0]) // 2, (size[1] + inner[1]) // 2))
    (folders / "input" / "x").mkdir()
    picture.save(folders / "input" / "x" / "a.png")
    found = load("x", height, width).batch([0])[0][0]
    assert found.shape == (3, height, width)
    assert bool((found[0] == -1).all()) and bool((found[1] == 1).all()) and bool((found[2] == -1).all())


def test_shrinking_averages(folders):
    """A fine chequerboard becomes grey; picking single pixels would leave black or white."""
    fine = (np.indices((64, 64)).sum(0) % 2 * 255).astype(np.uint8)
    (folders / "input" / "x").mkdir()
    Image.fromarray(fine).save(folders / "input" / "x" / "a.png")
    assert load("x").batch([0])[0].abs().max() < 0.05


def test_grey_of_16_bits_alpha_palettes_and_cameras_orientation(folders):
    folder = folders / "input" / "x"
    folder.mkdir()
    Image.fromarray(np.full((8, 8), 32768, np.uint16)).save(folder / "a.png")
    write(folder / "b.png", colour=(255, 0, 0, 128), mode="RGBA")
    Image.new("RGB", (8, 8), (0, 0, 255)).quantize(4).save(folder / "c.png")
    turned = Image.new("RGB", (8, 8), (0, 0, 0))
    turned.paste((255, 255, 255), (0, 0, 8, 4))
    turned.save(folder / "d.png", exif=_orientation(3))
    pictures = load("x").batch(range(4))[0]
    assert pictures[0].unique().tolist() == pytest.approx([128 / 127.5 - 1], abs=1e-6)
    assert pictures[1, :, 0, 0].tolist() == [1, -1, -1] and pictures[2, :, 0, 0].tolist() == [-1, -1, 1]
    assert pictures[3, 0, 0, 0] == -1 and pictures[3, 0, 7, 0] == 1


def _orientation(value):
    exif = Image.Exif()
    exif[0x0112] = value
    return exif


def test_two_pictures_of_one_size_on_disk_are_two(tmp_path):
    from guidance_pack.host.training.dataset import PictureFolder

    found = set()
    for contents in (b"one picture", b"two picture", b"one picture"):
        (tmp_path / "0.png").write_bytes(contents)
        found.add(PictureFolder(tmp_path, ("0.png",), (8, 8)).sha256)
    assert len(found) == 2


def test_the_fingerprint_knows_names_sizes_and_the_shape(folders):
    folder = folders / "input" / "x"
    for name in ("a.png", "b.png"):
        write(folder / name)
    first = load("x").sha256
    assert first == load("x").sha256 and len(first) == 64
    assert load("x", 16, 8).sha256 != first
    write(folder / "b.png", size=(100, 100))
    second = load("x").sha256
    write(folder / "c.png")
    assert len({first, second, load("x").sha256}) == 3
    (folders / "input" / "x").rename(folders / "input" / "y")
    (folders / "input" / "y" / "c.png").unlink()
    assert load("y").sha256 == second  # where it lies does not matter


def test_the_list_offers_input_folders_and_made_sets(folders):
    from guidance_pack.host.training.pictures import folder_names

    assert folder_names() == []
    write(folders / "input" / "photos" / "cats" / "a.png")
    write(folders / "output" / "guidance" / "pictures" / "shapes" / "000000.png")
    assert folder_names() == ["photos", "photos/cats", "guidance/pictures/shapes [output]"]
    assert all(len(load(name)) == 1 for name in folder_names())


@pytest.mark.parametrize("folder", ["../secret", "photos/../../secret", "/etc", "C:\\x", "C:x", "a\\..\\b",
                                    "../x [output]"])
def test_folders_outside_are_refused(folders, folder):
    from guidance_pack.host.training.pictures import folder_problem

    write(folders / "secret" / "a.png")
    with pytest.raises(ValueError, match=re.escape(repr(folder)) + ".*outside ComfyUI's input folder.*choose that"):
        load(folder)
    assert "outside" in folder_problem(folder)


def test_missing_and_empty_folders_are_answered_in_words(folders):
    from guidance_pack.host.training.pictures import folder_problem

    write(folders / "input" / "photos" / "a.png")
    (folders / "input" / "empty").mkdir()
    assert "did you mean photos?" in folder_problem("photo") and folder_problem("photos") is None
    with pytest.raises(ValueError, match="There is no folder ''"):
        load("")
    with pytest.raises(ValueError, match=r"no picture in .*empty; a picture ends in \.jpg, \.jpeg, \.png, \.webp"):
        load("empty")


def test_a_file_that_is_no_picture_is_named(folders):
    folder = folders / "input" / "x"
    write(folder / "a.png")
    (folder / "b.png").write_bytes(b"not a picture")
    with pytest.raises(ValueError, match=r"b\.png cannot be read as a picture.*Remove it"):
        load("x")


def test_a_cut_off_or_vanished_file_is_named_when_it_is_read(folders):
    folder = folders / "input" / "x"
    folder.mkdir()
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    Image.fromarray(noise).save(folder / "a.png")
    write(folder / "b.png")
    found = load("x")
    (folder / "a.png").write_bytes((folder / "a.png").read_bytes()[:3000])
    (folder / "b.png").unlink()
    for index, name in enumerate(("a.png", "b.png")):
        with pytest.raises(ValueError, match=f"{name} cannot be read as a picture"):
            found.batch([index])


def test_the_cache_key_follows_the_files(folders):
    from guidance_pack.host.training.pictures import folder_fingerprint

    write(folders / "input" / "x" / "a.png")
    first = folder_fingerprint("x")
    assert first == folder_fingerprint("x")
    write(folders / "input" / "x" / "b.png")
    assert folder_fingerprint("x") != first


@pytest.mark.parametrize("kind", ["EPS", "GIF", "TIFF", "PPM", "BMP"])
def test_only_three_formats_are_opened_whatever_the_name_says(folders, kind, monkeypatch):
    """PIL would start Ghostscript for an EPS."""
    photos = folders / "input" / "photos"
    photos.mkdir()
    Image.new("RGB", (8, 8)).save(photos / "a.png", kind)
    monkeypatch.setattr("subprocess.check_call", lambda *args, **more: pytest.fail("a program was started"))
    with pytest.raises(ValueError, match="a.png cannot be read as a picture"):
        load("photos")


def test_a_name_that_is_not_utf8_in_words(folders):
    import os

    photos = folders / "input" / "photos"
    write(photos / "a.png")
    os.rename(photos / "a.png", os.path.join(photos, os.fsdecode(b"a\xff.png")))
    with pytest.raises(ValueError, match="whose name is not UTF-8; give it another name"):
        load("photos")


def test_a_link_that_leads_nowhere_and_one_round_in_circles(folders):
    from guidance_pack.host.training.pictures import folder_fingerprint

    photos = folders / "input" / "photos"
    write(photos / "a.png")
    (photos / "again").symlink_to(photos, target_is_directory=True)
    assert load("photos").files == ("a.png",)
    (photos / "b.png").symlink_to(photos / "nowhere")
    assert len(folder_fingerprint("photos")) == 64
    with pytest.raises(ValueError, match="b.png cannot .*it is no file, or a link that leads nowhere"):
        load("photos")


def test_a_picture_of_too_many_pixels_in_words(folders):
    write(folders / "input" / "photos" / "a.png", (9000, 9000), 0, "1")
    with pytest.raises(ValueError, match="it has 9000 x 9000 pixels; at most"):
        load("photos")
