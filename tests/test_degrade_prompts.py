"""Degraded Model inside real queued prompts: off is exact, mistakes are answered in words, and it steers."""

import json

import pytest
import torch
from safetensors.torch import load_file

from devtools import gallery


def node(kind, /, **inputs):
    return {"class_type": kind, "inputs": inputs}


def prompt(name, model="shapes-edm", weight=2.0, **damage):
    usual = {"kind": "skipped layers", "strength": 1.0, "layers": "", "seed": 0, "blur": 10.0, "pooling": 2}
    settings = {**usual, **damage}
    off = settings["strength"] == 0.0
    return {
        "1": node("GuidanceTinyModel", name=model),
        "2": node("TestRecordEvaluations", model=["1", 0], name=name),
        "3": node("GuidanceDegrade", model=["2", 0], **settings),
        "4": node("GuidanceAutoguidance", model=["2", 0], guide_model=["3", 0], weight=weight, unit="percent",
                  start=0.0, end=1.0, reuse=1),
        "5": node("GuidanceClassLabel", model=["1", 0], label="star"),
        "6": node("EmptyLatentImage", width=32, height=32, batch_size=2),
        "7": node("KSampler", model=["3" if off else "4", 0], positive=["5", 0], negative=["5", 0],
                  latent_image=["6", 0], seed=3, steps=3, cfg=1.0, sampler_name="euler", scheduler="karras",
                  denoise=1.0),
        "8": node("VAEDecode", samples=["7", 0], vae=["1", 1]),
        "9": node("SaveImage", images=["8", 0], filename_prefix=name),
    }


def run(server, name, **damage):
    made = prompt(name, **damage)
    gallery.wait_for(server, gallery.submit(server, made, name), made, name)
    return [load_file(server.base / "output" / f"{name}_{call}.safetensors")["denoised"] for call in range(3)]


def test_it_steers_and_off_does_not(server):
    guided, off = run(server, "degraded"), run(server, "degraded_off", strength=0.0)
    plain = run(server, "degraded_weight_1", weight=1.0)
    assert all(torch.equal(a, b) for a, b in zip(off, plain, strict=True))
    assert all((a - b).abs().max() > 1e-3 for a, b in zip(guided[:-1], plain[:-1], strict=True))  # the last is clean


@pytest.mark.parametrize(("damage", "words"), [
    ({"strength": 1.0, "kind": "dropout"}, "Use at most 0.9; usual are 0.05 to 0.2"),
    ({"kind": "dropouts"}, "dropouts"),
    ({"strength": 1.5}, "1.5"),
])  # fmt: skip
def test_mistakes_in_widgets_are_answered_before_anything_runs(server, damage, words):
    status, answer = server.post("/prompt", {"prompt": prompt("wrong", **damage)})
    assert status == 400 and words in json.dumps(answer)


def test_a_layer_that_is_not_there_stops_the_prompt_in_words(server):
    made = prompt("wrong", layers="double 7")
    with pytest.raises(Exception, match=r"layers has 'double 7', and this model has down 0, deep 0-2, up 1"):
        gallery.wait_for(server, gallery.submit(server, made, "wrong"), made, "wrong")
