"""ADM's U-Net: the released tables exactly, and every block against a second implementation."""

import math
import re

import adm_formulas as formulas
import pytest
import torch
from host_models import fill

from guidance_pack.guidance.checkpoints.state_dicts import CheckpointError
from guidance_pack.guidance.networks.adm import detect as adm_shapes
from guidance_pack.guidance.networks.adm.blocks import attend, timestep_embedding
from guidance_pack.guidance.networks.adm.classifier import AdmClassifier
from guidance_pack.guidance.networks.adm.config import CLASSIFIERS, DENOISERS, AdmConfig
from guidance_pack.guidance.networks.adm.unet import AdmUNet

# (numbers, tensors) of the released files
TABLE = {
    "64x64_diffusion": (295_904_454, 541),
    "128x128_diffusion": (421_529_606, 493),
    "256x256_diffusion": (553_838_086, 567),
    "256x256_diffusion_uncond": (552_814_086, 566),
    "512x512_diffusion": (558_997_638, 645),
    "64_256_upsampler": (311_795_910, 567),
    "128_512_upsampler": (308_835_270, 537),
    "P2": (93_563_910, 362),
}
BLOCK = r"(in_layers\.[02]|emb_layers\.1|out_layers\.[03]|skip_connection|norm|qkv|proj_out)"
GRAMMAR = re.compile(
    rf"(time_embed\.[02]|label_emb|input_blocks\.0\.0|out\.[02]|(input|output)_blocks\.\d+\.[012]\.{BLOCK}"
    rf"|middle_block\.[012]\.{BLOCK})\.(weight|bias)"
)
SMALL = {"channels": 32, "widths": (32, 64), "res_blocks": 1, "attention": (1,), "heads": 2}
CASES = {
    "legacy": SMALL,
    "new": SMALL | {"order": "new"},
    "one head": SMALL | {"heads": 0},
    "classes": SMALL | {"classes": 5},
    "noise alone": SMALL | {"out_channels": 3},
    "upsampler": SMALL | {"in_channels": 6},
    "three levels": SMALL | {"widths": (32, 32, 64), "attention": (0, 2), "res_blocks": 2, "order": "new"},
    "half a stem": SMALL | {"channels": 64, "widths": (32, 64), "classes": 3},
}


def on_paper(name):
    return AdmUNet(device="meta", **DENOISERS[name].as_dict()).state_dict()


def shapes_of(network):
    return {key: tuple(value.shape) for key, value in network.state_dict().items()}


def built(config, seed=0, dtype=torch.float32):
    network = AdmUNet(dtype=dtype, **config).eval().requires_grad_(False)
    fill(network, seed)
    return network


def inputs(config, batch=2, size=8, seed=1):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(batch, config.get("in_channels", 3), size, size, generator=generator)
    labels = torch.arange(batch) % config["classes"] if config.get("classes") else None
    return x, torch.tensor([12.0, 700.5, 999.0])[:batch], labels


# the released tables


@pytest.mark.slow
@pytest.mark.parametrize("name", TABLE)
def test_every_released_network_has_its_numbers_tensors_and_names(name):
    state = on_paper(name)
    assert (sum(value.numel() for value in state.values()), len(state)) == TABLE[name]
    assert not [key for key in state if not GRAMMAR.fullmatch(key)]
    config = DENOISERS[name]
    assert ("label_emb.weight" in state) == (config.classes == 1000)
    c, stem = config.channels, config.widths[0]
    assert tuple(state["input_blocks.0.0.weight"].shape) == (stem, 6 if "upsampler" in name else 3, 3, 3)
    assert tuple(state["time_embed.0.weight"].shape) == (4 * c, c)
    assert tuple(state["out.2.weight"].shape) == (6, stem, 3, 3)
    if config.classes:
        assert tuple(state["label_emb.weight"].shape) == (1000, 4 * c)


def test_all_released_networks_are_in_the_table():
    assert set(TABLE) == set(DENOISERS)


