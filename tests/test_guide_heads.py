"""Aesthetic heads over a CLIP, rewards of a text, faces: what is published, what they say, what they refuse."""

import re
import shutil

import guide_conformance as conformance
import pytest
import torch
import torch.nn.functional as F
from guide_files import aesthetic_layers, arcface, resnet, write_random
from guide_folder import lend
from safetensors.torch import load_file

from guidance_pack.guidance.checkpoints.guide_source import GuideFileError
from guidance_pack.guidance.loss import losses

LEVELS = conformance.levels(1.0, 1.0)


def pictures():
    return conformance.pictures(2)[..., :24, :24].float()


def clip_vectors(path):
    """As transformers' own CLIP gives them, of unit length."""
    from transformers import CLIPModel

    colours = [torch.tensor(values)[:, None, None] for values in ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])]
    found = CLIPModel.from_pretrained(path).get_image_features(((pictures() + 1) / 2 - colours[0]) / colours[1])
    return F.normalize(found if isinstance(found, torch.Tensor) else found.pooler_output)


@torch.no_grad()
def test_a_head_is_a_chain_of_layers_over_the_unit_vector(written):
    path, clip = written("aesthetic layers"), written("clip")
    layers = torch.load(path, weights_only=True)
    wanted = clip_vectors(clip)
    for place in (0, 2, 4, 6, 7):
        wanted = wanted @ layers[f"layers.{place}.weight"].T + layers[f"layers.{place}.bias"]
    found = conformance.load(path, backbone=clip)
    torch.testing.assert_close(found.spec.output(found.network, pictures(), LEVELS), wanted)
    assert found.spec.name == "a guide" and not found.spec.reads_text
    line = load_file(written("aesthetic linear"))
    single = conformance.load(written("aesthetic linear"), backbone=clip)
    given = single.spec.output(single.network, pictures(), LEVELS)
    torch.testing.assert_close(given, clip_vectors(clip) @ line["weight"].T + line["bias"])


@torch.no_grad()
def test_the_layout_with_gaps_for_relu_has_relu(written, tmp_path):
    sizes = {0: (6, 8), 3: (8, 5), 6: (5, 4), 9: (4, 3), 11: (3, 1)}
    layers = torch.nn.ModuleDict({str(place): torch.nn.Linear(*size) for place, size in sizes.items()})
    path = write_random(tmp_path / "relu", torch.nn.ModuleDict({"layers": layers}))
    found, wanted = conformance.load(path, backbone=written("clip")), clip_vectors(written("clip"))
    for place, layer in layers.items():
        wanted = layer(wanted.relu() if place != "0" else wanted)
    torch.testing.assert_close(found.spec.output(found.network, pictures(), LEVELS), wanted)


@torch.no_grad()
def test_the_reward_is_the_clips_own_number(written):
    """exp(logit_scale) times the cosine, which transformers calls logits_per_image."""
    from transformers import CLIPModel

    found, own = conformance.load(written("clip")), CLIPModel.from_pretrained(written("clip"))
    text = found.network.embed_text(["a photo of a cat"])
    assert found.spec.reads_text
    loss = losses()["reward"]()
    said = found.spec.output(found.network, pictures(), LEVELS)
    cosine = F.cosine_similarity(said, text)
    torch.testing.assert_close(-loss(said, text.expand_as(said)), cosine * own.logit_scale.exp())


@pytest.fixture
def folder(comfy, tmp_path, monkeypatch, written):
    """A models/guides with heads, a CLIP, a ResNet and a face network, lent to the host."""
    from guidance_pack.host.models import guides

    aesthetic_layers(tmp_path / "votes")
    arcface(tmp_path / "face")
    torch.save(torch.nn.Linear(5, 1).state_dict(), tmp_path / "narrow.pt")
    shutil.copytree(written("clip"), tmp_path / "clip")
    resnet(tmp_path / "resnet")
    lend(monkeypatch, tmp_path)
    return guides


