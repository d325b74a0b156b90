"""A user's whole way in real queued prompts: make pictures, train experts, steer by them, load them again."""

import io
import json

import pytest
from PIL import Image
from safetensors import safe_open

from devtools import gallery

WORKFLOW = {"nodes": [{"id": 1, "type": "GuidanceTrainExperts"}], "links": []}


def node(kind, **inputs):
    return {"class_type": kind, "inputs": inputs, "_meta": {"title": kind}}


def sampled(model, prefix):
    return {
        "20": node("GuidanceClassLabel", model=["1", 0], label=""),
        "21": node("EmptyLatentImage", width=32, height=32, batch_size=2),
        "22": node("KSampler", model=model, positive=["20", 0], negative=["20", 0], latent_image=["21", 0], seed=3,
                   steps=3, cfg=1.0, sampler_name="euler", scheduler="karras", denoise=1.0),
        "23": node("VAEDecode", samples=["22", 0], vae=["1", 1]),
        "24": node("SaveImage", images=["23", 0], filename_prefix=prefix),
    }  # fmt: skip


def steered(guide):
    return node(
        "GuidanceClassifier", model=["1", 0], guide=guide, label="star", scale=5.0, cap=0.0, at="noisy input",
        decoder="vae", normalise=False, form="score shift", unit="percent", start=0.0, end=1.0,
    )  # fmt: skip


def training(name, **changed):
    widgets = {
        "name": name, "experts": 2, "iterations": 4, "batch_size": 2, "learning_rate": 0.001, "rank": 2,
        "schedule": "cosine", "seed": 0, "learn_from": "task", "temperature": 0.25, "weighting": "uniform",
        "efficient": True, "alpha": 2, "layers": "auto", "accumulate": 1, "weight_decay": 0.05, "flip": True,
        "warm_start": True,
        "precision": "fp32", "preview_scale": 4.0, **changed,
    }  # fmt: skip
    return {
        "1": node("GuidanceTinyModel", name="shapes-edm"),
        "2": node("GuidanceMakePictures", model=["1", 0], name="for-experts", count=4, batch_size=4, width=32,
                  height=32, steps=3, cfg=1.0, sampler_name="euler", scheduler="karras", seed=1),
        "3": node("GuidanceLoadGuide", name="shapes-classifier"),
        "4": node("GuidanceTrainExperts", guide=["3", 0], pictures=["2", 0], model=["1", 0], **widgets),
    }  # fmt: skip


def run(server, prompt, name):
    extra = {"extra_pnginfo": {"workflow": WORKFLOW}}
    status, answer = server.post("/prompt", {"prompt": prompt, "extra_data": extra})
    assert status == 200 and not answer.get("node_errors"), answer
    gallery.wait_for(server, answer["prompt_id"], prompt, name)


def test_from_pictures_to_steered_samples(server):
    prompt = training("prompted") | {"5": steered(["4", 0]), **sampled(["5", 0], "prompted")}
    prompt["6"] = node("LossGraphNode", loss=["4", 1], filename_prefix="prompted_loss")
    prompt["7"] = node("SaveImage", images=["4", 2], filename_prefix="prompted_curve")
    run(server, prompt, "prompted")
    path = server.base / "models" / "guides" / "prompted.safetensors"
    with safe_open(path, framework="pt") as file:
        metadata = file.metadata()
    assert json.loads(metadata["workflow"]) == WORKFLOW, "dropping the file on the page restores the graph"
    assert json.loads(metadata["prompt"])["4"]["class_type"] == "GuidanceTrainExperts"
    again = {"1": prompt["1"], "3": node("GuidanceLoadGuide", name="prompted.safetensors"), "5": steered(["3", 0])}
    run(server, again | sampled(["5", 0], "prompted_again"), "prompted again")
    pictures = server.base / "output"
    first, second = ((pictures / f"{name}_00001_.png").read_bytes() for name in ("prompted", "prompted_again"))
    assert _pixels(first) == _pixels(second), "the loaded bank steers as the trained one"


def test_nothing_runs_again_in_a_graph_that_did_not_change(server):
    """Make Pictures asks for files that were not there when it was asked first."""
    prompt = training("again") | {"5": steered(["4", 0]), **sampled(["5", 0], "again")}
    prompt["2"]["inputs"]["name"] = "drawn-once"
    run(server, prompt, "first")
    prompt["24"]["inputs"]["filename_prefix"] = "again_2"  # without a change ComfyUI takes no notice at all
    identity = gallery.submit(server, prompt, "second")
    gallery.wait_for(server, identity, prompt, "second")
    messages = server.get(f"/history/{identity}")[identity]["status"]["messages"]
    (cached,) = [detail["nodes"] for kind, detail in messages if kind == "execution_cached"]
    assert {*prompt} - {*cached} == {"24"}


def _pixels(png):
    return Image.open(io.BytesIO(png)).tobytes()


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"name": "../outside"}, "Choose a plain name such as"),
        ({"experts": 5}, "each of the 5 experts needs at least 1"),
    ],
)
def test_mistakes_are_answered_before_anything_runs(server, changed, words):
    _, answer = server.post("/prompt", {"prompt": training(**{"name": "refused", **changed})})
    reasons = [problem["details"] for problem in answer["node_errors"]["4"]["errors"]]
    assert reasons and all(words in reason for reason in reasons)


def test_a_guide_that_sees_noise_is_refused_in_words(server):
    prompt = training("noisy")
    prompt["3"] = node("GuidanceLoadGuide", name="shapes-noisy-classifier")
    with pytest.raises(Exception, match="shapes-noisy-classifier sees noise already"):
        run(server, prompt, "noisy")