def test_the_256_network_block_by_block():
    state = on_paper("256x256_diffusion_uncond")
    shape = {key: tuple(value.shape) for key, value in state.items()}
    outs = [shape[f"input_blocks.{n}.0.out_layers.3.weight"][0] for n in range(1, 18)]
    assert outs == [256] * 6 + [512] * 6 + [1024] * 5
    skips = {n for n in range(1, 18) if f"input_blocks.{n}.0.skip_connection.weight" in shape}
    attended = {n for n in range(1, 18) if f"input_blocks.{n}.1.qkv.weight" in shape}
    assert skips == {7, 13} and attended == {10, 11, 13, 14, 16, 17}
    into = [shape[f"output_blocks.{n}.0.in_layers.2.weight"][1] for n in range(18)]
    assert into == [2048] * 5 + [1536, 1536, 1024, 1024, 1024, 1024, 768, 768, 512, 512, 512, 512, 512]
    second = re.compile(r"(output_blocks\.\d+\.[12])\.in_layers\.0\.weight")
    larger = {found[1] for key in shape if (found := second.fullmatch(key))}
    assert larger == {f"output_blocks.{place}" for place in ("2.2", "5.2", "8.2", "11.1", "14.1")}
    assert sum(key.endswith("qkv.weight") for key in shape) == 16
    assert shape["input_blocks.7.0.skip_connection.weight"] == (512, 256, 1, 1)
    assert shape["output_blocks.2.0.in_layers.2.weight"] == (1024, 2048, 3, 3)
    assert shape["input_blocks.10.1.qkv.weight"] == (1536, 512, 1)
    assert shape["input_blocks.1.0.emb_layers.1.weight"] == (512, 1024)
    assert shape["out.2.weight"] == (6, 256, 3, 3)


def test_p2_attends_at_one_size_only():
    shape = on_paper("P2")
    places = {key.removesuffix(".qkv.weight") for key in shape if key.endswith("qkv.weight")}
    assert places == {"input_blocks.9.1", "output_blocks.2.1", "output_blocks.3.1", "middle_block.1"}


def test_heads_of_the_released_networks():
    assert [DENOISERS["256x256_diffusion"].heads_of(width) for width in (512, 1024)] == [8, 16]
    assert [DENOISERS["128x128_diffusion"].heads_of(width) for width in (512, 768, 1024)] == [4, 4, 4]
    assert DENOISERS["64_256_upsampler"].heads_of(768) == 4 and DENOISERS["128_512_upsampler"].heads_of(768) == 12
    assert DENOISERS["P2"].heads_of(512) == 8
    other = {name for name, config in DENOISERS.items() if (config.order, config.schedule) != ("legacy", "linear")}
    assert other == {"64x64_diffusion"}
    assert (DENOISERS["64x64_diffusion"].order, DENOISERS["64x64_diffusion"].schedule) == ("new", "cosine")


# configuration from shapes


@pytest.mark.many
@pytest.mark.parametrize("name", TABLE)
def test_a_released_network_is_known_by_its_shapes(name):
    found = adm_shapes.denoiser("file.pt", {key: tuple(value.shape) for key, value in on_paper(name).items()})
    assert (found.config, found.like, found.assumed) == (DENOISERS[name], name, ())
    assert found.words() == f"shaped as {name}"


@pytest.mark.parametrize("name", CASES)
def test_another_network_is_read_from_shapes_and_header(name):
    config = AdmConfig(**CASES[name])
    shapes = shapes_of(AdmUNet(device="meta", **config.as_dict()))
    header = {"heads": str(config.heads), "order": config.order, "schedule": "cosine"}
    found = adm_shapes.denoiser("file.safetensors", shapes, header)
    assert found.config.as_dict() == config.as_dict() | {"schedule": "cosine"} and not found.assumed
    assumed = adm_shapes.denoiser("file.safetensors", shapes)
    assert assumed.like == "" and assumed.assumed == ("heads", "order", "schedule")
    assert "never released" in assumed.words() and "legacy order of q, k, v" in assumed.words()


def test_a_released_shape_with_other_classes_is_said_to_be_assumed():
    config = AdmConfig(**DENOISERS["64x64_diffusion"].as_dict() | {"classes": 37})
    found = adm_shapes.denoiser("cars.pt", shapes_of(AdmUNet(device="meta", **config.as_dict())))
    assert found.config == config and found.like == "64x64_diffusion"
    assert "the new order" in found.words() and "cosine" in found.words()


