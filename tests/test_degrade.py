"""Degraded MODELs on the real host: each kind against the same damage done to the network by hand."""

import contextlib
import importlib
import math

import engine_probe as probe
import host_models
import pytest
import torch
import torch.nn.functional as F
from host_models import MODELS

from guidance_pack.guidance.perturbation import key_of, uniform

UNETS = ("sd15", "sd20_v", "sdxl", "sdxl_zsnr", "sdxl_edm")
JOINT = {"sd3": "modules.diffusionmodules.mmdit", "flux": "flux.math", "qwen_image": "qwen_image.model",
         "chroma_radiance": "flux.math"}
DITS = ("sd3", "flux", "qwen_image", "wan", "stable_audio", "ltxav", "chroma_radiance")
ATTENTION = (*UNETS, *JOINT, "wan")
BLOCKS = (*UNETS, *DITS)
KINDS = {
    "identity attention": (1.0, ATTENTION), "blurred attention": (1.0, ATTENTION), "pooled attention": (1.0, ATTENTION),
    "skipped layers": (1.0, BLOCKS), "random blocks": (0.5, BLOCKS), "dropout": (0.3, BLOCKS),
    "input noise": (0.5, MODELS), "shuffled tokens": (1.0, (*JOINT, "wan")),
}  # fmt: skip
DRAWN = ("random blocks", "dropout", "input noise", "shuffled tokens")
PAIRS = [(kind, name) for kind, (_, names) in KINDS.items() for name in names]


def kinds_of(*names):
    """Each family with each kind that it offers."""
    return [(name, kind) for name in names for kind, (_, there) in KINDS.items() if name in there]


def degraded(model, kind, strength=None, **more):
    from guidance_pack.host.degrade.degrade import degrade

    return degrade(model, kind, KINDS[kind][0] if strength is None else strength, **more)


@pytest.fixture(scope="module")
def scene(comfy):
    """One family: its model, a run's setting and the evaluations of that run, at two noise levels."""
    made = {}

    def of(name, batch=1):
        if (name, batch) not in made:
            spec = MODELS[name]
            model = made[name, 1][0] if (name, 1) in made else spec.build(0)
            setting = probe.setting_of(model, spec, steps=3, batch=batch, latent_seed=3)
            seen, calls = probe.recorded(model)
            setting.run(probe.cfg_guider(seen, spec.conditioning(1), spec.conditioning(1), 1.0))
            made[name, batch] = model, setting, calls[1:3]
        return made[name, batch]

    return of


def predicted(name, model, setting, calls):
    return torch.stack([out.flatten(1) for out in probe.alone(model, MODELS[name].conditioning(1), setting, calls)])


def assert_same(first, second, tolerance=probe.TOLERANCE):
    assert torch.isfinite(first).all() and probe.far_apart(first, second) < tolerance


@contextlib.contextmanager
def changed(owner, name, value):
    """While inside, an attribute (or an entry of a module list) is another."""
    before = owner[name] if isinstance(name, int) else getattr(owner, name)
    put = owner.__setitem__ if isinstance(name, int) else lambda key, new: setattr(owner, key, new)
    put(name, value)
    try:
        yield
    finally:
        if isinstance(name, int) or not isinstance(owner, torch.nn.Module) or name in owner._modules:
            put(name, before)
        else:
            delattr(owner, name)


@pytest.mark.many
@pytest.mark.parametrize(("kind", "name"), PAIRS)
def test_damage_is_real_repeatable_and_leaves_the_model_alone(scene, kind, name):
    model, setting, calls = scene(name)
    plain = predicted(name, model, setting, calls)
    weak = degraded(model, kind, seed=3)
    first = predicted(name, weak, setting, calls)
    assert torch.isfinite(first).all() and probe.far_apart(first, plain) > 1e-4
    torch.manual_seed(1234)
    assert torch.equal(first, predicted(name, weak.clone(), setting, calls))
    assert torch.equal(plain, predicted(name, model, setting, calls))
    assert degraded(model, kind, 0.0) is model
    again = predicted(name, degraded(model, kind, seed=4), setting, calls)
    assert torch.equal(first, again) == (kind in ("skipped layers", *(k for k in KINDS if "attention" in k)))


