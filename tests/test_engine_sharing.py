"""Components chained, cloned and branched; MODELs that share one network; pairs that cannot be main and guide."""

import pytest
import torch
from engine_probe import far_apart
from host_models import MODELS, count_forwards, sample, tensors

SD15 = MODELS["sd15"]
KEY = "diffusion_model.middle_block.0.in_layers.2.weight"


@pytest.fixture(scope="module")
def rules(comfy):
    from guidance_pack.guidance.rules import apg, autoguidance, cfg, rescale

    return {"CFG": cfg.CFG, "Auto": autoguidance.Autoguidance, "APG": apg.APG, "Rescale": rescale.Rescale}


@pytest.fixture
def main(comfy):
    return SD15.build(0)


def run(model, cfg=4.0, batch=1):
    (out,) = tensors(
        sample(model, SD15.conditioning(1), SD15.conditioning(2), SD15.latent(batch), steps=3, cfg=cfg)
    )
    return out


def lora(model, seed, strength=1.0):
    """A clone of the MODEL with one weight patched, as a LoRA loader makes it."""
    out = model.clone()
    weight = dict(model.model.named_parameters())[KEY]
    change = 0.1 * torch.randn(weight.shape, generator=torch.Generator().manual_seed(seed))
    assert out.add_patches({KEY: ("diff", (change,))}, strength)
    return out


# --- chaining -------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_terms_add_in_any_order(install, rules, main, guide):
    other = SD15.build(9)
    one, two = rules["Auto"](2.0), rules["Auto"](1.5)
    first = run(install.with_autoguidance(install.with_autoguidance(main, guide, one), other, two))
    second = run(install.with_autoguidance(install.with_autoguidance(main, other, two), guide, one))
    torch.testing.assert_close(first, second, rtol=1e-4, atol=1e-4)
    with_cfg_last = run(install.with_rule(install.with_autoguidance(main, guide, one), rules["CFG"](4.0)))
    with_cfg_first = run(install.with_autoguidance(install.with_rule(main, rules["CFG"](4.0)), guide, one))
    assert torch.equal(with_cfg_last, with_cfg_first)


@pytest.mark.slow
def test_the_same_component_twice_adds(install, rules, main, guide):
    first = install.with_autoguidance(main, guide, rules["Auto"](1.5))
    twice = install.with_autoguidance(first, guide, rules["Auto"](2.0))
    once = install.with_autoguidance(main, guide, rules["Auto"](2.5))
    torch.testing.assert_close(run(twice), run(once), rtol=1e-4, atol=1e-4)
    assert len(install.plan_of(twice).guides) == 1, "one guide connected twice is one guide"


@pytest.mark.slow
def test_a_branch_of_the_graph_keeps_its_own_plan(install, rules, main, guide):
    plain = run(main)
    branch = install.with_rule(main, rules["CFG"](2.0))
    longer = install.with_autoguidance(branch, guide, rules["Auto"](2.0))
    alone = run(branch)
    run(longer)
    assert torch.equal(run(branch), alone)
    assert torch.equal(run(main), plain)
    assert [len(install.plan_of(m).guidance.rules) for m in (main, branch, longer)] == [0, 1, 2]


@pytest.mark.slow
def test_clones_downstream_keep_the_guide(install, rules, main, guide):
    model = install.with_autoguidance(main, guide, rules["Auto"](2.0))
    assert torch.equal(run(model.clone().clone()), run(model))


def test_an_engine_is_installed_once(install, rules, main, guide):
    from guidance_pack.host.engine.plan import KEY as engine

    model = install.with_autoguidance(install.with_rule(main, rules["CFG"](2.0)), guide, rules["Auto"](2.0))
    assert all(len(model.get_wrappers(kind, engine)) == 1 for kind in model.wrappers)


@pytest.mark.slow
def test_transforms_run_last_in_chain_order(install, rules, main, guide):
    rescale, auto = rules["Rescale"](1.0), rules["Auto"](2.0)
    early = run(install.with_autoguidance(install.with_rule(main, rescale), guide, auto))
    late = run(install.with_rule(install.with_autoguidance(main, guide, auto), rescale))
    assert torch.equal(early, late)


def test_overlapping_cfg_is_refused_in_words_and_neighbours_are_not(install, rules, main):
    from guidance_pack.guidance.schedule import Interval

    first = install.with_rule(main, rules["CFG"](4.0, Interval(0.0, 0.5)))
    with pytest.raises(ValueError, match="Give them intervals that do not overlap, or remove one"):
        install.with_rule(first, rules["CFG"](2.0, Interval(0.4, 1.0)))
    with pytest.raises(ValueError, match="Two CFG Combine"):
        install.with_rule(first, rules["CFG"](2.0))
    with pytest.raises(ValueError, match="Two CFG Combine"):
        install.with_rule(first, rules["CFG"](2.0, Interval(14.0, 0.03, "sigma")))
    both = install.with_rule(first, rules["CFG"](1.0, Interval(0.5, 1.0)))
    with count_forwards(main) as count:
        run(both)
    assert count.evaluations < 6