def small_shapes():
    return shapes_of(AdmUNet(device="meta", **SMALL))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda s: s.pop("middle_block.2.in_layers.0.bias"), "lacks middle_block.2.in_layers.0.bias"),
        (lambda s: s.pop("output_blocks.3.0.out_layers.3.weight"), "lacks output_blocks.3.0.out_layers.3.weight"),
        (lambda s: s.pop("out.2.weight"), "lacks out.2.weight"),
        (lambda s: s.update({"ema.decay": (1,)}), "has the unknown ema.decay"),
        (lambda s: s.update({"out.0.weight": (64,)}), r"has out.0.weight of shape \[64\] instead of \[32\]"),
        (lambda s: s.update({"input_blocks.2.0.op.weight": (32, 32, 3, 3)}), "trained with resblock_updown"),
        (lambda s: s.update({"input_blocks.1.0.emb_layers.1.weight": (32, 128)}), "use_scale_shift_norm"),
        (lambda s: s.update({"output_blocks.4.0.in_layers.0.weight": (64,)}), "no whole levels"),
        (lambda s: s.update({"output_blocks.999999999.0.weight": (1,)}), "has output_blocks.999999999 among"),
        (lambda s: s.update({"output_blocks.x.0.weight": (1,)}), "has output_blocks.x among"),
    ],
)
def test_a_damaged_file_in_words(change, words):
    shapes = small_shapes()
    change(shapes)
    with pytest.raises(CheckpointError, match=f"mine.pt .*{words}"):
        adm_shapes.denoiser("mine.pt", shapes)


@pytest.mark.parametrize(
    ("names", "words"),
    [
        (["model.diffusion_model.input_blocks.0.0.weight"], "Load Checkpoint"),
        (["input_blocks.1.1.transformer_blocks.0.norm1.weight"], "Load Diffusion Model"),
        (["unet.enc.64x64_conv.weight"], "EDM2"),
        (["middle_block.1.lora_up.weight"], "a LoRA"),
        (["first_stage_model.decoder.conv_in.weight"], "a VAE"),
        (["conv1.weight", "layer1.0.conv1.weight"], "ResNet classifier"),
        (["something.weight"], "a file with 1 tensors such as something.weight"),
    ],
)
def test_another_kind_of_file_is_named(names, words):
    assert not adm_shapes.is_denoiser(dict.fromkeys(names, (1, 1)))
    with pytest.raises(CheckpointError, match=f"x.pt is .*{words}.*; what is needed here is an ADM or P2 denoiser"):
        adm_shapes.denoiser("x.pt", dict.fromkeys(names, (1, 1)))


@pytest.mark.parametrize("number", ["999999999", "-1", "", "\u0661", "1" * 5000])
def test_a_classifier_with_blocks_that_are_not_numbered_from_0(number):
    """Counting up to such a number would never end."""
    shapes = shapes_of(AdmClassifier(device="meta", **CLASSIFIERS["64x64_classifier"].as_dict()))
    with pytest.raises(CheckpointError, match="which must be numbered from 0") as caught:
        adm_shapes.classifier("x.pt", {**shapes, f"input_blocks.{number}.0.weight": (1,)})
    assert len(str(caught.value)) < 500


def test_wrong_words_in_a_header_are_refused():
    for header, words in (({"order": "old"}, "can be legacy, new"), ({"schedule": "sd"}, "linear, cosine"),
                          ({"heads": "many"}, "cannot be built"), ({"heads": "7"}, "7 heads cannot share 64"),
                          ({"heads": "-1"}, "heads is -1; it can be"), ({"heads": "9" * 4000}, "bits heads cannot")):
        with pytest.raises(CheckpointError, match=words):
            adm_shapes.denoiser("x.safetensors", small_shapes(), header)
    with pytest.raises(ValueError, match="multiple of 32"):
        AdmConfig(**SMALL | {"widths": (32, 40)})


# the network against the formulas


@pytest.mark.many
@pytest.mark.parametrize("name", CASES)
def test_the_network_is_the_formulas(name):
    config = AdmConfig(**CASES[name])
    network = built(CASES[name])
    x, t, labels = inputs(CASES[name], batch=3)
    state = {key: value.double() for key, value in network.state_dict().items()}
    wanted = torch.stack([
        formulas.unet(state, picture.double(), float(time), None if labels is None else int(labels[i]),
                      res_blocks=config.res_blocks, heads=config.heads_of, order=config.order)
        for i, (picture, time) in enumerate(zip(x, t, strict=True))
    ])
    found = network(x, t, labels)
    size = float(wanted.abs().max())
    assert found.shape == (3, 3, 8, 8) and float((found - wanted[:, :3]).abs().max()) < 2e-5 * size
    if config.out_channels == 6:
        noise, fraction = network.forward_with_variance(x, t, labels)
        assert torch.equal(noise, found)
        assert float((fraction - (wanted[:, 3:] + 1) / 2).abs().max()) < 2e-5 * size
    double = network.double()(x.double(), t.double(), labels)
    torch.testing.assert_close(double, wanted[:, :3], rtol=1e-10, atol=1e-10)


