"""Experts of today's bases: heads that look at noisy latents, and pixel-space flow models steered by a bank."""

import json
from dataclasses import replace

import numpy as np
import pytest
import steering
import torch
from engine_probe import far_apart
from guide_conformance import levels
from host_families import EVERY
from host_models import MODELS, load
from test_engine_gradients import pushes
from test_train_experts import RECIPE, drawn, scene  # noqa: F401 - fixtures

from guidance_pack.guidance.experts.file import read_bank, write_bank
from guidance_pack.guidance.networks.tiny.files import NetworkFileError
from guidance_pack.guidance.networks.tiny.latent_head import LatentHead
from guidance_pack.guidance.rules.gradient import GradientGuidance

FLOW = replace(RECIPE, schedule="flow", iterations=4)
SD15 = MODELS["sd15"]


@pytest.mark.parametrize(("task", "outputs"), [("classification", 5), ("score", 1), ("depth", 1), ("segmentation", 4)])
def test_a_head_takes_latents_of_any_size(task, outputs):
    head = LatentHead(16, task, outputs, width=8)
    head.initialise(0)
    assert LatentHead(**json.loads(json.dumps(head.settings))).settings == head.settings
    for size in ((8, 8), (7, 13)):
        found = head(torch.randn(2, 16, *size))
        assert found.shape == ((2, outputs, *size) if task in ("depth", "segmentation") else (2, outputs))


@pytest.fixture(scope="module")
def latent_model(comfy):
    return steering.as_nodes_do(SD15.build, 0), steering.tiny_autoencoder()


@pytest.fixture
def taught(scene, latent_model):  # noqa: F811 - the fixture
    """A bank of the embedded classifier's experts that look at SD 1.5's latents."""
    model, vae = latent_model
    return scene, scene.train("latent", FLOW, model=model, vae=vae).guide


def test_experts_of_latents_steer_without_a_vae(taught, latent_model):
    from guidance_pack.host.engine.steer import steer_to_class
    from guidance_pack.host.models.guides import load_guide

    folder, guide = taught
    first = guide.guide.first
    assert (first.domain, first.sees, first.latents) == ("latent", "noisy", "SD15")
    assert guide.guide.experts.edges == pytest.approx([1.0])  # of the flow at u = 1/2
    header = read_bank(folder.guides / "latent.safetensors").header
    assert header.head["channels"] == 4 and header.base == "shapes-classifier" and header.schedule == "flow"
    again = load_guide("latent.safetensors")
    picture = torch.randn(1, 4, 8, 8)
    said = [g.patchers[0].model.use(1)(picture) for g in (guide, again)]
    assert torch.equal(*said) and float(said[0].abs().max()) > 0
    with torch.inference_mode():
        steered = steer_to_class(
            latent_model[0], again, "circle", GradientGuidance(500.0), at="auto", decoder="vae", vae=None
        )
    found = pushes(latent_model[0], steered, SD15, batch=2)
    apart = [far_apart(call.denoised, own) for call, own in found]
    assert all(torch.isfinite(call.denoised).all() for call, _ in found) and min(apart) > 0 and max(apart) > 1e-3, apart


@pytest.mark.parametrize("guide", ["shapes-classifier", "shapes-depth"])
def test_the_nodes_picture_shows_what_experts_of_latents_read(scene, latent_model, guide, monkeypatch):  # noqa: F811
    """Below the curve: the picture, what the clean network says of it, and a column for each expert as it comes."""
    from guidance_pack.host.training import train

    shown = []
    monkeypatch.setattr(train, "show_unfinished", shown.append)
    model, vae = latent_model
    request = scene.request(f"read-{guide}", replace(FLOW, iterations=2), guide, model=model, vae=vae)
    with torch.inference_mode():
        _, curve = train.run(request, model, 4.0)
    heights = {picture.size[1] for picture in shown}
    assert curve.shape[1] in heights and curve.shape[1] > 440 + 3 * 110
    cell = curve[0, 440 + 76 : 440 + 180, 19 + 116 * 3 : 19 + 116 * 4]  # the second expert's answer to the first
    early = torch.from_numpy(np.asarray(shown[0]) / 255.0)[440 + 76 : 440 + 180, 19 + 116 * 3 : 19 + 116 * 4]
    assert float((cell - early).abs().max()) > 0.3, "it said 'not yet' after the first expert"
    with torch.inference_mode():
        assert train.run(replace(request, name=f"none-{guide}"), model, 0.0)[1].shape[1] == 440