@pytest.mark.many
@pytest.mark.parametrize(("kind", "name"), [p for p in PAIRS if p[1] not in ("ace_step15", "ltxav")])
def test_a_sample_is_damaged_alone_as_in_a_batch(scene, kind, name):
    model, setting, calls = scene(name, batch=3)
    weak = degraded(model, kind, seed=3)
    together = predicted(name, weak, setting, calls)
    for index in (0, 2):
        rows = slice(index, index + 1)
        part = probe.Setting(setting.sigmas, setting.latent[rows], setting.noise[rows])
        one = [probe.Call(call.x[rows], call.sigma[rows], call.denoised[rows]) for call in calls]
        assert_same(predicted(name, weak, part, one), together[:, rows], 1e-4)


def test_shuffled_tokens_are_the_picture_s_in_another_order(scene):
    """By hand: the block is given the same tokens at other places, and text stays where it is."""
    from guidance_pack.guidance.perturbation import order

    places = order(1000, 0.3, 5)
    assert sorted(places.tolist()) == list(range(1000)) and 200 < int((places != torch.arange(1000)).sum()) < 400
    assert torch.equal(order(7, 0.0, 5), torch.arange(7))
    model, setting, calls = scene("flux")
    network, seen = model.model.diffusion_model, []
    part, weak = network.single_blocks[0], degraded(model, "shuffled tokens", seed=3, layers="single 0")
    handle = part.register_forward_pre_hook(lambda _, args, named: seen.append(args[0].clone()), with_kwargs=True)
    predicted("flux", model, setting, calls[:1]), predicted("flux", weak, setting, calls[:1])
    handle.remove()
    plain, moved = seen[-2:]
    picture = order(16, 1.0, key_of(3, float(calls[0].sigma[0]), "('single', 0)")) + 8
    assert torch.equal(moved, plain[:, [*range(8), *picture.tolist()]])


@pytest.mark.parametrize(("name", "kind"), [pair for pair in kinds_of("sd15", "flux") if pair[1] in DRAWN])
def test_a_batch_may_hold_several_noise_levels(scene, kind, name):
    model, setting, calls = scene(name, batch=3)
    weak = degraded(model, kind, seed=5)
    first, second = predicted(name, weak, setting, calls)
    rows = [0, 1, 0]
    x, sigma = (torch.stack([getattr(calls[row], field)[i] for i, row in enumerate(rows)]) for field in ("x", "sigma"))
    (mixed,) = predicted(name, weak, setting, [probe.Call(x, sigma, x)])
    assert_same(mixed, torch.stack([(first, second)[row][i] for i, row in enumerate(rows)]), 1e-4)


def block_of(network, name, layer):
    part, number = layer
    path = {"wan": "blocks", "sd3": "joint_blocks", "qwen_image": "transformer_blocks",
            "stable_audio": "transformer.layers", "ltxav": "transformer_blocks"}.get(name, f"{part}_blocks")
    return network.get_submodule(path)[number]


def unchanged(name, layer):
    """A transformer's block that gives back what it gets, in its own way of being called."""
    if name == "sd3":
        return lambda context, x, **more: (context, x)
    if name == "qwen_image":
        return lambda hidden_states, encoder_hidden_states, **more: (encoder_hidden_states, hidden_states)
    if layer[0] == "double" and name in ("flux", "chroma_radiance"):
        return lambda img, txt, **more: (img, txt)
    return lambda x, *rest, **more: x