def test_the_two_orders_differ_by_a_permutation():
    generator = torch.Generator().manual_seed(2)
    qkv = torch.randn(2, 3 * 12, 10, generator=generator, dtype=torch.float64)
    for order in ("legacy", "new"):
        wanted = torch.stack([formulas.attention(one, 4, order) for one in qkv])
        torch.testing.assert_close(attend(qkv, 4, order), wanted, rtol=1e-12, atol=1e-12)
    by_head = qkv.view(2, 3, 4, 3, 10).transpose(1, 2).reshape(qkv.shape)
    torch.testing.assert_close(attend(by_head, 4, "legacy"), attend(qkv, 4, "new"))
    assert float((attend(qkv, 4, "legacy") - attend(qkv, 4, "new")).abs().max()) > 0.1


def test_each_sample_is_its_own():
    network = built(CASES["classes"], dtype=torch.float64)
    x, t, labels = inputs(CASES["classes"], batch=3)
    together = network(x.double(), t, labels)
    alone = [network(x[i : i + 1].double(), t[i : i + 1], labels[i : i + 1]) for i in range(3)]
    torch.testing.assert_close(together, torch.cat(alone), rtol=1e-10, atol=1e-10)
    assert float((together - network(x.double(), t, labels.flip(0))).abs().max()) > 1e-3


def test_the_timestep_may_lie_between_two():
    network = built(SMALL, dtype=torch.float64)
    x, _, _ = inputs(SMALL, batch=1)
    low, middle, high = (network(x.double(), torch.tensor([t], dtype=torch.float64)) for t in (10.0, 10.001, 10.002))
    assert 0 < float((middle - (low + high) / 2).abs().max()) < 1e-6 * float(middle.abs().max())


def test_the_first_waves_are_cosines():
    found = timestep_embedding(torch.tensor([0.0, 3.0], dtype=torch.float64), 6)
    rates = [1.0, 10000 ** (-1 / 3), 10000 ** (-2 / 3)]
    wanted = [[1, 1, 1, 0, 0, 0], [math.cos(3 * r) for r in rates] + [math.sin(3 * r) for r in rates]]
    torch.testing.assert_close(found, torch.tensor(wanted, dtype=torch.float64))


def test_half_precision_keeps_norms_embeddings_and_the_last_layers_exact():
    network = built(CASES["classes"], dtype=torch.bfloat16)
    kept = {key.rsplit(".", 1)[0] for key, value in network.state_dict().items() if value.dtype == torch.float32}
    halved = {key.rsplit(".", 1)[0] for key, value in network.state_dict().items() if value.dtype == torch.bfloat16}
    exact = r"time_embed|label_emb|^out\.|in_layers.0|out_layers.0|emb_layers|norm$"
    assert kept and all(re.search(exact, key) for key in kept)
    assert halved and all(re.search(r"in_layers.2|out_layers.3|skip|qkv|proj_out|blocks.0.0", key) for key in halved)
    x, t, labels = inputs(CASES["classes"])
    exact = built(CASES["classes"])(x, t, labels)
    found = network(x.bfloat16(), t, labels)
    assert found.dtype == torch.float32
    assert 0 < float((found - exact).norm() / exact.norm()) < 0.05


def test_what_the_network_refuses_in_words():
    x, t, _ = inputs(SMALL)
    with pytest.raises(ValueError, match="7x8 pixels; width and height must be multiples of 2"):
        built(SMALL)(x[..., :7], t)
    with pytest.raises(ValueError, match="a class for every picture, 0 to 4"):
        built(CASES["classes"])(x, t)
    with pytest.raises(ValueError, match="takes 6 channels and got 3"):
        built(CASES["upsampler"])(x, t)
    with pytest.raises(ValueError, match="trained without a variance"):
        built(CASES["noise alone"]).forward_with_variance(x, t)


@pytest.mark.slow
def test_the_p2_network_runs_at_full_size():
    network = AdmUNet(**DENOISERS["P2"].as_dict()).eval().requires_grad_(False)
    with torch.no_grad():
        noise, fraction = network.forward_with_variance(torch.randn(1, 3, 256, 256), torch.tensor([500.0]))
    assert noise.shape == fraction.shape == (1, 3, 256, 256)
    assert bool(torch.isfinite(noise).all()) and float(noise.std()) > 0
