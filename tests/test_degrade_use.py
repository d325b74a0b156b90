"""Degraded Model in use: beside other packs' patches, in words when it cannot be, and under Autoguidance."""

import engine_probe as probe
import pytest
import test_degrade
import torch
import torch.nn.functional as F
from host_models import MODELS, count_forwards, sample
from host_scenes import lora, perturbed_attention
from test_degrade import ATTENTION, BLOCKS, KINDS, assert_same, degraded, kinds_of, predicted

scene = test_degrade.scene
SD15 = MODELS["sd15"]


@pytest.fixture(scope="module")
def tiny(comfy):
    from guidance_pack.host.models.tiny import load_tiny_model

    return load_tiny_model("shapes-edm")


def tiny_network(model):
    return model.model.diffusion_model


def estimate(model, x, sigma):
    """The MODEL's denoised estimate of pictures without a class, through the host's sampler."""
    import comfy.samplers

    found = []

    def ask(denoise, noise, sigmas, extra_args, **others):
        at = x.to(noise.device), sigma.expand(len(x)).to(noise.device)
        found.append(denoise(*at, **extra_args).cpu())
        return noise

    with torch.inference_mode():
        from guidance_pack.host.common.labels import class_conditioning

        guider = probe.cfg_guider(model, class_conditioning(model, ""), class_conditioning(model, ""), 1.0)
        guider.sample(x, torch.zeros_like(x), comfy.samplers.KSAMPLER(ask), torch.tensor([1.0, 0.0]), seed=0)
    return found[0]


@pytest.fixture(scope="module")
def pictures():
    return probe.noise_like((2, 3, 32, 32)), torch.tensor(0.8)


# --- the embedded model ---------------------------------------------------------------------------------------------


def by_network(model, x, sigma, around):
    from guidance_pack.guidance.networks.tiny.preconditioning import precondition

    network = tiny_network(model)
    device = next(network.parameters()).device
    x, sigma, null = x.to(device), sigma.expand(len(x)).to(device), torch.full((len(x),), network.config.num_classes)
    plain = type(network).__mro__[2].forward
    with torch.inference_mode():
        return precondition(lambda a, t, y: plain(network, a, t, y, around), "edm")(x, sigma, null.to(device)).cpu()


@pytest.mark.parametrize("kind", KINDS)
def test_the_tiny_model_offers_every_kind(tiny, pictures, kind):
    plain, weak = estimate(tiny, *pictures), estimate(degraded(tiny, kind), *pictures)
    assert torch.isfinite(weak).all() and probe.far_apart(weak, plain) > 1e-3
    assert torch.equal(plain, estimate(tiny, *pictures))
    assert_same(by_network(tiny, *pictures, None), plain)


def test_the_tiny_models_blocks_and_attention_by_hand(tiny, pictures):
    def skipping(part, index, run, hidden):
        return hidden if (part, index) in (("down", 0), ("deep", 2)) else run(hidden, F.scaled_dot_product_attention)

    weak = degraded(tiny, "skipped layers", layers="down 0, deep 2")
    assert_same(estimate(weak, *pictures), by_network(tiny, *pictures, skipping))

    def lonely(part, index, run, hidden):
        return run(hidden, (lambda q, k, v: v) if (part, index) == ("deep", 1) else F.scaled_dot_product_attention)

    weak = degraded(tiny, "identity attention", layers="deep 1")
    assert_same(estimate(weak, *pictures), by_network(tiny, *pictures, lonely))


# --- other packs' patches -------------------------------------------------------------------------------------------