@pytest.mark.parametrize(("name", "layer"), [
    ("sd3", ("double", 0)), ("sd3", ("double", 1)), ("flux", ("double", 0)), ("flux", ("single", 0)),
    ("chroma_radiance", ("single", 0)), ("qwen_image", ("double", 1)), ("wan", ("double", 1)),
    ("stable_audio", ("double", 0)), ("ltxav", ("double", 1)),
])  # fmt: skip
def test_a_skipped_block_of_a_transformer_is_as_if_it_were_not_there(scene, name, layer):
    model, setting, calls = scene(name)
    weak = degraded(model, "skipped layers", layers=f"{layer[0]} {layer[1]}")
    block = block_of(model.model.diffusion_model, name, layer)
    with changed(block, "forward", unchanged(name, layer)):
        expected = predicted(name, model, setting, calls)
    assert torch.equal(predicted(name, weak, setting, calls), expected)
    half = predicted(name, degraded(model, "skipped layers", 0.5, layers=f"{layer[0]} {layer[1]}"), setting, calls)
    assert probe.far_apart(half, expected) > 1e-5


@pytest.mark.many
@pytest.mark.parametrize("name", UNETS)
@pytest.mark.parametrize("word", ["middle", "input 1", "output 0"])
def test_a_skipped_block_of_a_unet_is_as_if_it_were_not_there(scene, name, word):
    from comfy.ldm.modules.diffusionmodules.openaimodel import TimestepEmbedSequential

    model, setting, calls = scene(name)
    network = model.model.diffusion_model
    weak = predicted(name, degraded(model, "skipped layers", layers=word), setting, calls)
    if word == "middle":
        place = network, "middle_block", TimestepEmbedSequential()
    elif word == "input 1":
        place = network.input_blocks, 1, TimestepEmbedSequential()
    else:  # it gets the picture with a skip beside it, and must give back the picture's channels alone
        alone = TimestepEmbedSequential(_First(network.output_blocks[0][0].out_channels))
        place = network.output_blocks, 0, alone
    with changed(*place):
        assert_same(weak, predicted(name, model, setting, calls))


