"""Negative in Attention: against its formula, and in the host's networks against both prompts in one batch."""

import engine_probe as probe
import pytest
import torch
from host_families import BUILT
from host_models import MODELS, count_forwards, sample

from guidance_pack.guidance.negative_attention import NegativeAttention
from guidance_pack.guidance.schedule import Interval

SPECS = {name: BUILT[name] for name in ("sd15", "sdxl", "sd3", "flux", "chroma", "qwen_image", "wan", "wan_i2v")}
CROSS = ("sd15", "sdxl", "wan", "wan_i2v")
RULE = NegativeAttention(4.0, 1.5, 0.6)


@pytest.fixture(scope="module")
def built(comfy):
    made = {}

    def of(name):
        return made.setdefault(name, SPECS[name].build(0))

    return of


def with_nag(model, rule=RULE, negative=None):
    from guidance_pack.host.engine.install import with_negative_attention

    return with_negative_attention(model, rule, negative)


def prompts(name, tokens=None):
    """Two prompts; what a prompt's pooled embedding does beside attention is the same in both."""
    positive, negative = SPECS[name].conditioning(1), SPECS[name].conditioning(2, tokens)
    return positive, [[negative[0][0], positive[0][1]]]


def mixed(positive, negative, rule=RULE):
    """As the authors' ComfyUI nodes compute it (2505.21179)."""
    far = positive * rule.weight - negative * (rule.weight - 1)
    before, after = (torch.linalg.vector_norm(z, ord=1, dim=-1, keepdim=True).clamp_min(1e-6) for z in (positive, far))
    ratio = after / before
    far = far * torch.minimum(ratio, torch.full_like(ratio, rule.tau)) / ratio
    return far * rule.alpha + positive * (1 - rule.alpha)


def test_it_is_the_papers_formula():
    draw = torch.Generator().manual_seed(0)
    positive, negative = (torch.randn(3, 5, 8, generator=draw, dtype=torch.float64) for _ in range(2))
    negative[0] *= 0.01  # not every token reaches the limit
    for rule in (RULE, NegativeAttention(11.0, 1.0, 1.0), NegativeAttention(1.5, 10.0, 0.25)):
        found = rule.steer(positive, negative, torch.full((3,), rule.weight, dtype=torch.float64))
        torch.testing.assert_close(found, mixed(positive, negative, rule), rtol=2e-7, atol=1e-7)
    zero = RULE.steer(torch.zeros(1, 2, 4), torch.zeros(1, 2, 4), torch.tensor([4.0]))
    assert torch.equal(zero, torch.zeros(1, 2, 4))
    wide = torch.full((1, 1, 4096), 30.0, dtype=torch.float16)
    assert torch.isfinite(RULE.steer(wide, -wide, torch.tensor([4.0]))).all()


def by_hand(model, name, calls, positive, negative):
    """Both prompts in one batch, the picture's part of their attention mixed in both rows; one picture at a time."""
    text = positive[0][0].shape[1]
    seen = []

    def attention(func, q, k, v, heads, *args, skip_reshape=False, **more):
        asking, asked = (part.shape[2 if skip_reshape else 1] for part in (q, k))
        out = func(q, k, v, heads, *args, skip_reshape=skip_reshape, **more)
        if name in CROSS and asked != text or name not in CROSS and (asking != asked or asked < text + 16):
            return out
        seen.append(asked)
        start = 0 if name in CROSS else text
        picture = mixed(out[:1, start:], out[1:, start:])
        return torch.cat([out[:, :start], torch.cat([picture, picture])], 1)

    def both(executor, x, t, c_concat=None, c_crossattn=None, control=None, transformer_options=None, **more):
        options = {**transformer_options, "optimized_attention_override": attention}
        twice = {key: torch.cat([value] * 2) if torch.is_tensor(value) else value for key, value in more.items()}
        context = torch.cat([c_crossattn, negative[0][0].to(c_crossattn)])
        c_concat = None if c_concat is None else torch.cat([c_concat] * 2)
        out = executor(torch.cat([x] * 2), torch.cat([t] * 2), c_concat, context, control, options, **twice)
        return out[:1]

    from comfy.patcher_extension import WrappersMP

    model = model.clone()
    model.add_wrapper(WrappersMP.APPLY_MODEL, both)
    found = probe.alone(model, positive, SETTINGS[name], calls)
    assert seen
    return found


SETTINGS = {}


