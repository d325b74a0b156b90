"""GLIDE's U-Net: the released tables exactly, every block against a second implementation, tokens as they travel."""

import adm_files
import adm_formulas as formulas
import pytest
import torch
from host_models import fill

from guidance_pack.guidance.checkpoints.state_dicts import CheckpointError
from guidance_pack.guidance.networks.adm import detect
from guidance_pack.guidance.networks.adm.glide import CONTEXT, GLIDE, INPUTS, GlideConfig, GlideUNet
from guidance_pack.guidance.networks.adm.tokens import bits_of, tokens_of

# (numbers, tensors) of the released files
TABLE = {
    "GLIDE's base": (385_030_726, 783),
    "GLIDE's upsample": (398_361_286, 797),
    "GLIDE's base_inpaint": (385_037_638, 783),
    "GLIDE's upsample_inpaint": (398_368_198, 797),
}
SMALL = {
    "channels": 64, "widths": (64, 128), "res_blocks": 1, "attention": (1,), "text_width": 128, "text_layers": 2,
    "context": 9, "vocabulary": 50,
}


def shapes_of(config):
    return {key: tuple(value.shape) for key, value in GlideUNet(device="meta", **config).state_dict().items()}


def built(dtype=torch.float32, **more):
    network = GlideUNet(dtype=dtype, **SMALL | more).eval().requires_grad_(False)
    fill(network, 1)
    return network


def inputs(channels=3):
    generator = torch.Generator().manual_seed(1)
    tokens = torch.randint(0, 50, (3, 9), generator=generator)
    tokens[1, 4:] = tokens[2] = -1
    return torch.randn(3, channels, 8, 8, generator=generator), torch.tensor([12.0, 700.5, 999.0]), tokens


@pytest.mark.many
@pytest.mark.parametrize("name", TABLE)
def test_every_released_network_has_its_numbers_tensors_and_names_and_is_known_by_them(name):
    shapes = shapes_of(GLIDE[name].as_dict())
    assert (sum(torch.Size(shape).numel() for shape in shapes.values()), len(shapes)) == TABLE[name]
    found = detect.glide("file.pt", shapes)
    assert (found.config, found.like, found.assumed) == (GLIDE[name], name, ())
    assert detect.is_glide(shapes) and not detect.is_denoiser(shapes) and not detect.is_classifier(shapes)
    assert (found.config.schedule == "linear") == found.config.enlarges == ("upsample" in name)
    assert shapes["token_embedding.weight"] == (50257, 512) and shapes["padding_embedding"] == (128, 512)
    assert shapes["transformer.resblocks.15.mlp.c_fc.weight"] == (2048, 512)
    assert shapes["middle_block.1.encoder_kv.weight"] == (1536, 512, 1)


