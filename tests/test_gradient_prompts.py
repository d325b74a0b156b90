"""Gradients inside real queued prompts: every push is the slope of the guide's log-probability, in float64, by hand."""

import json
from pathlib import Path

import pytest
import steering
import torch
from safetensors.torch import load_file

from devtools import gallery
from guidance_pack.guidance.checkpoints.guide_source import GuideSource
from guidance_pack.guidance.guides.tiny import TinyFile
from guidance_pack.guidance.networks.tiny import files
from guidance_pack.guidance.networks.tiny.preconditioning import precondition

ASSETS = Path(__file__).resolve().parent.parent / "assets"
STEPS, SCALE, STAR = 4, 20.0, 3
PLACES = {"noisy input": "shapes-noisy-classifier", "denoised": "shapes-classifier",
          "through denoiser": "shapes-classifier"}


def network(name):
    """An embedded guide in float64 and what it says of itself."""
    built, spec = TinyFile().load(GuideSource(ASSETS / f"{name}.safetensors", name))
    return built.double(), spec


def denoiser():
    file = files.read_denoiser(ASSETS / "shapes-edm.safetensors")
    built = precondition(files.build(file).double(), "edm", file.sigma_data)
    return lambda x, sigma: built(x, sigma.double(), torch.full((len(x),), len(file.labels)))


def node(kind, **inputs):
    return {"class_type": kind, "inputs": inputs}


def prompt(name, at, **guided):
    """Sample without a class, record inside and outside Classifier Guidance, save the pictures."""
    settings = {
        "label": "star", "scale": SCALE, "cap": 0.0, "at": at, "decoder": "vae", "normalise": False,
        "form": "score shift", "unit": "percent", "start": 0.0, "end": 1.0, **guided,
    }
    return {
        "1": node("GuidanceTinyModel", name="shapes-edm"),
        "2": node("GuidanceLoadGuide", name=PLACES[at]),
        "3": node("TestRecordEvaluations", model=["1", 0], name=f"{name}_guided"),
        "4": node("GuidanceClassifier", model=["3", 0], guide=["2", 0], **settings),
        "5": node("TestRecordEvaluations", model=["4", 0], name=f"{name}_own"),
        "6": node("GuidanceClassLabel", model=["1", 0], label=""),
        "7": node("EmptyLatentImage", width=32, height=32, batch_size=2),
        "8": node("KSampler", model=["5", 0], positive=["6", 0], negative=["6", 0], latent_image=["7", 0], seed=3,
                  steps=STEPS, cfg=1.0, sampler_name="euler", scheduler="karras", denoise=1.0),
        "9": node("VAEDecode", samples=["8", 0], vae=["1", 1]),
        "10": node("SaveImage", images=["9", 0], filename_prefix=name),
    }


def run(server, name, made):
    gallery.wait_for(server, gallery.submit(server, made, name), made, name)


def recorded(server, name):
    """The pairs (guided, own) of every evaluation."""
    folder = server.base / "output"
    return [
        tuple(load_file(folder / f"{name}_{kind}_{call}.safetensors") for kind in ("guided", "own"))
        for call in range(STEPS)
    ]


@pytest.mark.parametrize("at", PLACES)
def test_every_push_is_the_slope_of_the_log_probability(server, at):
    name = at.replace(" ", "_")
    run(server, name, prompt(name, at))
    guide, spec = network(PLACES[at])
    main = denoiser()
    generator = torch.Generator().manual_seed(0)
    for guided, own in recorded(server, name)[:-1]:  # at the last level, 0.002, the push is lost in float32
        assert torch.equal(guided["x"], own["x"])
        sigma = guided["sigma"].double()
        level = sigma.reshape(-1, 1, 1, 1)
        push = (guided["denoised"] - own["denoised"]).double() / SCALE

        def score(leaf, sigma=sigma, level=level):
            if at == "noisy input":
                return steering.log_probability(
                    guide, leaf / (1 + level**2) ** 0.5, STAR, spec.schedule.timestep(sigma)
                )
            return steering.log_probability(guide, leaf if at == "denoised" else main(leaf, sigma), STAR)

        at_leaf = (own["denoised"] if at == "denoised" else guided["x"]).double()
        gradient = push / (level**2 / (1 + level**2) if at == "denoised" else level**2)
        noise = torch.randn(at_leaf.shape, generator=generator, dtype=torch.float64)
        direction = gradient / gradient.norm() + 0.1 * noise / noise.norm()
        slope = steering.slope(score, at_leaf, direction, 1e-5 * max(1.0, float(sigma[0])))
        claimed = float((gradient * direction).sum())
        assert claimed == pytest.approx(slope, rel=3e-3), f"at sigma {float(sigma[0]):g}"


def test_scale_0_is_bit_identical_and_the_guide_is_never_loaded(server):
    run(server, "off", prompt("off", "denoised", scale=0.0))
    for guided, own in recorded(server, "off"):
        assert torch.equal(guided["denoised"], own["denoised"])


def test_mistakes_in_widgets_are_answered_before_anything_runs(server):
    made = prompt("wrong", "denoised", start=0.8, end=0.2)
    status, answer = server.post("/prompt", {"prompt": made})
    assert status == 400 and "start is 0.8 and end is 0.2" in json.dumps(answer)
    made = prompt("wrong", "denoised")
    made["2"]["inputs"]["name"] = "shapes-clasifier"
    status, answer = server.post("/prompt", {"prompt": made})
    assert status == 400 and "shapes-classifier" in json.dumps(answer)
