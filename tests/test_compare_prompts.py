"""Compare Guidance in real queued prompts: the picture, the cells, an interrupt from the page, mistakes in widgets."""

import io
import json
import time

import numpy as np
import pytest
from PIL import Image

from devtools import gallery
from devtools.terminal import DevError

STEPS = 20
GAP, SEAM = 12, 2  # between the cells of the grid; between the pictures of a cell


def node(kind, **inputs):
    return {"class_type": kind, "inputs": inputs, "_meta": {"title": kind}}


def comparing(name, **changed):
    """CFG and autoguidance on a MODEL that writes down its evaluations, compared; grid and cells saved."""
    where = {"unit": "percent", "start": 0.0, "end": 1.0}
    widgets = {
        "x_parameter": "autoguidance weight", "x_values": "off, 2, 3", "y_parameter": "cfg weight",
        "y_values": "off, 2", "seed": 4, "steps": STEPS, "cfg": 1.0, "sampler_name": "euler", "scheduler": "karras",
        "denoise": 1.0, "cell_size": 64, "x_which": 1, "y_which": 1, **changed,
    }  # fmt: skip
    return {
        "1": node("GuidanceTinyModel", name="shapes-edm"),
        "2": node("GuidanceTinyModel", name="shapes-edm-weak"),
        "3": node("TestRecordEvaluations", model=["1", 0], name=name),
        "4": node("GuidanceCFG", model=["3", 0], weight_from="node", weight=2.0, **where),
        "5": node("GuidanceAutoguidance", model=["4", 0], guide_model=["2", 0], weight=2.0, reuse=1, **where),
        "6": node("GuidanceClassLabel", model=["1", 0], label="star"),
        "7": node("GuidanceClassLabel", model=["1", 0], label=""),
        "8": node("EmptyLatentImage", width=32, height=32, batch_size=2),
        "9": node("GuidanceCompare", model=["5", 0], positive=["6", 0], negative=["7", 0], latent_image=["8", 0],
                  vae=["1", 1], **widgets),
        "10": node("SaveImage", images=["9", 0], filename_prefix=f"{name}_grid"),
        "11": node("SaveImage", images=["9", 1], filename_prefix=f"{name}_cells"),
        "12": node("PreviewAny", source=["9", 2]),
    }


def run(server, prompt, name="compare"):
    return gallery.wait_for(server, gallery.submit(server, prompt, name), prompt, name)


def picture(server, image):
    return np.asarray(Image.open(io.BytesIO(gallery.fetch_picture(server, image))).convert("RGB"))


def found_at(strip, wanted):
    """The rows of a strip from which it shows a picture, but for the rounding of saved files."""
    rows = range(len(strip) - len(wanted) + 1)
    return [row for row in rows if np.abs(strip[row : row + len(wanted)].astype(int) - wanted).max() <= 2]


def evaluations(server, name):
    return len(list((server.base / "output").glob(f"{name}_*.safetensors")))


def test_grid_cells_and_table_arrive(server):
    outputs = run(server, comparing("arrived"))
    (grid,), cells = outputs["10"]["images"], outputs["11"]["images"]
    assert len(cells) == 12 and evaluations(server, "arrived") == 6 * STEPS
    shown = picture(server, grid)
    assert np.array_equal(shown, picture(server, outputs["9"]["images"][0]))
    left = shown.shape[1] - GAP - 2 * 32 - SEAM  # the last column: pairs of pictures, a pixel each of theirs
    heights = [found_at(shown[:, left : left + 32], picture(server, cells[index])) for index in (4, 10)]
    assert [len(found) for found in heights] == [1, 1] and heights[1][0] - heights[0][0] == 32 + GAP
    table = json.dumps(outputs["12"])
    assert "column: autoguidance weight,row: cfg weight" in table and table.count("euler,karras") == 6


def test_an_interrupted_grid_goes_on_with_the_rest(server):
    """The page's button; the probe below the components counts what the next run evaluates."""
    whole = run(server, comparing("whole"))
    prompt = comparing("stopped")
    identity = gallery.submit(server, prompt, "stopped")
    deadline = time.monotonic() + 120
    while evaluations(server, "stopped") < 2.5 * STEPS and time.monotonic() < deadline:
        time.sleep(0.005)
    server.post("/interrupt", {})
    with pytest.raises(DevError, match="was interrupted"):
        gallery.wait_for(server, identity, prompt, "stopped")
    before = evaluations(server, "stopped")
    done = before // STEPS
    assert 2 <= done < 6
    outputs = run(server, prompt, "stopped")
    assert evaluations(server, "stopped") - before == (6 - done) * STEPS
    assert np.array_equal(picture(server, outputs["10"]["images"][0]), picture(server, whole["10"]["images"][0]))
    cells = [[picture(server, image) for image in made["11"]["images"]] for made in (outputs, whole)]
    assert np.array_equal(*cells)


def test_another_value_draws_only_the_new_cells(server):
    run(server, comparing("grown"))
    run(server, comparing("grown", x_values="off, 2, 3, 4"))
    assert evaluations(server, "grown") == 8 * STEPS


def test_more_models_are_columns(server):
    prompt = comparing("models", x_parameter="model", x_values="", y_parameter="none", y_values="", steps=2)
    prompt["9"]["inputs"] |= {"models.model_2": ["4", 0], "models.model_3": ["3", 0]}
    outputs = run(server, prompt)
    assert len(outputs["11"]["images"]) == 6
    table = json.dumps(outputs["12"])
    assert all(words in table for words in ("1: cfg 2, autoguidance 2", "2: cfg 2", "3: unguided"))


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"x_values": "1, two"}, "x_values has 'two'. autoguidance weight takes numbers"),
        ({"y_values": ""}, "y_values is empty"),
        ({"x_parameter": "autoguidance wait"}, "is not; did you mean autoguidance weight?"),
        ({"x_values": "1..2 step 0.02", "y_values": "1..2 step 0.5"}, "The grid has 153 cells; at most 100"),
        ({"y_parameter": "autoguidance weight"}, "both 'autoguidance weight'"),
    ],
)
def test_mistakes_in_widgets_are_answered_before_anything_runs(server, changed, words):
    status, answer = server.post("/prompt", {"prompt": comparing("wrong", **changed)})
    assert status == 400 and words in json.dumps(answer)


def test_a_component_that_is_not_there_is_answered_in_one_sentence(server):
    with pytest.raises(DevError, match="no rescale. It carries: cfg .*Add the component"):
        run(server, comparing("missing", x_parameter="rescale phi", x_values="0, 1"))
    assert evaluations(server, "missing") == 0