def patched(model, name, seen):
    """What other packs put at the points that the damage uses, on a clone."""
    out = model.clone()

    def replacement(args, extra):
        seen.append("block")
        out = extra["original_block"](args)
        return {**out, "img": 1.1 * out["img"]}

    def attention(q, k, v, extra, mask=None):
        seen.append("attention")
        return 0.9 * v.mean(1, keepdim=True).expand_as(q)

    def override(func, q, k, v, heads, *args, **more):
        seen.append("override")
        return 1.1 * func(q, k, v, heads, *args, **more)

    if name in ("sd15", "sdxl"):
        out.set_model_attn1_replace(attention, "middle", 0, 0)
        out.set_model_input_block_patch(lambda h, options: (seen.append("input"), 1.05 * h)[1])
        out.set_model_output_block_patch(lambda h, skip, options: (seen.append("output"), (1.05 * h, skip))[1])
    else:
        for i in range(len(MODELS[name].build(0).model.diffusion_model.joint_blocks)):
            out.set_model_patch_replace(replacement, "dit", "double_block", i)
        out.model_options["transformer_options"]["optimized_attention_override"] = override
    return out


@pytest.mark.many
@pytest.mark.parametrize(("name", "kind"), [
    *kinds_of("sd15"), *(pair for pair in kinds_of("sd3") if pair[1] != "skipped layers"),
])  # fmt: skip
def test_other_packs_patches_still_run_and_still_count(scene, name, kind):
    model, setting, calls = scene(name)
    seen, plain_seen = [], []
    predicted(name, patched(model, name, plain_seen), setting, calls[:1])
    others = patched(model, name, seen)
    strength = 0.5 if "attention" in kind else None
    weak = predicted(name, degraded(others, kind, strength, layers="" if kind == "input noise" else
                                    ("middle" if name == "sd15" else "0-1")), setting, calls[:1])
    assert set(seen) == set(plain_seen) and len(seen) >= len(plain_seen)
    alone = predicted(name, degraded(model, kind, strength), setting, calls[:1])
    assert probe.far_apart(weak, alone) > 1e-4
    # Added after the damage, they count the same.
    after = patched(degraded(model, kind, strength, layers="" if kind == "input noise" else
                             ("middle" if name == "sd15" else "0-1")), name, [])
    assert torch.equal(predicted(name, after, setting, calls[:1]), weak)


def test_damages_add_up(scene):
    model, setting, calls = scene("sd3")
    both = degraded(degraded(model, "skipped layers", layers="0"), "skipped layers", layers="1")
    once = degraded(model, "skipped layers", layers="0-1")
    assert torch.equal(*(predicted("sd3", weak, setting, calls) for weak in (both, once)))


# --- words ----------------------------------------------------------------------------------------------------------


@pytest.mark.many
@pytest.mark.parametrize("name", MODELS)
def test_what_a_network_does_not_offer_is_refused_in_words(scene, name):
    model, _, _ = scene(name)
    for kind, (_, names) in KINDS.items():
        if name not in names:
            network = type(model.model.diffusion_model).__name__
            offered = ("input noise" if name not in BLOCKS else
                       "skipped layers, random blocks, dropout, input noise")
            words = f"{offered}. {kind.capitalize()} works with Stable Diff"
            if kind == "shuffled tokens":
                words = ".*input noise. Shuffled tokens works with SD3, Flux"
            with pytest.raises(ValueError, match=f"kind = {kind} cannot be used with this model .{network}.; it "
                                                 f"supports {words}"):
                degraded(model, kind)
    assert (name in ATTENTION) <= (name in BLOCKS)


@pytest.mark.parametrize(("name", "kind", "text", "message"), [
    ("sd15", "skipped layers", "7", r"layers has '7', and this model has input 1, middle, output 0\. Write for "
                                    r"instance middle"),
    ("sd15", "identity attention", "input 9", "layers has 'input 9', and this model has input 1, input 3, middle, "
                                              "output 0-3"),
    ("sd3", "skipped layers", "0, 5-7", "layers has '5-7', and this model has double 0-1"),
    ("flux", "dropout", "0", "layers has '0', and this model has double 0, single 0. Write for instance double 0"),
    ("flux", "dropout", "single 2-1", "layers has 'single 2-1'"),
    ("flux", "dropout", "double 0-999999999999", "layers has 'double 0-999999999999'"),
    ("flux", "dropout", " , ;", "layers has ' , ;', and this model has double 0, single 0"),
    ("flux", "dropout", "every single one!", "layers has 'every single one!'"),
])  # fmt: skip
def test_layers_that_are_not_there(scene, name, kind, text, message):
    model, _, _ = scene(name)
    with pytest.raises(ValueError, match=message):
        degraded(model, kind, 0.1, layers=text)


