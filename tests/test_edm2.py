"""EDM2 by the tables of its releases and against a second implementation; post-hoc averages against their integrals."""

import dataclasses
import itertools

import edm2_formulas as formulas
import pytest
import torch

from guidance_pack.guidance.checkpoints.inert_pickle import CheckpointError
from guidance_pack.guidance.networks.edm2 import posthoc_ema
from guidance_pack.guidance.networks.edm2.config import EDM2Config, check_shapes, config_of, is_edm2
from guidance_pack.guidance.networks.edm2.unet import EDM2, magnitude_preserving

RELEASED = {
    ("XXS", 64): (31_309_029, 31_053_029, 31_307_877),
    ("XS", 128): (124_713_253, 124_201_253, 124_710_949),
    ("S", 192): (280_212_837, 279_444_837, 280_209_381),
    ("M", 256): (497_807_781, 496_783_781, 497_803_173),
    ("L", 320): (777_498_085, None, None),
    ("XL", 384): (1_119_283_749, None, None),
    ("XXL", 448): (1_523_164_773, None, None),
}
KINDS = ({}, {"label_dim": 0}, {"img_channels": 3})
CASES = [
    pytest.param(channels, kind, count, id=f"{size}-{'-'.join(kind) or 'img512'}")
    for (size, channels), counts in RELEASED.items()
    for kind, count in zip(KINDS, counts, strict=True)
]
SMALL = EDM2Config(
    img_resolution=16, label_dim=7, model_channels=64, channel_mult=(1, 2), num_blocks=2, attn_resolutions=(16, 8)
)


def shapes_of(config):
    return {name: tuple(value.shape) for name, value in EDM2(config, device="meta").state_dict().items()}


def filled(config, seed=0):
    """A network and its tensors, drawn from the seed."""
    tensors = formulas.random_tensors(shapes_of(config), seed)
    network = EDM2(config)
    network.load_state_dict(tensors)
    return network.eval().requires_grad_(False), tensors


def draws(config, batch=3, side=16, seed=1):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(batch, config.img_channels, side, side, generator=generator)
    return x, torch.linspace(-1.5, 1.0, batch), torch.eye(max(config.label_dim, 1))[:batch]


@pytest.mark.many
@pytest.mark.parametrize(("channels", "kind", "count"), CASES)
def test_released_sizes(channels, kind, count):
    config = EDM2Config(model_channels=channels, **kind)
    network = EDM2(config, device="meta")
    shapes = {name: tuple(value.shape) for name, value in network.state_dict().items()}
    assert len(shapes) == (203 if config.label_dim else 202)
    assert count is None or sum(p.numel() for p in network.parameters()) == count
    assert config_of("file", shapes) == config


def test_names_and_shapes_of_the_released_network():
    """The names of the published table, made from its words and not from the network."""
    block = {"emb_gain", "conv_res0.weight", "emb_linear.weight", "conv_res1.weight"}
    skip, attention = {"conv_skip.weight"}, {"attn_qkv.weight", "attn_proj.weight"}
    names = {"unet.out_gain", "unet.emb_fourier.freqs", "unet.emb_fourier.phases", "unet.emb_noise.weight",
             "unet.emb_label.weight", "unet.out_conv.weight", "logvar_fourier.freqs", "logvar_fourier.phases",
             "logvar_linear.weight", "unet.enc.64x64_conv.weight"}  # fmt: skip
    for size in (64, 32, 16, 8):
        here = attention if size <= 16 else set()
        enc = {f"{size}x{size}_block0": block | here | (skip if size < 64 else set())}
        enc |= {f"{size}x{size}_block{i}": block | here for i in (1, 2)}
        enc |= {f"{size}x{size}_down": block} if size < 64 else {}
        dec = {f"{size}x{size}_block{i}": block | here | skip for i in range(4)}
        dec |= {f"{size}x{size}_up": block} if size > 8 else {"8x8_in0": block | attention, "8x8_in1": block}
        for side, blocks in (("enc", enc), ("dec", dec)):
            names |= {f"unet.{side}.{name}.{part}" for name, parts in blocks.items() for part in parts}
    shapes = shapes_of(EDM2Config(img_channels=3))
    assert set(shapes) == names and len(names) == 203
    assert shapes["unet.enc.64x64_conv.weight"] == (128, 4, 3, 3) and shapes["unet.out_conv.weight"] == (3, 128, 3, 3)
    assert shapes["unet.emb_noise.weight"] == (512, 128) and shapes["unet.emb_label.weight"] == (512, 1000)
    assert shapes["unet.dec.8x8_in0.attn_qkv.weight"] == (1536, 512, 1, 1) and shapes["unet.out_gain"] == ()
    assert shapes["unet.dec.64x64_block3.conv_skip.weight"] == (128, 256, 1, 1)
    assert shapes["logvar_fourier.freqs"] == (128,) and shapes["logvar_linear.weight"] == (1, 128)


