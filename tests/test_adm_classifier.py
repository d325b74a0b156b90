"""ADM's noisy classifiers: the released tables exactly, the formulas, and as guides on their own schedule."""

import json
import re

import adm_formulas as formulas
import guide_conformance as conformance
import pytest
import torch
from host_models import fill
from safetensors.torch import save_file

from guidance_pack.guidance.checkpoints.guide_source import GuideFileError, GuideSource
from guidance_pack.guidance.checkpoints.state_dicts import CheckpointError
from guidance_pack.guidance.networks.adm import detect as adm_shapes
from guidance_pack.guidance.networks.adm.classifier import AdmClassifier
from guidance_pack.guidance.networks.adm.config import CLASSIFIERS, ClassifierConfig
from guidance_pack.guidance.noise_schedule import noise_schedule

TABLE = {
    "64x64_classifier": (65_438_568, 307),
    "128x128_classifier": (42_568_040, 221),
    "256x256_classifier": (54_096_360, 249),
    "512x512_classifier": (54_448_360, 281),
}
SMALL = {
    "channels": 32, "widths": (32, 64), "res_blocks": 1, "attention": (1,), "classes": 7, "positions": 17, "heads": 2,
}  # fmt: skip
CASES = {
    "two levels": SMALL,
    "one head": SMALL | {"heads": 0},
    "three levels": SMALL | {"widths": (32, 32, 64), "attention": (0, 2), "res_blocks": 2, "positions": 5},
}


def on_paper(name):
    return AdmClassifier(device="meta", **CLASSIFIERS[name].as_dict()).state_dict()


def shapes_of(config):
    return {k: tuple(v.shape) for k, v in AdmClassifier(device="meta", **config).state_dict().items()}


def built(config, seed=0):
    network = AdmClassifier(**config).eval().requires_grad_(False)
    fill(network, seed)
    return network


def write(path, config=SMALL, metadata=None):
    save_file(built(config).state_dict(), path, metadata)
    return path


@pytest.mark.parametrize("name", TABLE)
def test_every_released_classifier_has_its_numbers_and_tensors(name):
    state = on_paper(name)
    assert (sum(value.numel() for value in state.values()), len(state)) == TABLE[name]
    shape = {key: tuple(value.shape) for key, value in state.items()}
    assert shape["out.2.positional_embedding"] == (512, 65)
    assert shape["out.2.qkv_proj.weight"] == (1536, 512, 1) and shape["out.2.c_proj.weight"] == (1000, 512, 1)
    assert shape["out.0.weight"] == (512,) and shape["time_embed.0.weight"] == (512, 128)
    assert not [key for key in shape if re.match("label_emb|output_blocks", key)]
    config = CLASSIFIERS[name]
    assert config.heads_of(512) == 8 and config.size // config.stride == 8 and config.order == "legacy"
    assert config.schedule == ("cosine" if name == "64x64_classifier" else "linear")


@pytest.mark.parametrize("name", TABLE)
def test_a_released_classifier_is_known_by_its_shapes(name):
    shapes = {key: tuple(value.shape) for key, value in on_paper(name).items()}
    found = adm_shapes.classifier("file.pt", shapes)
    assert (found.config, found.like, found.assumed) == (CLASSIFIERS[name], name, ())
    assert adm_shapes.is_classifier(shapes) and not adm_shapes.is_denoiser(shapes)


@pytest.mark.parametrize("name", CASES)
def test_another_classifier_is_read_from_shapes_and_header(name):
    config = ClassifierConfig(**CASES[name])
    found = adm_shapes.classifier("x", shapes_of(CASES[name]), {"heads": str(config.heads), "schedule": "cosine"})
    side = round((config.positions - 1) ** 0.5) * config.stride
    assert found.config.as_dict() == config.as_dict() | {"schedule": "cosine", "size": side}


def test_a_denoiser_and_a_damaged_classifier_in_words():
    shapes = shapes_of(SMALL)
    with pytest.raises(CheckpointError, match="noisy classifiers, which are guides .*needed here is an ADM or P2"):
        adm_shapes.denoiser("c.pt", shapes)
    for gone in ("out.2.positional_embedding", "out.2.c_proj.weight", "middle_block.0.in_layers.0.bias"):
        with pytest.raises(CheckpointError, match=f"c.pt is no complete ADM network: it lacks {gone}"):
            adm_shapes.classifier("c.pt", {key: value for key, value in shapes.items() if key != gone})
    with pytest.raises(CheckpointError, match="is an ADM denoiser .*needed here is an ADM noisy classifier"):
        adm_shapes.classifier("d.pt", shapes | {"output_blocks.0.0.in_layers.0.weight": (64,)})