@pytest.mark.parametrize("kind", INPUTS)
def test_the_network_is_the_formulas(kind):
    network = built(in_channels=INPUTS[kind])
    x, t, tokens = inputs(INPUTS[kind])
    state, config = {key: value.double() for key, value in network.state_dict().items()}, network.config
    wanted = torch.stack([
        formulas.unet(state, one.double(), float(time), res_blocks=1, heads=config.heads_of, order="legacy",
                      tokens=[None if token < 0 else token for token in row.tolist()], text_heads=2)
        for one, time, row in zip(x, t, tokens, strict=True)
    ])
    noise, fraction = network.double().forward_with_variance(x.double(), t.double(), tokens)
    torch.testing.assert_close(noise, wanted[:, :3], rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(fraction, (wanted[:, 3:] + 1) / 2, rtol=1e-10, atol=1e-10)
    found = network.float()(x, t, tokens)
    assert float((found - wanted[:, :3]).abs().max()) < 2e-5 * float(wanted.abs().max())
    other = network(x, t, tokens.flip(0))
    assert float((other - found).abs().max()) > 1e-3, "the text says nothing"


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_keeps_norms_embeddings_and_the_last_layers_exact(dtype):
    network, (x, t, tokens) = built(dtype), inputs()
    halved = {key for key, value in network.state_dict().items() if value.dtype == dtype}
    assert {"transformer.resblocks.0.attn.c_qkv.weight", "middle_block.1.encoder_kv.weight"} <= halved
    exact = ("token_embedding.weight", "positional_embedding", "transformer_proj.weight", "final_ln.weight")
    assert not halved & {*exact, "transformer.resblocks.0.ln_1.weight"}
    wanted, found = built()(x, t, tokens), network(x.to(dtype), t, tokens)
    assert found.dtype == torch.float32 and 0 < float((found - wanted).norm() / wanted.norm()) < 0.05


@pytest.mark.slow
def test_the_released_base_runs_at_full_size_on_paper():
    network = GlideUNet(device="meta", **GLIDE["GLIDE's base"].as_dict())
    tokens = torch.zeros(2, CONTEXT, dtype=torch.long, device="meta")
    found = network(torch.empty(2, 3, 64, 64, device="meta"), torch.zeros(2, device="meta"), tokens)
    assert found.shape == (2, 3, 64, 64)


def test_another_size_is_read_from_shapes_and_header():
    config = GlideConfig(**SMALL)
    assumed = detect.glide("mine.pt", shapes_of(SMALL))
    assert assumed.config.as_dict() == config.as_dict() | {"schedule": "cosine"} and assumed.like == ""
    assert detect.glide("mine.pt", shapes_of(SMALL | {"in_channels": 6})).config.schedule == "linear"
    header = detect.settings_header("mine.pt", shapes_of(SMALL), {"heads": 4, "schedule": "linear"})
    found = detect.glide("mine.safetensors", shapes_of(SMALL), header).config
    assert (found.heads, found.schedule) == (4, "linear")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda s: s.pop("final_ln.bias"), "no complete GLIDE network: it lacks final_ln.bias"),
        (lambda s: s.pop("positional_embedding"), "lacks positional_embedding"),
        (lambda s: s.update({"transformer.resblocks.7.ln_1.weight": (8,)}), "lacks transformer.resblocks.2.ln_1"),
        (lambda s: s.update({"input_blocks.0.0.weight": (64, 5, 3, 3)}), "takes 5 channels; GLIDE's take 3, 6, 7, 10"),
        (lambda s: s.pop("output_blocks.3.0.out_layers.3.weight"), "lacks output_blocks.3.0.out_layers.3.weight"),
    ],
)
def test_a_damaged_file_in_words(change, words):
    shapes = shapes_of(SMALL)
    change(shapes)
    with pytest.raises(CheckpointError, match=f"mine.pt .*{words}"):
        detect.glide("mine.pt", shapes)


def test_what_the_network_refuses_in_words():
    x, t, tokens = inputs()
    for given, words in (((x[..., :7], t, tokens), "this GLIDE network got a picture of 7x8"),
                         ((x, t), "reads the 9 tokens of a text .GLIDE Prompt. and got none"),
                         ((x, t, tokens[:, :5]), r"got a tensor of shape \[3, 5\]")):
        with pytest.raises(ValueError, match=words):
            built()(*given)
    with pytest.raises(ValueError, match="2 heads cannot share the text's 129 channels"):
        GlideConfig(**SMALL | {"text_width": 129})


def test_tokens_travel_exactly_and_show_where_they_were_mixed():
    config = GlideConfig(**adm_files.GLIDE)
    text = [0, 50256, 31373, 995]
    bits = bits_of(text)
    assert bits.dtype == torch.float32 and tokens_of(bits, config).tolist() == [text + [-1] * (CONTEXT - 4)]
    assert bool((tokens_of(bits_of([]), config) == -1).all())
    assert torch.equal(bits_of([]), torch.zeros_like(bits)), "zeroed conditioning is the empty text"
    for given, words in ((None, "made for another network"), (torch.zeros(1, 77, 768), "made for another network"),
                         ((bits + bits_of([1, 50256])) / 2, "a mixture of several texts"),
                         (torch.cat([bits, bits], 1), "this conditioning has 256"),
                         (bits_of([50257]), "knows 50257 tokens")):
        with pytest.raises(ValueError, match=words):
            tokens_of(given, config)
    with pytest.raises(ValueError, match="is 130 tokens long, and GLIDE reads 128. Take some words out, about 2"):
        bits_of([5] * 130)