def far(first, second):
    return float((first - second).abs().max())


def recorded(model, name, nag, positive, negative, cfg=1.0, batch=1, steps=2):
    SETTINGS[name] = setting = probe.setting_of(model, SPECS[name], steps=steps, batch=batch, latent_seed=3)
    seen, calls = probe.recorded(nag)
    setting.run(probe.cfg_guider(seen, positive, negative, cfg))
    return setting, calls


@pytest.mark.parametrize("name", SPECS)
def test_every_family_has_the_papers_attention(built, name):
    model, (positive, negative) = built(name), prompts(name)
    _, calls = recorded(model, name, with_nag(model), positive, negative)
    expected = by_hand(model, name, calls, positive, negative)
    plain = probe.alone(model, positive, SETTINGS[name], calls)
    errors, effects = ([far(call.denoised, d) for call, d in zip(calls, ds, strict=True)] for ds in (expected, plain))
    assert max(errors) < 0.02 * max(effects) and max(effects) > 1e-3


@pytest.mark.parametrize("name", ["sd15", "wan", "qwen_image"])
def test_off_is_exact_and_costs_nothing(built, name):
    model, (positive, negative) = built(name), prompts(name)
    latent = SPECS[name].latent(1)
    more = {"steps": 2, "scheduler": SPECS[name].scheduler}

    def drawn(guided):
        with count_forwards(guided) as count:
            return sample(guided, positive, negative, latent, **more), count.forwards

    plain, forwards = drawn(model)
    for rule in (NegativeAttention(1.0), NegativeAttention(4.0, schedule=Interval(0.5, 0.5))):
        off, same = drawn(with_nag(model, rule))
        assert torch.equal(off, plain) and same == forwards == 2
    for rule, acts in ((RULE, 2), (NegativeAttention(4.0, schedule=Interval(0.0, 0.4)), 1)):
        steered, more_forwards = drawn(with_nag(model, rule))
        # A transformer with one stream is entered once more, to find what the prompt is before its blocks.
        assert not torch.equal(steered, plain) and more_forwards == 2 + acts * (name != "sd15")


@pytest.mark.parametrize("name", ["sd15", "flux", "wan"])
def test_a_batch_is_its_samples_at_their_own_noise_levels(built, name):
    model, (positive, negative) = built(name), prompts(name, 12)
    nag = with_nag(model, NegativeAttention(4.0, 1.5, 0.6, Interval(0.0, 0.5)))
    setting, calls = recorded(model, name, nag, positive, negative, batch=3)
    mixed_levels = probe.Call(calls[0].x, torch.stack([c.sigma[0] for c in (calls[0], calls[1], calls[0])]), None)
    guider = probe.cfg_guider(nag, positive, negative, 1.0)
    (together,) = probe.replay(guider, setting, [mixed_levels])
    for row in range(3):
        at = slice(row, row + 1)
        part = probe.Setting(setting.sigmas, setting.latent[at], setting.noise[at])
        one = probe.Call(mixed_levels.x[at], mixed_levels.sigma[at], None)
        (alone,) = probe.replay(guider, part, [one])
        assert probe.far_apart(together[at], alone) < probe.TOLERANCE


@pytest.mark.parametrize("name", ["sd15", "sd3", "wan"])
def test_beside_cfg_and_autoguidance_it_changes_the_positive_estimate_alone(built, name):
    model, (positive, negative), other = built(name), prompts(name), SPECS[name].conditioning(5)
    nag = with_nag(model, RULE, other)
    weak = SPECS[name].build(9)
    setting, calls = recorded(model, name, probe.guided(nag, weak, weight=1.5, cfg=3.0), positive, negative, cfg=7.0)
    main = probe.replay(probe.cfg_guider(nag, positive, negative, 1.0), setting, calls)
    plain, bad, guide = (probe.alone(*given, setting, calls) for given in (
        (model, positive), (model, negative), (weak, positive)))  # fmt: skip
    for call, d, n, g in zip(calls, main, bad, guide, strict=True):
        expected = d + 2.0 * (d - n) + 0.5 * (d - g)
        assert probe.far_apart(call.denoised, expected) < 5 * probe.TOLERANCE
    assert far(main[0], plain[0]) > 1e-3