@pytest.mark.parametrize("name", CASES)
def test_the_network_is_the_formulas(name):
    config, network = ClassifierConfig(**CASES[name]), built(CASES[name])
    side = round((config.positions - 1) ** 0.5) * config.stride
    x = torch.randn(3, 3, side, side, generator=torch.Generator().manual_seed(1))
    t = torch.tensor([0.0, 310.25, 999.0])
    state = {key: value.double() for key, value in network.state_dict().items()}
    wanted = torch.stack([
        formulas.classifier(state, picture.double(), float(time), res_blocks=config.res_blocks, heads=config.heads_of)
        for picture, time in zip(x, t, strict=True)
    ])
    assert float((network(x, t) - wanted).abs().max()) < 2e-5 * float(wanted.abs().max())
    torch.testing.assert_close(network.double()(x.double(), t.double()), wanted, rtol=1e-10, atol=1e-10)


def test_what_the_classifier_refuses_in_words():
    network = built(SMALL)
    with pytest.raises(ValueError, match="sees pictures of 8x8 pixels, not 16x16"):
        network(torch.zeros(1, 3, 16, 16), torch.zeros(1))
    with pytest.raises(ValueError, match="needs their timesteps"):
        network(torch.zeros(1, 3, 8, 8))


@pytest.mark.slow
def test_the_64_classifier_runs_at_full_size_with_a_gradient():
    network = AdmClassifier(**CLASSIFIERS["64x64_classifier"].as_dict()).eval().requires_grad_(False)
    fill(network, 0)
    x = torch.randn(1, 3, 64, 64).requires_grad_()
    scores = network(x, torch.tensor([400.0]))
    (gradient,) = torch.autograd.grad(scores.log_softmax(1)[:, 7].sum(), x)
    assert scores.shape == (1, 1000) and bool(torch.isfinite(gradient).all()) and float(gradient.norm()) > 0


# as a guide


def test_is_a_timestep_aware_guide_on_its_own_schedule(tmp_path):
    found = conformance.load(write(tmp_path / "a.safetensors"), "my classifier")
    spec = found.spec
    assert (found.family, spec.name, spec.task, spec.domain, spec.sees) == (
        "adm", "my classifier", "classification", "pixels", "timestep"
    )
    assert spec.labels == tuple("0123456") and spec.schedule is noise_schedule("linear")
    assert (spec.preprocessing.size, spec.preprocessing.black, spec.preprocessing.white) == ((8, 8), -1.0, 1.0)
    picture = torch.randn(1, 3, 8, 8, dtype=torch.float64)
    torch.testing.assert_close(spec.prepare(picture), picture)  # a picture of the classifier's size is seen as it is
    cosine = conformance.load(write(tmp_path / "b.safetensors", metadata={"schedule": "cosine"}))
    assert cosine.spec.schedule is noise_schedule("cosine")


def test_the_timestep_is_that_of_its_schedule(tmp_path):
    found = conformance.load(write(tmp_path / "a.safetensors"))
    picture = torch.randn(1, 3, 8, 8, dtype=torch.float64)
    sigma = noise_schedule("linear").sigma(430.0)
    wanted = found.exact(picture, torch.tensor([430.0], dtype=torch.float64))
    torch.testing.assert_close(found.spec.output(found.exact, picture, conformance.levels(sigma)), wanted)


def test_a_torch_file_is_the_same_guide(tmp_path):
    state = built(SMALL).state_dict()
    torch.save(state, tmp_path / "a.pt")
    torch.save({key: value.half() for key, value in state.items()}, tmp_path / "half.pt")
    safe, plain = conformance.load(write(tmp_path / "a.safetensors")), conformance.load(tmp_path / "a.pt")
    assert conformance.signature(safe.network.state_dict()) == conformance.signature(plain.network.state_dict())
    half = conformance.load(tmp_path / "half.pt").network.state_dict()
    assert all(torch.equal(half[key], value.half().float()) for key, value in state.items())


def test_a_torch_file_that_wants_more_than_tensors_is_not_opened(tmp_path):
    class Payload:
        def __reduce__(self):
            return (open, (str(tmp_path / "ran"), "w"))

    torch.save({"out.2.positional_embedding": Payload()}, tmp_path / "bad.pt")
    with pytest.raises(GuideFileError, match="bad.pt is a pickle that wants more than tensors"):
        GuideSource(tmp_path / "bad.pt")
    assert not (tmp_path / "ran").exists()


def test_an_incomplete_file_in_words(tmp_path):
    state = built(SMALL).state_dict()
    state.pop("out.0.bias")
    torch.save(state, tmp_path / "cut.pt")
    with pytest.raises(GuideFileError, match="a guide is no complete ADM network: it lacks out.0.bias"):
        conformance.load(tmp_path / "cut.pt")


def test_other_networks_are_left_to_their_families(tmp_path):
    from guidance_pack.guidance.guides.adm import AdmClassifierFile

    torch.save({"fc.weight": torch.zeros(2, 2)}, tmp_path / "resnet.pt")
    assert not AdmClassifierFile().recognises(GuideSource(tmp_path / "resnet.pt"))
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "config.json").write_text(json.dumps({}))
    save_file({"a": torch.zeros(1)}, tmp_path / "folder" / "model.safetensors")
    assert not AdmClassifierFile().recognises(GuideSource(tmp_path / "folder"))