def test_layers_in_words(comfy):
    from guidance_pack.host.degrade.layers import central, chosen, names_of

    there = (*((part, i) for part in ("double", "single") for i in range(24)),)
    assert chosen("single 3, double 7-9; double 8", there) == (
        ("single", 3), ("double", 7), ("double", 8), ("double", 9))  # fmt: skip
    assert chosen("double", there) == there[:24]
    assert chosen("4, 5-6", there[:24]) == (("double", 4), ("double", 5), ("double", 6))
    assert central(there[:24]) == there[7:10]  # 7-9 of 24, as SD3's skip layer guidance
    assert central(there) == there[14:20] and central(there[:2]) == there[:1]
    assert central((("input", 1), ("middle", 0), ("output", 3))) == (("middle", 0),)
    assert names_of(("input", i) for i in (1, 2, 4, 5, 7)) == "input 1-2, input 4-5, input 7"
    assert chosen(names_of(there), there) == there


@pytest.mark.parametrize(("kind", "strength", "message"), [
    ("dropout", 1.0, r"strength is 1 and kind is dropout.*Use at most 0\.9"),
    ("random blocks", 0.95, r"strength is 0\.95 and kind is random blocks"),
    ("input noise", 1.5, r"strength is 1\.5; it goes from 0"),
    ("input noise", float("nan"), "strength is nan"),
    ("noise", 0.5, "kind is 'noise'; it can be identity attention, blurred"),
])  # fmt: skip
def test_strengths_that_cannot_be(scene, kind, strength, message):
    from guidance_pack.nodes.degrade import GuidanceDegrade

    model, _, _ = scene("sd15")
    with pytest.raises(ValueError, match=message):
        degraded(model, kind, strength)
    assert message.split(r"\.")[0].split(".*")[0] in str(
        GuidanceDegrade.validate_inputs(kind=kind, strength=strength)
    )
    assert GuidanceDegrade.validate_inputs(kind=None, strength=None) is True


def test_tokens_that_are_no_grid_are_refused_in_words(scene):
    """Another node that puts a reference's tokens beside the picture's."""
    model, setting, calls = scene("flux")

    def more_tokens(args):
        twice = {name: torch.cat([args[name]] * 2, 1) for name in ("img", "img_ids")}
        return {**args, **twice}

    other = model.clone()
    other.set_model_patch(more_tokens, "post_input")
    with pytest.raises(ValueError, match="as a grid, but a layer has 32 of them for an input of 8 x 8"):
        predicted("flux", degraded(other, "pooled attention"), setting, calls)
    assert torch.isfinite(predicted("flux", model, setting, calls)).all()


@pytest.mark.parametrize("kind", ["identity attention", "blurred attention", "pooled attention"])
def test_a_layer_is_as_large_as_it_is(scene, kind):
    """Deep Shrink by 1.5 leaves 5 x 5 tokens of 8 x 8, which no patch size gives."""
    from comfy_extras.nodes_model_downscale import PatchModelAddDownscale

    model, setting, calls = scene("sd15")
    shrunk = PatchModelAddDownscale.execute(model, 1, 1.5, 0.0, 1.0, True, "bicubic", "bicubic").result[0]
    plain, weak = (predicted("sd15", m, setting, calls) for m in (shrunk, degraded(shrunk, kind, layers="middle")))
    assert torch.isfinite(weak).all() and probe.far_apart(weak, plain) > 1e-4