def test_patches_of_other_packs_are_asked_as_before(built):
    model, (positive, negative) = built("sd15").clone(), prompts("sd15")
    asked = {"patch": 0, "replacement": 0, "output": 0}

    def patch(n, context, value, extra):
        asked["patch"] += 1
        assert context.shape[1] == 8  # the positive prompt alone
        return n, context, value * 1.5

    def replacement(q, k, v, extra):
        from comfy.ldm.modules.attention import optimized_attention

        asked["replacement"] += 1
        assert len(q) == len(k) == 1 and k.shape[1] == v.shape[1] == 8
        return 0.5 * optimized_attention(q, k, v, extra["n_heads"])

    def output(n, extra):
        asked["output"] += 1
        return n

    model.set_model_attn2_patch(patch)
    model.set_model_attn2_replace(replacement, "middle", 0)
    model.set_model_attn2_output_patch(output)
    setting, calls = recorded(model, "sd15", with_nag(model), positive, negative, steps=1)
    layers = 7
    assert asked == {"patch": layers, "replacement": 2, "output": layers}  # each of the two attentions is replaced
    asked.update(dict.fromkeys(asked, 0))
    plain = probe.alone(model, positive, setting, calls)
    assert asked == {"patch": layers, "replacement": 1, "output": layers} and far(plain[0], calls[0].denoised) > 1e-3


@pytest.mark.parametrize("name", ["sd15", "flux", "wan"])
def test_a_degraded_model_beside_it_is_a_guide_without_it(built, name):
    from guidance_pack.host.degrade.degrade import degrade

    model, (positive, negative) = built(name), prompts(name)
    weak, nag = degrade(model, "identity attention", 1.0), with_nag(model)
    setting, calls = recorded(model, name, probe.guided(nag, weak, weight=2.0, cfg=False), positive, negative)
    main = probe.replay(probe.cfg_guider(nag, positive, negative, 1.0), setting, calls)
    probe.assert_law(calls, main, main, probe.alone(weak, positive, setting, calls), lambda _: 2.0, 1e-4)
    both = with_nag(weak)  # on the degraded network itself
    _, own = recorded(model, name, both, positive, negative, steps=1)
    assert torch.isfinite(own[0].denoised).all()
    assert min(far(own[0].denoised, d[0]) for d in (main, probe.alone(weak, positive, setting, own))) > 1e-4


def test_a_copied_negative_prompt_is_still_the_negative(comfy):
    """Windows over a long video give the host copies of its prompts."""
    from comfy.sampler_helpers import convert_cond

    from guidance_pack.host.common.keys import NEGATIVE_ATTENTION
    from guidance_pack.host.degrade.layers import Layout
    from guidance_pack.host.negative.run import NegativeInAttention

    positive, negative = (convert_cond(prompt) for prompt in prompts("sd15"))
    wrapper, seen = NegativeInAttention(RULE, Layout(), {}, (negative,)), []
    copies = [[{**entry} for entry in prompt] for prompt in (positive, negative)]
    for conds in ([positive, negative], copies, copies[::-1], [None, copies[1]]):
        wrapper.calc_cond_batch(lambda *given: seen.append(given[-1]), None, conds, None, None, {})
    assert [options["transformer_options"][NEGATIVE_ATTENTION] for options in seen] == [{1}, {1}, {0}, {1}]


def test_what_cannot_be_is_refused_in_words(built, comfy):
    import comfy.samplers

    model, (positive, negative) = built("sd15"), prompts("sd15")
    with pytest.raises(ValueError, match="cannot be used with this model .*It works with Stable"):
        with_nag(MODELS["stable_audio"].build(0))
    with pytest.raises(ValueError, match="attention has room for one"):
        with_nag(with_nag(model))
    regional = [[negative[0][0], {"area": (4, 4, 0, 0)}], negative[0]]
    with pytest.raises(ValueError, match=r"takes one prompt for the whole picture .* 2 part\(s\)"):
        with_nag(model, negative=regional)
    setting = probe.setting_of(model, SPECS["sd15"], steps=1)
    with pytest.raises(ValueError, match="takes one prompt for the whole picture"):
        setting.run(probe.cfg_guider(with_nag(model), positive, regional, 1.0))
    bare = comfy.samplers.CFGGuider(with_nag(model))
    bare.inner_set_conds({"positive": positive})
    with pytest.raises(ValueError, match="Connect a prompt to its input negative"):
        setting.run(bare)
    bare = comfy.samplers.CFGGuider(with_nag(model, negative=negative))
    bare.inner_set_conds({"positive": positive})
    assert torch.isfinite(setting.run(bare)).all()