def test_another_models_latents_are_refused(taught):
    from guidance_pack.host.engine.steer import steer_to_class

    with pytest.raises(ValueError, match="looks at SD15 latents, and .* makes ChromaRadiance latents"):
        steer_to_class(
            steering.as_nodes_do(MODELS["chroma_radiance"].build, 0), taught[1], "circle", GradientGuidance(1.0),
            at="auto", decoder="vae", vae=None,
        )


def test_lessons_are_latents_and_the_clean_networks_answers(scene, latent_model):  # noqa: F811
    from guidance_pack.host.models.guides import load_guide
    from guidance_pack.host.training.latents import LatentLessons, LatentSpace

    model, vae = latent_model
    guide = load_guide("shapes-depth")
    network, spec = guide.patchers[0].model, guide.guide.first
    space = LatentSpace.of(model, vae, spec)
    pictures = scene.pictures.batch([0, 1])[0]
    lessons = LatentLessons(space, lambda rows: scene.pictures.batch(rows), network, spec)
    latents, answers = lessons(torch.tensor([1, 0, 1]))
    assert latents.shape == (3, 4, 4, 4) and answers.shape == (3, 1, 4, 4)
    assert torch.equal(latents[0], latents[2]) and not torch.equal(latents[0], latents[1])
    scale = model.get_model_object("latent_format").scale_factor
    with torch.no_grad():
        own = vae.encode(((pictures[1:] + 1) / 2).movedim(1, -1)).float() * scale
        torch.testing.assert_close(latents[:1], own)
        depth = spec.output(network, pictures[1:], levels(0.1))
    torch.testing.assert_close(answers[0].mean(), depth.mean(), rtol=0.02, atol=0.02)


def test_what_cannot_be_learned_of_latents_in_words(scene, latent_model):  # noqa: F811
    model, vae = latent_model
    pixels = steering.as_nodes_do(MODELS["chroma_radiance"].build, 0)
    for given, words in (
        ({"vae": vae}, "connect the model whose latents"),
        ({"vae": vae, "model": pixels}, "works on pictures, which need no VAE; disconnect vae"),
        ({"vae": steering.tiny_autoencoder(channels=16), "model": model}, "decodes latents of 16 channels"),
    ):
        with pytest.raises(ValueError, match=words):
            scene.train("wrong", FLOW, **given)
    assert not list(scene.guides.glob("*.safetensors"))


def test_a_head_that_cannot_be_is_refused_in_words(taught):
    from guidance_pack.host.models.guides import load_guide

    path = taught[0].guides / "latent.safetensors"
    bank = read_bank(path)
    for changed in ({"width": 7}, {"colours": 3}, {"task": "depth"}, {"channels": 10**9}, {"width": 4096}):
        head = {**bank.header.head, **changed}
        write_bank(path, replace(bank, header=replace(bank.header, head=head)))
        with pytest.raises(NetworkFileError, match="its header cannot be right|does not fit"):
            load_guide("latent.safetensors")
    with pytest.raises(ValueError, match="latents and a head, or neither"):
        replace(bank.header, head=None)


@pytest.mark.many
@pytest.mark.parametrize("name", ["chroma_radiance", "z_image_pixel", "pixel_dit", "pid", "hidream_o1"])
def test_pixel_space_flow_models_are_steered_at_their_noisy_input_by_a_bank(comfy, name):
    from guidance_pack.host.engine.steer import steer_to_class
    from guidance_pack.host.models.guides import load_guide

    spec = EVERY[name]
    model = steering.as_nodes_do(load, spec, 0)
    with torch.inference_mode():
        bank = load_guide("shapes-experts")
        rule = GradientGuidance(50.0)
        steered = steer_to_class(model, bank, "circle, star", rule, at="auto", decoder="vae", vae=None)
    for call, own in pushes(model, steered, spec, batch=2):
        assert torch.isfinite(call.denoised).all()
        moved = (call.denoised - own).flatten(1).norm(dim=1)
        assert bool((moved > 0).all()) == (float(call.level) < 1), f"{name} at {float(call.level):g}"  # 1: no picture
