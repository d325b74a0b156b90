"""Make Pictures and Load Pictures in real queued prompts: files, previews, the cache, interrupts and mistakes."""

import json
import time

import pytest
from PIL import Image

from devtools import gallery
from devtools.terminal import DevError


def node(kind, **inputs):
    return {"class_type": kind, "inputs": inputs, "_meta": {"title": kind}}


def making(name, **changed):
    settings = {"count": 5, "batch_size": 2, "width": 32, "height": 32, "steps": 3, "cfg": 1.0, "sampler_name": "ddim",
                "scheduler": "karras", "seed": 0, **changed}
    return {
        "1": node("GuidanceTinyModel", name="shapes-edm"),
        "2": node("GuidanceMakePictures", model=["1", 0], name=name, **settings),
        "3": node("SaveImage", images=["2", 1], filename_prefix=name),
    }


def run(server, prompt):
    return gallery.wait_for(server, gallery.submit(server, prompt, "pictures"), prompt, "pictures")


def files(server, name):
    folder = server.base / "output" / "guidance" / "pictures" / name
    return {file.name: file.read_bytes() for file in folder.glob("*.png")} if folder.is_dir() else {}


def interrupted(server, prompt):
    """Queue a prompt, and interrupt it when its first pictures are there."""
    name = prompt["2"]["inputs"]["name"]
    identity = gallery.submit(server, prompt, name)
    deadline = time.monotonic() + 120
    while len(files(server, name)) < 2 and time.monotonic() < deadline:
        time.sleep(0.02)
    server.post("/interrupt", {})
    with pytest.raises(DevError, match="was interrupted"):
        gallery.wait_for(server, identity, prompt, name)


def test_a_set_is_made_shown_and_loaded_again(server):
    outputs = run(server, making("queued"))
    assert sorted(files(server, "queued")) == [f"{index:06d}.png" for index in range(5)]
    assert len(outputs["2"]["images"]) == 5 and len(outputs["3"]["images"]) == 5
    loading = {
        "1": node("GuidanceLoadPictures", folder="guidance/pictures/queued [output]", width=32, height=32),
        "2": node("SaveImage", images=["1", 1], filename_prefix="loaded"),
    }
    shown = run(server, loading)["2"]["images"]
    saved = [Image.open(server.base / "output" / image["filename"]).convert("RGB").tobytes() for image in shown]
    folder = server.base / "output" / "guidance" / "pictures" / "queued"
    made = [Image.open(file).convert("RGB").tobytes() for file in sorted(folder.glob("*.png"))]
    assert all(max(abs(a - b) for a, b in zip(*pair, strict=True)) <= 1 for pair in zip(saved, made, strict=True))
    options = server.get("/object_info/GuidanceLoadPictures")["GuidanceLoadPictures"]["input"]["required"]["folder"]
    assert "guidance/pictures/queued [output]" in json.dumps(options)


def test_an_interrupted_set_goes_on_to_the_same_bytes(server):
    run(server, making("whole", count=60))
    stopped = making("stopped", count=60)
    interrupted(server, stopped)
    found = files(server, "stopped")
    assert 0 < len(found) < 60 and len(found) % 2 == 0
    run(server, stopped)
    assert files(server, "stopped") == files(server, "whole")
    assert found.items() <= files(server, "stopped").items()


def test_a_deleted_picture_is_made_again(server):
    """ComfyUI's cache alone would not notice."""
    run(server, making("deleted"))
    before = files(server, "deleted")
    (server.base / "output" / "guidance" / "pictures" / "deleted" / "000003.png").unlink()
    run(server, making("deleted"))
    assert files(server, "deleted") == before


def test_other_settings_are_answered_in_one_sentence(server):
    run(server, making("taken"))
    with pytest.raises(DevError, match="made otherwise.*seed 0 instead of 1.*Choose another name"):
        run(server, making("taken", seed=1))


def test_mistakes_in_widgets_are_answered_before_anything_runs(server):
    status, answer = server.post("/prompt", {"prompt": making("../outside")})
    assert status == 400 and "Choose a plain name such as shapes-64" in json.dumps(answer)
    loading = {
        "1": node("GuidanceLoadPictures", folder="../outside", width=32, height=32),
        "2": node("PreviewImage", images=["1", 1]),
    }
    status, answer = server.post("/prompt", {"prompt": loading})
    assert status == 400 and "outside ComfyUI's input folder" in json.dumps(answer)
    loading["1"]["inputs"]["folder"] = "nowhere"
    status, answer = server.post("/prompt", {"prompt": loading})
    assert status == 400 and "There is no folder 'nowhere'" in json.dumps(answer)