def test_a_head_is_loaded_over_the_folder_that_is_chosen_beside_it(folder):
    assert folder.backbone_names() == ["none", "clip", "resnet"]
    assert {"votes.pth", "narrow.pt", "face.pth"} <= {*folder.guide_names()}
    name = folder.name_over("votes.pth", "clip")
    loaded = folder.load_guide(name)
    assert loaded.guide.first.task == "score" and loaded.guide.first.name == name
    assert folder.guide_problem(name) is folder.guide_problem("votes.pth", "clip") is None
    assert folder.guide_problem(None, "clop") is folder.guide_problem("resnet", "clop") is None  # by a wire; not shown
    assert folder.name_over("resnet", "clip") == "resnet"
    assert "did you mean clip" in folder.guide_problem("votes.pth", "clop")
    first = folder.fingerprint(name)
    assert first != folder.fingerprint("votes.pth") and first == folder.fingerprint(name)


@pytest.mark.parametrize(
    ("name", "clip", "words"),
    [
        ("votes.pth", "none", "votes.pth is an aesthetic head: it reads the features of a CLIP, 6 numbers, and none"),
        ("votes.pth", "resnet", "and resnet is none. Put the CLIP"),
        ("narrow.pt", "clip", "reads 5 features, and clip gives 6. Choose the CLIP"),
        ("face.pth", "clip", "face.pth is a whole network, an ArcFace network"),
        ("face.pth", "resnet", "Set clip to none"),
    ],
)
def test_what_does_not_go_together_in_words(folder, name, clip, words):
    with pytest.raises(GuideFileError, match=re.escape(words)):
        folder.load_guide(folder.name_over(name, clip))


def test_a_face_reads_no_text_and_a_reward_no_picture(folder):
    from guidance_pack.host.engine.targets import picture_target

    face, clip = folder.load_guide("face.pth").guide, folder.load_guide("clip").guide
    image = torch.rand(1, 24, 24, 3)
    with pytest.raises(ValueError, match="text is compared by a guide that reads text"):
        picture_target(face, losses()["embedding"](), None, "picture", "a smile")
    assert picture_target(face, losses()["embedding"](), image, "picture", "").reference is not None
    with pytest.raises(ValueError, match="The loss 'reward' compares with words: write into text"):
        picture_target(clip, losses()["reward"](), image, "picture", "")
    assert picture_target(clip, losses()["reward"](), None, "picture", "a cat").texts == ("a cat",)


def test_pictures_are_scored_by_a_head(folder):
    from guidance_pack.host.compare.score import Wanted, agreement, score

    images = ((pictures() + 1) / 2).movedim(1, -1)
    loaded = folder.load_guide(folder.name_over("votes.pth", "clip"))
    said = agreement(images, loaded, Wanted())
    verdict = score(images, loaded, "", None)
    assert verdict.value == pytest.approx(float(said.mean()), abs=1e-5)
    assert "mean score by votes.pth | clip" in verdict.words
    assert verdict.marks == tuple(f"{value:.2f}" for value in said)


def test_a_score_raises_itself(folder):
    """One step along its gradient at the denoised estimate: the score is larger after it."""
    loaded = folder.load_guide(folder.name_over("votes.pth", "clip"))
    (patcher,), spec = loaded.patchers, loaded.guide.first
    leaf = pictures().requires_grad_()
    value = -losses()["score"]()(spec.output(patcher.model, leaf, LEVELS), None)
    (slope,) = torch.autograd.grad(value.sum(), leaf)
    moved = spec.output(patcher.model, leaf + 0.1 * slope / slope.norm(), LEVELS)
    assert bool((moved[:, 0] > value).all())


def test_a_text_is_read_by_the_base_of_experts(written):
    from guidance_pack.guidance.experts.bank import Adapter, ExpertBank

    network = conformance.load(written("clip")).network
    name = "network.visual_projection.weight"
    own = network.get_parameter(name).detach().clone()
    bank = ExpertBank(network, [Adapter(whole={name: own + 1})], {name: own})
    wanted = network.embed_text(["dog"])
    assert torch.equal(bank.use(0).embed_text(["dog"]), wanted)