# --- one network, several weights -----------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("case", ["guide is the base", "main is the base", "two LoRAs"])
def test_two_lora_variants_of_one_checkpoint(install, rules, main, case):
    """Equal to two truly separate checkpoints; never zero guidance."""
    pairs = {
        "guide is the base": lambda base, other: (lora(base, 1), other),
        "main is the base": lambda base, other: (base, lora(other, 1)),
        "two LoRAs": lambda base, other: (lora(base, 1), lora(other, 2)),
    }
    shared = install.with_autoguidance(*pairs[case](main, main), rules["Auto"](2.0))
    apart = install.with_autoguidance(*pairs[case](SD15.build(0), SD15.build(0)), rules["Auto"](2.0))
    expected = run(apart, cfg=1.0)
    assert far_apart(run(shared, cfg=1.0), expected) < 1e-5
    assert (run(pairs[case](main, main)[0], cfg=1.0) - expected).abs().max() > 0.01, "the guidance is not zero"


@pytest.mark.slow
def test_a_shared_network_with_equal_weights_needs_no_copy(install, rules, main):
    from guidance_pack.host.engine.plan import guides_of

    model = install.with_autoguidance(main, main.clone(), rules["Auto"](2.0), SD15.conditioning(3))
    (patcher,) = guides_of(model).values()
    assert patcher.model is main.model
    separate = install.with_autoguidance(main, SD15.build(0), rules["Auto"](2.0), SD15.conditioning(3))
    with count_forwards(main) as alone:
        run(main, cfg=1.0)
    with count_forwards(main) as count:
        found = run(model, cfg=1.0)
    expected = run(separate, cfg=1.0)
    assert (found - expected).abs().max() < 5e-6 * expected.abs().max()  # one call and two round differently
    assert count.forwards == alone.forwards and main.model.current_patcher is None


def test_a_model_as_its_own_guide_is_refused(install, rules, main):
    with pytest.raises(ValueError, match="one and the same model.*guidance would be zero"):
        install.with_autoguidance(main, main.clone(), rules["Auto"](3.0))


@pytest.mark.slow
def test_a_model_with_other_attention_is_a_guide_over_the_same_network(install, rules, main):
    """Identity attention in the middle block (as in PAG), set as a patch of the guide's own options."""
    from guidance_pack.host.engine.plan import guides_of

    weak = main.clone()
    weak.set_model_attn1_replace(lambda q, k, v, extra, **_: v, "middle", 0)
    model = install.with_autoguidance(main, weak, rules["Auto"](2.0))
    (patcher,) = guides_of(model).values()
    assert patcher.model is main.model
    assert not torch.equal(run(model, cfg=1.0), run(main, cfg=1.0))


def test_a_merge_after_autoguidance_is_refused_before_sampling(install, rules, main):
    model = install.with_autoguidance(main, main.clone(), rules["Auto"](2.0), SD15.conditioning(3))
    model.add_patches({KEY: ("diff", (torch.ones(64, 64, 3, 3),))}, 0.5, 0.5)
    with count_forwards(main) as count, pytest.raises(ValueError, match="Move the LoRA or patch before Autoguidance"):
        run(model)
    assert count.forwards == 0


def test_without_a_way_to_load_it_again_the_error_names_the_ways_out(install, rules, main):
    main.cached_patcher_init = None
    merged = main.clone()
    merged.add_patches({KEY: ("diff", (torch.ones(64, 64, 3, 3),))}, 0.5, 0.5)
    with pytest.raises(ValueError, match="Load the guide with another loader node"):
        install.with_autoguidance(merged, main, rules["Auto"](2.0))


@pytest.mark.slow
def test_a_sampling_patch_on_one_of_two_clones_is_a_difference_too(install, rules, main):
    import comfy_extras.nodes_model_advanced as advanced

    def zsnr(model):
        return advanced.ModelSamplingDiscrete().patch(model, "v_prediction", True)[0]

    tuned = lora(main, 1)
    model = install.with_autoguidance(tuned, zsnr(main), rules["Auto"](2.0))
    apart = install.with_autoguidance(tuned, zsnr(SD15.build(0)), rules["Auto"](2.0))
    assert far_apart(run(model), run(apart)) < 1e-4


def test_a_replaced_part_of_the_network_needs_a_copy(install, rules, main):
    from guidance_pack.host.engine.plan import guides_of

    block = main.clone()
    block.add_object_patch("diffusion_model.out", torch.nn.Sequential(*main.model.diffusion_model.out, torch.nn.Tanh()))
    (patcher,) = guides_of(install.with_autoguidance(main, block, rules["Auto"](2.0))).values()
    assert patcher.model is not main.model