class _First(torch.nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.channels = channels

    def forward(self, x):
        return x[:, : self.channels]


@pytest.mark.parametrize("name", ["sd15", "wan"])
def test_dropout_is_dropout_of_what_the_block_adds(scene, name):
    model, setting, calls = scene(name)
    network, rate, seed = model.model.diffusion_model, 0.3, 9
    layer, word = (("middle", 0), "middle") if name == "sd15" else (("double", 1), "1")
    ends = (network.middle_block[0], network.middle_block[-1]) if name == "sd15" else [network.blocks[1]] * 2
    level = {}
    stream = "" if name == "sd15" else "img0"

    def enter(_, args):
        level["before"] = args[0].clone()

    def leave(_, args, out):
        draws = uniform(out.shape[1:], key_of(seed, level["sigma"], f"{layer}{stream}"))
        return level["before"] + (draws >= rate) * (out - level["before"]) / (1 - rate)

    hooks = [ends[0].register_forward_pre_hook(enter), ends[1].register_forward_hook(leave)]
    expected = []
    for call in calls:
        level["sigma"] = float(call.sigma[0])
        expected += list(predicted(name, model, setting, [call]))
    for hook in hooks:
        hook.remove()
    weak = degraded(model, "dropout", rate, layers=word, seed=seed)
    assert_same(predicted(name, weak, setting, calls), torch.stack(expected))


def test_random_blocks_are_skipped_as_often_as_asked(scene):
    from guidance_pack.host.degrade.draws import Draws

    hits = torch.cat([Draws(seed, (1.5,)).hits(0.2, "('double', 3)", 1) for seed in range(4000)])
    assert float(hits.mean()) == pytest.approx(0.2, abs=5 * math.sqrt(0.16 / 4000))
    model, setting, calls = scene("sd3")
    outcomes = set()
    singles = [predicted("sd3", m, setting, calls[:1]) for m in (
        model, *(degraded(model, "skipped layers", layers=word) for word in ("0", "1", "0-1")))]  # fmt: skip
    for seed in range(12):
        out = predicted("sd3", degraded(model, "random blocks", 0.5, seed=seed), setting, calls[:1])
        outcomes |= {i for i, single in enumerate(singles) if torch.equal(out, single)}
    assert outcomes == {0, 1, 2, 3}


@pytest.mark.many
@pytest.mark.parametrize("name", UNETS)
@pytest.mark.parametrize("kind", ["identity attention", "blurred attention", "pooled attention"])
@pytest.mark.parametrize("strength", [1.0, 0.4])
def test_attention_of_a_unet_by_hand(scene, name, kind, strength):
    model, setting, calls = scene(name)
    attention = model.model.diffusion_model.middle_block[1].transformer_blocks[0].attn1
    side = round(math.sqrt(setting.latent.shape[-1] * setting.latent.shape[-2] / 4))

    def forward(x, context=None, value=None, **more):
        q, k, v = attention.to_q(x), attention.to_k(x), attention.to_v(x)
        return attention.to_out(by_hand(kind, strength, q, k, v, attention.heads, (side, side)))

    with changed(attention, "forward", forward):
        expected = predicted(name, model, setting, calls)
    weak = degraded(model, kind, strength, layers="middle", blur=0.8)
    assert_same(predicted(name, weak, setting, calls), expected)


def by_hand(kind, strength, q, k, v, heads, grid, text=0, mask=None):
    """The damaged attention of [B, N, heads * D] with full masks, kernels and loops, text first."""
    tokens = q.shape[1]

    def attend(q, k, v, mask=mask):
        split = [t.unflatten(2, (heads, -1)).transpose(1, 2) for t in (q, k, v)]
        return F.scaled_dot_product_attention(*split, attn_mask=mask).transpose(1, 2).flatten(2)

    whole = attend(q, k, v)
    if kind == "identity attention":
        alone = torch.zeros(tokens, tokens)
        alone[text:, text:] = -math.inf
        alone.fill_diagonal_(0.0)
        return whole + strength * (attend(q, k, v, alone if mask is None else alone + mask) - whole)
    places = torch.cartesian_prod(*(torch.arange(n) for n in grid)).float()
    frames = (tokens - text) // len(places)
    if kind == "blurred attention":
        weights = torch.exp(-torch.cdist(places, places) ** 2 / (2 * 0.8**2))
        weights = torch.block_diag(*[weights / weights.sum(1, keepdim=True)] * frames)
        soft = q.clone()
        soft[:, text:] += strength * (weights @ q[:, text:] - q[:, text:])
        return attend(soft, k, v)
    cells = (places // 2) @ torch.tensor([1000.0, 1.0])
    member = torch.stack([(cells == cell).float() for cell in cells.unique()])
    member = torch.block_diag(*[member / member.sum(1, keepdim=True)] * frames)
    small = [torch.cat([t[:, :text], member @ t[:, text:]], 1) for t in (k, v)]
    columns = None if mask is None else torch.cat([mask[..., :text], mask[..., text:] @ member.T], -1)
    return whole + strength * (attend(q, *small, columns) - whole)


@pytest.mark.many
@pytest.mark.parametrize("name", [*JOINT, "wan"])
@pytest.mark.parametrize("kind", ["identity attention", "blurred attention", "pooled attention"])
@pytest.mark.parametrize("strength", [1.0, 0.4])
def test_attention_of_a_transformer_by_hand(scene, name, kind, strength, monkeypatch):
    model, setting, calls = scene(name)
    words = {"flux": ("double 0", "single 0"), "chroma_radiance": ("double 0", "single 0")}.get(name, ("0", "1"))
    module = importlib.import_module(f"comfy.ldm.{JOINT.get(name, 'wan.model')}")
    attend = "optimized_attention_masked" if name == "qwen_image" else "optimized_attention"
    host, asked = getattr(module, attend), []
    grid = tuple(math.ceil(n / (8 if name == "chroma_radiance" else 2)) for n in setting.latent.shape[-2:])
    frames = setting.latent.shape[2] if name == "wan" else 1

    def damaged_at(which):
        def attention(q, k, v, heads, mask=None, skip_reshape=False, **more):
            if k.shape[-2] == q.shape[-2]:
                asked.append(1)
            if len(asked) - 1 != which or k.shape[-2] != q.shape[-2]:
                return host(q, k, v, heads, mask, skip_reshape=skip_reshape, **more)
            flat = [(t.transpose(1, 2) if skip_reshape else t).flatten(2) for t in (q, k, v)]
            text = flat[0].shape[1] - frames * math.prod(grid)
            full = None if mask is None else mask.unsqueeze(1) if mask.ndim == 3 else mask
            return by_hand(kind, strength, *flat, heads, grid, text, full)

        return attention

    for which, word in enumerate(words):
        weak = degraded(model, kind, strength, layers=word, blur=0.8)
        found = predicted(name, weak, setting, calls[:1])
        asked.clear()
        with monkeypatch.context() as patch:
            patch.setattr(module, attend, damaged_at(which))
            expected = predicted(name, model, setting, calls[:1])
        assert asked and probe.far_apart(found, predicted(name, model, setting, calls[:1])) > 1e-6
        assert_same(found, expected)


@pytest.mark.many
@pytest.mark.parametrize("name", MODELS)
def test_input_noise_is_more_noise_and_the_level_is_told(scene, name):
    """By hand: x and sigma after adding noise, given to the undamaged model."""
    from guidance_pack.guidance.perturbation import normal

    model, setting, calls = scene(name)
    sampling = model.get_model_object("model_sampling")
    flow = type(sampling).__mro__[2].__name__ == "CONST" or MODELS[name].prediction == "CONST"
    extra = 0.5
    noisier = []
    for call in calls:
        sigma = call.level
        noise = normal(call.x.shape[1:], key_of(2, sigma, "input"))[None].double()
        x, added = call.x.double(), math.sqrt((1 + extra) ** 2 - 1)
        if flow:
            ve = sigma / (1 - sigma)
            told = (1 + extra) * ve / (1 + (1 + extra) * ve)
            x = (1 - told) * (x / (1 - sigma) + added * ve * noise)
        else:
            told = (1 + extra) * sigma
            x = x + added * sigma * noise
            assert told < float(sampling.sigma_max)
        noisier.append(probe.Call(x.float(), torch.full_like(call.sigma, told), call.denoised))
    weak = degraded(model, "input noise", extra, seed=2)
    found, expected = (predicted(name, *rest) for rest in ((weak, setting, calls), (model, setting, noisier)))
    assert_same(found, expected, 1e-3 if flow else 1e-4)


def test_the_first_step_of_a_flow_has_no_signal_and_is_finite(scene):
    model, setting, calls = scene("flux")
    start = probe.Call(calls[0].x, torch.ones_like(calls[0].sigma), calls[0].denoised)
    assert torch.isfinite(predicted("flux", degraded(model, "input noise"), setting, [start])).all()


def test_more_noise_stays_within_the_trained_levels(scene):
    model, setting, calls = scene("sd15")
    top = model.get_model_object("model_sampling").sigma_max
    start = probe.Call(calls[0].x, top.reshape(1).float(), calls[0].denoised)
    found = predicted("sd15", degraded(model, "input noise"), setting, [start])
    assert torch.equal(found, predicted("sd15", model, setting, [start]))


def test_the_global_random_state_is_not_touched(scene):
    model, setting, calls = scene("sd15")
    for kind in ("dropout", "random blocks", "input noise"):
        state = torch.get_rng_state()
        predicted("sd15", degraded(model, kind), setting, calls)
        assert torch.equal(state, torch.get_rng_state())


def test_ksampler_takes_a_degraded_model_as_any_other(comfy):
    spec = MODELS["sd15"]
    model = spec.build(0)
    outs = [
        host_models.sample(m, spec.conditioning(1), spec.conditioning(2), spec.latent(2), steps=2, cfg=3.0)
        for m in (model, degraded(model, "dropout"), model)
    ]
    assert torch.equal(outs[0], outs[2]) and probe.far_apart(outs[1], outs[0]) > 1e-3
