"""Cells that Compare Guidance keeps on disk: nothing is drawn twice, whoever drew it; mistakes are told in words."""

import csv
import errno
import io
from contextlib import ExitStack

import pytest
import torch
from compare_scene import chained, compared, scene

GRID = (("cfg weight", "1, 2"), ("autoguidance weight", "1.5, 3"))


@pytest.fixture(scope="module")
def tiny(comfy):
    from guidance_pack.host.models.tiny import load_tiny_model

    with torch.inference_mode():
        return tuple(map(load_tiny_model, ("shapes-edm", "shapes-edm-weak", "shapes-edm-early")))


@pytest.fixture
def cells(comfy, tmp_path, monkeypatch):
    """The folder of the cells that are kept as "mine"."""
    import folder_paths

    monkeypatch.setattr(folder_paths, "get_output_directory", lambda: str(tmp_path))
    return tmp_path / "guidance" / "cells" / "mine"


@pytest.fixture
def drawings(comfy, monkeypatch):
    """The steps of every run of the host's sampler, in order."""
    import comfy.sample

    seen, sample = [], comfy.sample.sample

    def noted(*args, **kwargs):
        seen.append(args[2])
        return sample(*args, **kwargs)

    monkeypatch.setattr(comfy.sample, "sample", noted)
    return seen


def test_a_grid_goes_on_from_disk_with_models_loaded_anew(tiny, cells, drawings):
    made = compared(scene(chained(*tiny[:2])), *GRID, name="mine")
    assert len(drawings) == len(list(cells.iterdir())) == 4
    again = compared(scene(chained(*tiny[:2])), *GRID, name="mine")
    assert len(drawings) == 4
    assert torch.equal(again.pictures, made.pictures) and torch.equal(again.grid, made.grid)
    compared(scene(chained(*tiny[:2])), GRID[0], ("autoguidance weight", "3, 4"), name="mine")
    assert len(drawings) == 6 and len(list(cells.iterdir())) == 6


def test_what_is_in_memory_goes_to_disk_once_it_has_a_name(tiny, cells, drawings):
    over = scene(chained(*tiny[:2]))
    compared(over, *GRID)
    compared(over, *GRID, name="mine")
    assert len(drawings) == len(list(cells.iterdir())) == 4
    compared(scene(chained(*tiny[:2])), *GRID, name="mine")
    assert len(drawings) == 4


@pytest.mark.parametrize("changed", ["prompt", "seed", "latents", "guide", "steps"])
def test_what_decides_a_cell_tells_it_from_others(tiny, cells, drawings, changed):
    compared(scene(chained(*tiny[:2])), ("cfg weight", "2"), name="mine")
    model = chained(tiny[0], tiny[2 if changed == "guide" else 1])
    over = scene(model, **{"prompt": {"label": "heart"}, "latents": {"batch": 1}}.get(changed, {}))
    compared(over, ("cfg weight", "2"), name="mine", **{"seed": {"seed": 4}, "steps": {"steps": 4}}.get(changed, {}))
    assert len(drawings) == 2


def test_a_cell_that_another_draws_is_waited_for_and_the_rest_drawn_meanwhile(tiny, cells, drawings, monkeypatch):
    from guidance_pack.guidance.checkpoints.atomic import name_lock

    made = compared(scene(chained(*tiny[:2])), ("steps", "2, 3"), name="mine")
    files = sorted(cells.iterdir(), key=lambda path: path.stat().st_mtime_ns)
    data = files[0].read_bytes()
    for file in files:
        file.unlink()
    drawings.clear()
    with ExitStack() as other:
        other.enter_context(name_lock(files[0]))

        def finish(_):
            files[0].write_bytes(data)
            other.close()

        monkeypatch.setattr("time.sleep", finish)
        again = compared(scene(chained(*tiny[:2])), ("steps", "2, 3"), name="mine")
    assert drawings == [3] and torch.equal(again.pictures, made.pictures) and torch.equal(again.grid, made.grid)


def test_waiting_ends_with_an_interrupt(tiny, cells, monkeypatch):
    import comfy.model_management

    from guidance_pack.guidance.checkpoints.atomic import name_lock

    compared(scene(chained(*tiny[:2])), ("cfg weight", "2"), name="mine")
    (file,) = cells.iterdir()
    file.unlink()
    monkeypatch.setattr("time.sleep", lambda _: comfy.model_management.interrupt_current_processing())
    with name_lock(file), pytest.raises(comfy.model_management.InterruptProcessingException):
        compared(scene(chained(*tiny[:2])), ("cfg weight", "2"), name="mine")
    assert not list(cells.iterdir())


def test_equal_strength_is_known_from_disk(tiny, cells, drawings):
    sides = ("cfg weight", "4"), ("equal strength", "")
    first = compared(scene(chained(*tiny[:2], auto=1.0)), *sides, name="mine")
    again = compared(scene(chained(*tiny[:2], auto=1.0)), *sides, name="mine")
    assert len(drawings) == 2 and first.table == again.table and torch.equal(first.pictures, again.pictures)
    compared(scene(chained(*tiny[:2], auto=1.0)), sides[0], ("equal strength", "plain CFG"), name="mine")
    assert len(drawings) == 2
    over = scene(chained(*tiny[:2], auto=1.0))
    compared(over, sides[0])
    made = compared(over, *sides, name="other")  # what memory holds was not measured
    assert made.table == first.table and torch.equal(made.pictures, first.pictures)
    rows = list(csv.DictReader(io.StringIO(again.table)))
    assert rows[1]["components"].startswith("plain CFG at ")


def test_mistakes_are_told_in_words(tiny, cells, monkeypatch):
    over = scene(chained(*tiny[:2]))
    for name in ("a/b", "..", "x" * 300):
        with pytest.raises(ValueError, match="Choose a plain name such as weights-of-portraits"):
            compared(over, ("cfg weight", "2"), name=name)
    assert not cells.parent.exists()
    compared(over, ("cfg weight", "2"), name="mine")
    (file,) = cells.iterdir()
    file.write_bytes(b"no tensors at all")
    with pytest.raises(ValueError, match=r"safetensors is damaged, or no cell of Compare Guidance\. Delete it"):
        compared(scene(chained(*tiny[:2])), ("cfg weight", "2"), name="mine")

    from guidance_pack.guidance.checkpoints import atomic

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(atomic, "save_file", full)
    with pytest.raises(OSError, match="The disk is full .* The cells before it are kept"):
        compared(scene(chained(*tiny[:2])), ("cfg weight", "3"), name="mine")
    assert [path.name for path in cells.iterdir()] == [file.name]