def test_the_second_model_of_a_dual_model_guider_counts_too(install, rules, main):
    from comfy_extras.nodes_custom_sampler import Guider_DualModel

    model = install.with_autoguidance(SD15.build(3), main, rules["Auto"](2.0))
    guider = Guider_DualModel(model, lora(main, 1))
    guider.set_conds(SD15.conditioning(1), SD15.conditioning(2))
    guider.set_cfg(3.0)
    latent = SD15.latent()["samples"]
    with torch.inference_mode(), pytest.raises(ValueError, match="share one network but differ"):
        guider.sample(torch.randn_like(latent), latent, None, torch.tensor([1.0, 0.0]), disable_pbar=True, seed=0)


# --- pairs that cannot be -------------------------------------------------------------------------------------------


def test_another_latent_space_is_refused_in_words(install, rules, main):
    other = next(spec for name, spec in MODELS.items() if name.startswith(("sd3", "flux")))
    with pytest.raises(ValueError, match="do not share a latent space.*4 channels.*16"):
        install.with_autoguidance(main, other.build(0), rules["Auto"](2.0))


def test_a_guide_with_components_of_its_own_is_refused(install, rules, main, guide):
    with pytest.raises(ValueError, match="a guide is evaluated bare"):
        install.with_autoguidance(main, install.with_rule(guide, rules["CFG"](2.0)), rules["Auto"](2.0))


# --- one network, one prediction type -------------------------------------------------------------------------------


def read_as(model, kind):
    """The MODEL as the node ModelSamplingDiscrete gives it."""
    from comfy_extras.nodes_model_advanced import ModelSamplingDiscrete

    return ModelSamplingDiscrete().patch(model, kind, False)[0]


def weaker(model):
    """The MODEL with another attention: the same network and weights, as Degraded Model gives it."""
    out = model.clone()
    out.set_model_attn1_patch(lambda q, k, v, extra_options: (q, k, 0.5 * v))
    return out


def test_a_prediction_type_set_behind_autoguidance_is_the_guides_too(install, rules, main):
    after = read_as(install.with_autoguidance(main, weaker(main), rules["Auto"](2.0)), "v_prediction")
    first = read_as(main, "v_prediction")
    before = install.with_autoguidance(first, weaker(first), rules["Auto"](2.0))
    wanted = run(before, cfg=1.0)
    assert torch.equal(run(after, cfg=1.0), wanted)
    assert far_apart(run(first, cfg=1.0), wanted) > 0.01, "the guidance is too small to tell anything"
    back = read_as(after, "eps")
    fresh = install.with_autoguidance(main, weaker(main), rules["Auto"](2.0))
    assert torch.equal(run(back, cfg=1.0), run(fresh, cfg=1.0))


def test_one_network_with_two_prediction_types_is_refused(install, rules, main):
    for model, guide in ((read_as(main, "v_prediction"), weaker(main)), (main, weaker(read_as(main, "v_prediction")))):
        with pytest.raises(ValueError, match="one network.*read as .*V_PREDICTION.*Move that node before both"):
            install.with_autoguidance(model, guide, rules["Auto"](2.0))


def test_a_lora_may_bring_a_prediction_type_of_its_own(install, rules, main):
    """LCM's LoRA, guided by the model without it."""
    model = install.with_autoguidance(read_as(lora(main, 1), "lcm"), main, rules["Auto"](2.0))
    assert torch.isfinite(run(model, cfg=1.0)).all()


def test_a_shift_is_no_other_prediction_type(install, rules, comfy):
    from comfy_extras.nodes_model_advanced import ModelSamplingSD3

    from guidance_pack.host.common.noise_levels import read_alike

    flow = MODELS["sd3"].build(0)
    shifted = ModelSamplingSD3().patch(flow, 7.0)[0]
    assert read_alike(*(m.get_model_object("model_sampling") for m in (flow, shifted)))
    install.with_autoguidance(shifted, weaker(flow), rules["Auto"](2.0))
    discrete = ModelSamplingSD3().patch(flow, 7.0, 1.0)[0]
    assert not read_alike(*(m.get_model_object("model_sampling") for m in (flow, discrete)))


def test_a_copy_of_the_network_cannot_follow_and_says_so(main):
    from guidance_pack.host.lora.sharing import COPIED, follow_reading

    copy = SD15.build(0)
    copy.set_attachments(COPIED, "hooks on the weights")
    with pytest.raises(ValueError, match="read as V_PREDICTION, and the guide, an independent copy.*read as EPS"):
        follow_reading(read_as(main, "v_prediction"), copy, alike=True)
    follow_reading(read_as(main, "v_prediction"), copy, alike=False)