@pytest.mark.parametrize("kind", ["identity attention", "blurred attention", "pooled attention"])
def test_tokens_in_tiles_are_refused_in_words(scene, kind):
    from comfy_extras.nodes_hypertile import HyperTile

    model = scene("sd15")[0]
    (tiled,) = HyperTile.execute(model, 64, 2, 1, False)
    weak, latent = degraded(tiled, kind, layers="input 1"), {"samples": torch.zeros(1, 4, 32, 32)}
    with pytest.raises(ValueError, match="another node on this MODEL divides them .HyperTile."):
        sample(weak, SD15.conditioning(1), SD15.conditioning(1), latent, steps=1)


# --- as a guide -----------------------------------------------------------------------------------------------------


@pytest.mark.many
@pytest.mark.parametrize(("name", "kind"), kinds_of("sd15", "flux"))
def test_autoguidance_over_it_is_the_law(scene, name, kind):
    spec, (main, _, _) = MODELS[name], scene(name)
    weak = degraded(main, kind)
    model, calls = probe.recorded(probe.guided(main, weak, weight=2.0, cfg=3.0))
    setting = probe.setting_of(main, spec, steps=3, latent_seed=3)
    positive, negative = spec.conditioning(1), spec.conditioning(2)
    with count_forwards(main) as count:
        setting.run(probe.cfg_guider(model, positive, negative, 3.0))
    assert count.evaluations == 3 * (2 + 1)
    host = probe.replay(probe.cfg_guider(main, positive, negative, 3.0), setting, calls)
    bare = [probe.alone(network, positive, setting, calls) for network in (main, weak)]
    probe.assert_law(calls, host, *bare, lambda sigma: 2.0)


def test_a_lora_before_it_is_damaged_with_the_rest(scene):
    main = lora(scene("sd15")[0])
    spec, weak = SD15, degraded(main, "identity attention")
    model, calls = probe.recorded(probe.guided(main, weak, cfg=False))
    setting = probe.setting_of(main, spec, steps=2, latent_seed=3)
    setting.run(probe.cfg_guider(model, spec.conditioning(1), spec.conditioning(1), 1.0))
    bare = [probe.alone(network, spec.conditioning(1), setting, calls) for network in (main, weak)]
    probe.assert_law(calls, bare[0], *bare, lambda sigma: 2.0)


def test_core_pag_is_autoguidance_over_identity_attention(scene):
    """PAG adds scale (D - D_perturbed) to the result; Autoguidance (w - 1) times the same."""
    main, _, _ = scene("sdxl")
    spec = MODELS["sdxl"]
    weak = degraded(main, "identity attention", layers="middle")
    ours, theirs = (
        sample(model, spec.conditioning(1), spec.conditioning(2), spec.latent(1), steps=3, cfg=1.0)
        for model in (probe.guided(main, weak, weight=3.0, cfg=False), perturbed_attention(main))
    )
    assert_same(ours, theirs, 1e-4)


def test_nothing_is_left_after_an_error_or_an_interrupt(scene):
    import comfy.model_management

    main, _, _ = scene("sd15")
    positive, negative = SD15.conditioning(1), SD15.conditioning(2)
    interrupt = comfy.model_management.InterruptProcessingException
    plain = sample(main, positive, negative, SD15.latent(1), cfg=2.0)
    for error in (RuntimeError, interrupt):
        for _, kind in kinds_of("sd15"):
            def fail(h, options, error=error):
                raise error("stop")

            broken = main.clone()
            broken.set_model_input_block_patch(fail)
            guided = probe.guided(main, degraded(broken, kind), cfg=False)
            with pytest.raises(error):
                sample(guided, positive, negative, SD15.latent(1), cfg=2.0)
            assert main.model.current_patcher is None
    assert torch.equal(plain, sample(main, positive, negative, SD15.latent(1), cfg=2.0))


def test_the_same_network_undamaged_is_refused_as_a_guide(scene):
    main, _, _ = scene("sd15")
    with pytest.raises(ValueError, match="one and the same model"):
        probe.guided(main, degraded(main, "dropout", 0.0))
