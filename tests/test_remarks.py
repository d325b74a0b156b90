"""Uses that are allowed but seldom meant get a line of words on their node; those that are surely wrong are refused."""

import pytest
import torch
from host_models import MODELS, sample

NODE = "7"


@pytest.fixture
def said(comfy, monkeypatch):
    """What the page was told of the node that is executed, as in a queued prompt."""
    import server
    from comfy_execution.utils import CurrentNodeContext

    words = []

    class Page:
        client_id = "someone"

        def send_sync(self, event, data, client):
            pass

        def send_progress_text(self, text, node, client):
            words.append(text)
            assert (node, client) == (NODE, "someone")

    monkeypatch.setattr(server.PromptServer, "instance", Page(), raising=False)
    with CurrentNodeContext("prompt", NODE, 0):
        yield words


@pytest.fixture(scope="module")
def tiny(comfy):
    from guidance_pack.host.common.labels import class_conditioning
    from guidance_pack.host.models.tiny import load_tiny_model

    model = load_tiny_model("shapes-edm")
    return model, class_conditioning(model, "star")


def drawn(model, positive, size=8, cfg=1.0):
    return sample(model, positive, positive, {"samples": torch.zeros(1, 3, size, size)}, steps=1, cfg=cfg)


def cfg_combine(model, weight_from="sampler"):
    from guidance_pack.nodes.cfg import GuidanceCFG

    return GuidanceCFG.execute(
        model=model, weight_from=weight_from, weight=2.0, unit="percent", start=0.0, end=1.0
    ).result[0]


def test_a_degraded_model_in_a_sampler_gets_a_word_and_as_a_guide_none(tiny, said):
    import engine_probe as probe

    from guidance_pack.host.degrade.degrade import degrade

    model, positive = tiny
    weak = degrade(model, "skipped layers", 1.0)
    drawn(probe.guided(model, weak, cfg=False), positive)
    drawn(model, positive)
    assert said == []
    drawn(weak, positive)
    assert said == ["This draws with a Degraded Model. It is meant for guide_model of Autoguidance."]


def test_a_stop_of_no_cfg_gets_a_word(tiny, said):
    from guidance_pack.guidance.rules.adaptive_stop import AdaptiveStop
    from guidance_pack.host.engine.install import with_rule

    model, positive = tiny
    drawn(with_rule(model, AdaptiveStop()), positive, cfg=2.0)
    assert said == []
    drawn(with_rule(model, AdaptiveStop()), positive)
    assert said == ["Adaptive Weight stops CFG, and the sampler's cfg is 1, so there is none to stop. Raise cfg."]


def test_the_samplers_cfg_of_1_gets_a_word(tiny, said):
    model, positive = tiny
    drawn(cfg_combine(model), positive, cfg=2.0)
    drawn(cfg_combine(model, "node"), positive, cfg=1.0)
    assert said == []
    drawn(cfg_combine(model), positive, cfg=1.0)
    assert len(said) == 1 and "the sampler's cfg, which is 1" in said[0]


@pytest.mark.parametrize(
    ("scale", "cap", "count"), [(10.0, 0.0, 0), (10_000.0, 0.0, 1), (-5e3, 0.0, 1), (1e4, 0.5, 0)]
)
def test_a_huge_scale_gets_a_word(tiny, said, scale, cap, count):
    from guidance_pack.host.models.guides import load_guide
    from guidance_pack.nodes.gradient import GuidanceClassifier

    GuidanceClassifier.execute(
        model=tiny[0], guide=load_guide("shapes-classifier"), label="star", scale=scale, cap=cap, at="denoised",
        decoder="vae", normalise=False, form="score shift", unit="percent", start=0.0, end=1.0,
    )
    assert len(said) == count and all(f"scale is {scale:g}" in words for words in said)


def test_the_embedding_of_a_text_is_refused_by_networks_of_classes(tiny):
    with pytest.raises(ValueError, match="TinyModel reads the class of a picture.*Connect Class Label"):
        drawn(tiny[0], MODELS["sd15"].conditioning(1))


def test_pictures_far_larger_than_the_tiny_models_are_refused(tiny):
    model, positive = tiny
    with pytest.raises(ValueError, match="draws pictures of 32 x 32, and the latent is for 512 x 512; it can be 128"):
        drawn(model, positive, 512)


def test_a_run_that_ends_in_no_numbers_is_refused_where_guidance_acted(tiny):
    model, positive = tiny
    broken = model.clone()
    broken.set_model_sampler_post_cfg_function(lambda args: args["denoised"] * float("nan"))
    assert torch.isnan(drawn(broken, positive, cfg=2.0)).all()
    with pytest.raises(ValueError, match="values that are no numbers.*too strong"):
        drawn(cfg_combine(broken, "node"), positive)


def test_a_picture_that_the_page_is_reading_is_no_fault(said, monkeypatch, tmp_path):
    """On Windows a file that is read cannot be replaced."""
    from pathlib import Path

    import folder_paths
    from PIL import Image

    from guidance_pack.host.common.unfinished import show_unfinished

    def replaced(path, target):
        raise PermissionError(13, "The process cannot access the file because it is being used by another process")

    monkeypatch.setattr(folder_paths, "get_temp_directory", lambda: str(tmp_path))
    show_unfinished(Image.new("RGB", (8, 8), "red"))
    monkeypatch.setattr(Path, "replace", replaced)
    show_unfinished(Image.new("RGB", (8, 8), "blue"))
    (shown,) = tmp_path.glob("*.jpg")
    assert Image.open(shown).getpixel((4, 4))[0] > 200
