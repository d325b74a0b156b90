"""The shipped workflows in the real page, in both renderers: they open, run and show what they are for."""

import base64
import io
import json
import re
from dataclasses import replace

import browser
import numpy as np
import pytest
from browser import workflow
from PIL import Image

from devtools import gallery
from devtools.prompt import to_prompt
from guidance_pack.guidance.experts.file import read_bank, write_bank

pytestmark = pytest.mark.usefixtures("no_complaints")
APP = "App-"  # those that open as apps: test_browser_results.py
WORKFLOWS = sorted(file.stem for file in (browser.ROOT / "workflows").glob("*.json") if not file.stem.startswith(APP))
SHEETS = {
    "01-First-steps-CFG": 2,
    "02-Autoguidance": 3,
    "03-CFG-and-autoguidance": 4,
    "04-CFG-in-an-interval": 3,
    "05-Too-much-CFG-and-its-cures": 4,
    "06-Classifier-guidance": 4,
    "More-A-weight-that-chooses-itself": 3,
    "More-Tune-guidance": 2,
    "More-Weights-that-are-learned": 3,
    "More-Two-classifiers-in-turn": 2,
    "07-Follow-depth-or-segmentation": 3,
    "More-Train-a-LoRA-with-P2": 2,
    "09-Guided-by-its-degraded-self": 3,
    "More-A-LoRA-guided-by-its-past": 2,
    "11-Look-into-a-run": 1,
    "10-Compare-settings": 1,
    "12-Train-experts": 2,
    "More-Train-experts-of-maps": 3,
    "08-Experts-PPAP": 2,
    "More-Experts-follow-maps": 4,
}
SHORTER = {"More-Train-experts-of-maps": {"GuidanceTrainExperts": {"iterations": 30}}}  # as long in 12-Train-experts
DROP = """async (data) => {
    const bytes = Uint8Array.from(atob(data), (letter) => letter.charCodeAt(0));
    await app.handleFile(new File([bytes], "dropped.safetensors"));
}"""


def test_every_workflow_that_needs_no_file_is_run():
    assert set(SHEETS) == {name for name in WORKFLOWS if not gallery.files_of(workflow(name))}


def open_whole(page, name):
    """Open a workflow with all its nodes and curves."""
    page.open(name)
    assert page.missing() == []
    for curve in page.curves():
        assert curve["shown"], curve
        assert curve["lines"] or curve["bands"] or "after a run" in curve["words"], curve


@pytest.mark.parametrize("name", [name for name in WORKFLOWS if name not in SHEETS])
def test_workflows_that_need_files_open(page, name):
    open_whole(page, name)


@pytest.mark.parametrize("name", SHEETS)
def test_workflows_run_and_show_what_they_are_for(pages, name, server, object_info):
    """In both renderers, of which the second is given the results of the first. A node shows its result once, alone,
    and has room for it: no node lies on another, before the run and after."""
    shipped = {number: node["inputs"] for number, node in to_prompt(workflow(name), object_info).items()}
    for page in pages.values():
        open_whole(page, name)
        assert page.overlaps() == []
        assert {number: node["inputs"] for number, node in page.prompt().items()} == shipped
        page.set_all(SHORTER.get(name, {}))
        assert page.run() == "success"
        for node in page.pictures():
            assert node["shown"] == node["made"] and not node["made"][0].endswith(".jpg"), node
        assert page.overlaps() == []
        check_results(server, name)


def check_results(server, name):
    """As many sheets as lanes, each with its verdict, none blank and no two alike."""
    (run,) = server.get("/history?max_items=1").values()
    kinds = {str(node["id"]): node["type"] for node in workflow(name)["nodes"]}
    sheets = [entry for number, entry in run["outputs"].items() if kinds[number] == "GuidanceScore"]
    shown = [image for entry in sheets or run["outputs"].values() for image in entry.get("images", ())]
    shown = shown if sheets else [image for image in shown if image["type"] == "output"]
    assert len(shown) == SHEETS[name]
    assert all(re.match(r"\d+ of \d+ are as asked|\d+% of the pixels|[01]\.\d\d is the", e["text"][0]) for e in sheets)
    pixels = [pixels_of(server, image) for image in shown]
    assert all(picture.std() > 0.02 for picture in pixels)
    assert all(differ(first, second) for i, first in enumerate(pixels) for second in pixels[:i])


def differ(first, second):
    return first.shape != second.shape or bool((first != second).any())


def pixels_of(server, image):
    return np.asarray(Image.open(io.BytesIO(gallery.fetch_picture(server, image))), dtype=np.float32) / 255.0


def test_a_dropped_bank_restores_the_workflow_that_made_it(page, tmp_path):
    made, path = workflow("12-Train-experts"), tmp_path / "dropped.safetensors"
    bank = read_bank(browser.ROOT / "assets" / "shapes-experts.safetensors")
    write_bank(path, replace(bank, workflow={"workflow": json.dumps(made)}))
    page.open("01-First-steps-CFG")
    page.do(DROP, base64.b64encode(path.read_bytes()).decode())
    page.tab.wait_for_function("() => app.rootGraph.nodes.some((node) => node.type === 'GuidanceTrainExperts')")
    assert sorted(node["type"] for node in page.saved()["nodes"]) == sorted(node["type"] for node in made["nodes"])
    assert page.missing() == []