@pytest.mark.many
@pytest.mark.parametrize("change", [
    {}, {"label_dim": 0}, {"img_channels": 3, "channel_mult": (1, 2, 2)},
    {"model_channels": 128, "num_blocks": 1, "attn_resolutions": (8,)},
], ids=str)  # fmt: skip
def test_both_implementations_agree(change):
    config = dataclasses.replace(SMALL, **change)
    network, tensors = filled(config)
    x, c_noise, labels = draws(config)
    labels = labels if config.label_dim else None
    expected = formulas.network(tensors, x, c_noise, labels)
    torch.testing.assert_close(network(x, c_noise, labels), expected, atol=2e-5, rtol=2e-5)
    assert expected.std() > 0.1


@pytest.mark.slow
def test_every_tensor_of_the_network_counts():
    network, tensors = filled(SMALL)
    x, c_noise, labels = draws(SMALL)
    before = network(x, c_noise, labels)
    for name, tensor in tensors.items():
        own = network.state_dict()[name]
        own.copy_(tensor.flip(0) if tensor.ndim else tensor + 1)
        unchanged = torch.equal(network(x, c_noise, labels), before)
        assert unchanged == name.startswith("logvar"), name
        own.copy_(tensor)


@pytest.mark.slow
def test_labels():
    """Zeros, none and an unconditional network's ignorance; each sample has its own."""
    network, _ = filled(SMALL)
    x, c_noise, labels = draws(SMALL)
    x, c_noise = x[:1].repeat(3, 1, 1, 1), c_noise[:1].repeat(3)
    dropped = torch.cat([labels[:2], torch.zeros(1, 7)])
    out = network(x, c_noise, dropped)
    torch.testing.assert_close(out[2:], network(x[:1], c_noise[:1]), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(out[1:2], network(x[:1], c_noise[:1], labels[1:2]), atol=1e-5, rtol=1e-5)
    assert all((a - b).abs().max() > 0.01 for a, b in itertools.combinations(out, 2))
    free, _ = filled(dataclasses.replace(SMALL, label_dim=0))
    assert torch.equal(free(x, c_noise, labels), free(x, c_noise))


@pytest.mark.slow
def test_the_scale_of_a_weight_does_not_matter_and_the_type_hardly():
    network, tensors = filled(SMALL)
    x, c_noise, labels = draws(SMALL)
    before = network(x, c_noise, labels)
    network.load_state_dict({k: v * 5 if k.endswith("weight") else v for k, v in tensors.items()})
    torch.testing.assert_close(network(x, c_noise, labels), before, atol=6e-3, rtol=0)
    half = EDM2(SMALL, dtype=torch.bfloat16)
    half.load_state_dict(tensors)
    out = half(x.bfloat16(), c_noise, labels)
    assert out.dtype == torch.bfloat16 and (out.float() - before).std() < 0.05 * before.std()


def test_the_layer_keeps_sizes():
    """Rows of unit length after the cast: a unit-size input gives a unit-size output."""
    layer = magnitude_preserving(torch.nn)(32, 16, 3)
    with torch.no_grad():
        layer.weight.copy_(7 * torch.randn(16, 32, 3, 3, generator=torch.Generator().manual_seed(0)))
        x = torch.randn(4, 32, 40, 40, generator=torch.Generator().manual_seed(1))
        assert layer(x).std().item() == pytest.approx(1, abs=0.05)
        assert layer(x.half()).dtype == torch.half
        assert magnitude_preserving(torch.nn)(5, 3)(torch.ones(2, 5)).shape == (2, 3)


def test_activations_are_limited():
    network, tensors = filled(dataclasses.replace(SMALL, clip_act=0.5))
    limited = []
    for name, module in network.named_modules():
        if name.count(".") == 2 and not name.endswith("_conv"):
            module.register_forward_hook(lambda _, __, out: limited.append(out.abs().max().item()))
    network(*draws(SMALL))
    assert limited and max(limited) == 0.5


def test_the_gradient_of_the_input_is_right():
    network, _ = filled(dataclasses.replace(SMALL, model_channels=64, num_blocks=1))
    network.double()
    x, c_noise, labels = draws(SMALL, batch=1, side=8)
    x = x.double().requires_grad_()
    direction = torch.randn(x.shape, dtype=torch.double, generator=torch.Generator().manual_seed(3))
    network(x, c_noise, labels).square().sum().backward()
    with torch.no_grad():
        ends = [network(x + step * direction, c_noise, labels).square().sum() for step in (1e-3, -1e-3)]
    assert ((ends[0] - ends[1]) / 2e-3).item() == pytest.approx((x.grad * direction).sum().item(), rel=1e-3)


@pytest.mark.slow
def test_a_full_size_forward():
    """EDM2-XS img64 as published, at its own resolution, against the second implementation."""
    config = EDM2Config(img_channels=3)
    network, tensors = filled(config)
    x, c_noise, labels = draws(config, batch=1, side=64)
    out = network(x, c_noise, labels)
    assert out.shape == (1, 3, 64, 64)
    torch.testing.assert_close(out, formulas.network(tensors, x, c_noise, labels), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(("shape", "words"), [((1, 3, 16, 16), "4 channels"), ((1, 4, 15, 16), "multiples of 2")])
def test_wrong_pictures_are_refused(shape, words):
    with pytest.raises(ValueError, match=words):
        EDM2(SMALL, device="meta")(torch.zeros(shape), torch.zeros(1))


def test_config_and_settings():
    shapes = shapes_of(SMALL)
    settings = {"img_resolution": 16, "channel_mult": [1, 2], "res_balance": 0.4, "dropout": 0.1, "use_fp16": True}
    assert config_of("file", shapes, settings) == dataclasses.replace(SMALL, res_balance=0.4)
    with pytest.raises(CheckpointError, match="built with label_dim 1000, but its tensors have 7"):
        config_of("file", shapes, {"label_dim": 1000})
    assert SMALL.title == "EDM2 XXS, 16x16 latents, 7 classes"


def test_other_tensors_are_no_edm2():
    shapes = shapes_of(SMALL)
    assert is_edm2(shapes) and not is_edm2({"input_blocks.0.0.weight": (128, 3, 3, 3)})
    with pytest.raises(CheckpointError, match=r"a\.pt is no EDM2: its 1 tensors do not include unet\.emb_fourier"):
        config_of("a.pt", {"input_blocks.0.0.weight": (128, 3, 3, 3)})
    with pytest.raises(CheckpointError, match="some of EDM2's tensors but not all"):
        config_of("file", {k: v for k, v in shapes.items() if "block0" not in k})
    for change, words in (
        ({"unet.out_gain": None}, "lacks unet.out_gain"),
        ({"more": (1,)}, "has the unknown more"),
        ({"unet.out_conv.weight": (4, 1, 3, 3)}, r"\[4, 1, 3, 3\] instead of \[4, 64, 3, 3\]"),
    ):
        found = {key: shape for key, shape in (shapes | change).items() if shape is not None}
        with pytest.raises(CheckpointError, match=f"looks like EDM2 XXS.*{words}.*; get it again"):
            check_shapes("file", SMALL, shapes, found)


@pytest.mark.parametrize(("std", "exponent"), [
    (0.01, 96.995), (0.05, 16.972), (0.07, 11.245), (0.10, 6.937), (0.125, 4.916), (0.15, 3.558), (0.205, 1.696),
    (0.25, 0.720),
])  # fmt: skip
def test_exponents_of_published_widths(std, exponent):
    assert posthoc_ema.power_exponent(std) == pytest.approx(exponent, abs=6e-4)


@pytest.mark.parametrize("std", [0.0, 0.2887, -0.1, float("nan")])
def test_impossible_widths(std):
    with pytest.raises(ValueError, match="must lie in"):
        posthoc_ema.power_exponent(std)


def profile(snapshot, times):
    """How much an average taken at snapshot.time counts the weights of each time."""
    gamma = posthoc_ema.power_exponent(snapshot.std)
    inside = (gamma + 1) * times**gamma / snapshot.time ** (gamma + 1)
    return torch.where(times <= snapshot.time, inside, 0)


SNAPSHOTS = [posthoc_ema.Snapshot(time, std) for time, std in itertools.product((0.25, 0.5, 0.75, 1.0), (0.05, 0.1))]


@pytest.mark.slow
def test_inner_products_are_the_integrals_of_the_profiles():
    times = torch.linspace(0, 1, 400_001, dtype=torch.float64)
    for first, second in itertools.product(SNAPSHOTS[::3], SNAPSHOTS):
        integral = torch.trapezoid(profile(first, times) * profile(second, times), times).item()
        assert posthoc_ema.inner_product(first, second) == pytest.approx(integral, rel=2e-4, abs=1e-6)


@pytest.mark.parametrize("index", range(len(SNAPSHOTS)))
def test_a_snapshot_is_reconstructed_by_itself(index):
    found = posthoc_ema.coefficients(SNAPSHOTS, SNAPSHOTS[index])
    expected = [float(i == index) for i in range(len(SNAPSHOTS))]
    assert found == pytest.approx(expected, abs=1e-7)


def test_two_snapshots_by_hand():
    """Exponents 0 and 1 at one time: the products are 1, 1, 4/3; for exponent 0.5 they are 1, 1.2 (sums by hand)."""
    stds = {gamma: (gamma + 1) ** 0.5 / ((gamma + 2) * (gamma + 3) ** 0.5) for gamma in (0.25, 1.0, 0.5)}
    first, second, target = (posthoc_ema.Snapshot(1.0, std) for std in stds.values())
    product = {pair: (pair[0] + 1) * (pair[1] + 1) / (sum(pair) + 1) for pair in itertools.product(stds, stds)}
    a, b, d = product[0.25, 0.25], product[0.25, 1.0], product[1.0, 1.0]
    u, v = product[0.25, 0.5], product[1.0, 0.5]
    raw = ((d * u - b * v) / (a * d - b * b), (a * v - b * u) / (a * d - b * b))
    assert posthoc_ema.coefficients([first, second], target) == pytest.approx([r / sum(raw) for r in raw])


def test_a_reconstruction_comes_near_the_average_it_stands_for():
    times = torch.linspace(0, 1, 100_001, dtype=torch.float64)
    target = posthoc_ema.Snapshot(1.0, 0.07)
    weights = posthoc_ema.coefficients(SNAPSHOTS, target)
    mixed = sum(w * profile(s, times) for w, s in zip(weights, SNAPSHOTS, strict=True))
    wanted = profile(target, times)
    error = torch.trapezoid((mixed - wanted) ** 2, times) / torch.trapezoid(wanted**2, times)
    best = min(torch.trapezoid((profile(s, times) - wanted) ** 2, times) for s in SNAPSHOTS)
    assert sum(weights) == pytest.approx(1)
    assert error < 2e-3 and error < 0.05 * best / torch.trapezoid(wanted**2, times)


def test_state_dicts_are_combined_and_buffers_taken_from_the_last():
    states = [{"unet.a.weight": torch.full((2,), float(i), dtype=torch.float16), "unet.emb_fourier.freqs":
               torch.full((3,), float(i))} for i in (1, 2, 4)]  # fmt: skip
    out = posthoc_ema.combine_states(states, [0.5, 1.0, -0.5])
    assert out["unet.a.weight"].tolist() == [0.5, 0.5] and out["unet.a.weight"].dtype == torch.float32
    assert out["unet.emb_fourier.freqs"].tolist() == [4.0] * 3
    with pytest.raises(ValueError, match="other tensors"):
        posthoc_ema.combine_states([states[0], {"b": torch.zeros(1)}], [0.5, 0.5])


def test_snapshots_by_their_file_names():
    name = "edm2-img512-xs-2147483-0.050.pkl"
    assert posthoc_ema.snapshot_of(name) == posthoc_ema.Snapshot(2048 * 2**20, 0.05)
    assert posthoc_ema.snapshot_of("edm2-img64-s-uncond-0134217-0.110.pkl").time == 128 * 2**20
    with pytest.raises(ValueError, match="my-model.pkl does not end in"):
        posthoc_ema.snapshot_of("my-model.pkl")
