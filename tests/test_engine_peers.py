"""Guiders of other packs: their own step plus the terms, and a refusal in words where a component cannot act."""

import engine_probe as probe
import peer_guiders as peers
import pytest
import torch
from host_models import MODELS, count_forwards

SD15 = MODELS["sd15"]
STEPS, WEIGHT = 4, 2.5
CHOOSING = ["Setting", "Elsewhere", "Silent"]
WEIGHTS = [7.0, 5.0, 3.0, 2.0]  # one per step


def setting_of(main, **more):
    return probe.setting_of(main, SD15, steps=STEPS, **more)


def with_cfg(main, weight, span=None):
    from guidance_pack.guidance.rules.cfg import CFG
    from guidance_pack.guidance.schedule import ALWAYS, Interval
    from guidance_pack.host.engine.install import with_rule

    return with_rule(main, CFG(weight, Interval(*span) if span else ALWAYS))


def with_apg(main, **settings):
    from guidance_pack.guidance.rules.apg import APG
    from guidance_pack.host.engine.install import with_rule

    return with_rule(main, APG(**settings))


@pytest.mark.parametrize("kind", CHOOSING)
@pytest.mark.parametrize(
    "weight, span", [(4.0, None), (1.0, None), (None, (0.5, 1.0))], ids=["own weight", "weight 1", "interval"]
)
@pytest.mark.parametrize("told", [peers.CFG, 1.0], ids=["told 3", "told nothing"])
def test_a_weight_that_a_guider_does_not_use_is_refused(kind, weight, span, told, main):
    words = "asked for the CFG weight .*, and the guider .*: .* by itself.*KSampler or CFGGuider"
    with count_forwards(main) as ours, pytest.raises(ValueError, match=words):
        setting_of(main).run(peers.made(kind, with_cfg(main, weight, span), told))
    assert ours.rows <= 2, "in the first step"


@pytest.mark.parametrize("kind", CHOOSING)
def test_cfg_and_autoguidance_in_one_is_refused_there_too(kind, main, guide):
    with pytest.raises(ValueError, match="asked for the CFG weight 4 at sigma .*, and the guider"):
        setting_of(main).run(peers.made(kind, probe.guided(main, guide, cfg=4.0)))


def test_a_weight_that_another_node_sets_too_is_refused(main):
    import host_scenes as scenes

    with pytest.raises(ValueError, match="another node of this MODEL sets the weight too"):
        setting_of(main).run(probe.cfg_guider(
            scenes.cfg_override(with_cfg(main, 4.0)), SD15.conditioning(1), SD15.conditioning(2), peers.CFG
        ))  # fmt: skip


@pytest.mark.many
@pytest.mark.parametrize("kind", [*CHOOSING, "Telling"])
def test_other_guidance_is_added_to_the_guiders_own_step(kind, main, guide):
    for cfg in (False, None):  # without CFG Combine, and with one that leaves the weight alone
        model, calls = probe.recorded(probe.guided(main, guide, weight=WEIGHT, cfg=cfg))
        setting = setting_of(main)
        setting.run(peers.made(kind, model))
        host = probe.replay(peers.made(kind, main), setting, calls)
        bare = [probe.alone(network, SD15.conditioning(1), setting, calls) for network in (main, guide)]
        probe.assert_law(calls, host, *bare, lambda sigma: WEIGHT)


def test_a_weight_that_a_guider_takes_is_used(main):
    guider = peers.made("Telling", with_cfg(main, 4.0))
    with pytest.raises(ValueError, match="weight 4 at sigma .*, and the guider used 1: Telling chooses"):
        setting_of(main).run(guider)  # in its clean half
    early = setting_of(main)
    early.sigmas = early.sigmas[:2]
    assert torch.equal(early.run(guider), early.run(peers.made("Telling", main, cfg=4.0)))


@pytest.mark.parametrize("off", [False, True])
def test_a_guider_past_the_hosts_wrappers_is_refused_unless_nothing_acts(off, main, guide):
    setting, plain = setting_of(main), peers.made("PastHooks", main)
    guided = peers.made("PastHooks", probe.guided(main, guide, weight=1.0 if off else WEIGHT))
    if off:
        assert torch.equal(setting.run(guided), setting.run(plain))
        return
    words = "PastHooks evaluates the network past ComfyUI's wrappers.*KSampler or CFGGuider"
    with count_forwards(main) as ours, pytest.raises(ValueError, match=words):
        setting.run(guided)
    assert ours.forwards == 0
    with pytest.raises(ValueError, match=words):
        setting.run(peers.made("PastHooks", with_cfg(main, None, (0.5, 1.0))))
    assert torch.equal(setting.run(peers.made("PastHooks", with_cfg(main, None))), setting.run(plain))


def test_a_sampler_past_the_hosts_wrappers_is_refused_after_its_run(main, guide):
    guider = peers.made("Setting", probe.guided(main, guide, cfg=False))
    with pytest.raises(ValueError, match="past ComfyUI's wrappers"):
        setting_of(main).run(guider, peers.skipping_sampler())
    assert guide.model.current_patcher is None


def test_a_list_of_weights_is_read_by_its_guider(main, guide):
    model, calls = probe.recorded(probe.guided(main, guide, weight=WEIGHT, cfg=False))
    setting = setting_of(main)
    setting.run(peers.made("PerStep", model, cfg=WEIGHTS))
    host = probe.replay(peers.made("PerStep", main, cfg=WEIGHTS), setting, calls)
    bare = [probe.alone(network, SD15.conditioning(1), setting, calls) for network in (main, guide)]
    probe.assert_law(calls, host, *bare, lambda sigma: WEIGHT)


def test_cfg_combine_scales_every_weight_of_a_list(main):
    span = (0.5, 1.0)
    guider = peers.made("PerStep", with_cfg(main, None, span), cfg=WEIGHTS)
    setting = setting_of(main)
    with count_forwards(main) as ours:
        out = setting.run(guider)
    edge = float(main.get_model_object("model_sampling").percent_to_sigma(span[0]))
    inside = [float(sigma) <= edge for sigma in setting.sigmas[:-1]]
    assert ours.evaluations == sum(2 if acts else 1 for acts in inside) and len(set(inside)) == 2
    expected = [weight if acts else 1.0 for weight, acts in zip(WEIGHTS, inside, strict=True)]
    assert torch.equal(out, setting.run(peers.made("PerStep", main, cfg=expected)))
    assert guider.cfg == WEIGHTS
    one = setting.run(peers.made("PerStep", with_cfg(main, 4.0), cfg=WEIGHTS))
    assert torch.equal(one, setting.run(peers.made("PerStep", main, cfg=4.0)))


def test_the_page_is_told_of_every_weight_of_a_list(main):
    from guidance_pack.host.engine.page_events import steps_of
    from guidance_pack.host.engine.run import open_run

    guider = peers.made("PerStep", with_cfg(main, None), cfg=WEIGHTS)
    (line,) = steps_of(open_run(guider, setting_of(main).sigmas, None), guider.model_patcher)["lines"].values()
    assert line == WEIGHTS


def test_a_weight_that_is_no_number_is_left_to_its_guider_or_refused(main, guide):
    odd = {"xt": 3.0}
    setting = setting_of(main)
    model = probe.guided(main, guide, weight=WEIGHT, cfg=False)
    assert torch.isfinite(setting.run(peers.made("Elsewhere", model, cfg=odd))).all()
    with count_forwards(main) as ours, pytest.raises(ValueError, match=r"a number or a list of numbers.*\(dict\)"):
        setting.run(peers.made("Elsewhere", with_cfg(main, None), cfg=odd))
    assert ours.forwards == 0


@pytest.mark.parametrize("kind, cfg", [("Setting", 3.0), ("Elsewhere", 3.0), ("Telling", 3.0), ("PerStep", WEIGHTS)])
def test_apg_shapes_the_difference_at_the_weight_that_a_guider_uses(kind, cfg, main):
    model, calls = probe.recorded(with_apg(main, eta=0.3, norm_threshold=0.0, momentum=0.0))
    setting = setting_of(main)
    setting.run(peers.made(kind, model, cfg=cfg))
    used = weights_used(kind, main, setting, cfg)
    bare = [probe.alone(main, SD15.conditioning(seed), setting, calls) for seed in (1, 2)]
    for call, weight, positive, negative in zip(calls, used, *bare, strict=True):
        delta = positive - negative
        along = (delta * positive).sum() / (positive * positive).sum() * positive
        expected = positive + (weight - 1.0) * (delta - 0.7 * along)
        assert probe.far_apart(call.denoised, expected) < probe.TOLERANCE
    assert len(calls) == STEPS


def weights_used(kind, main, setting, cfg):
    """By a guider in the steps of a run, as the host's post-CFG hook is told."""
    seen, model = [], main.clone()
    model.set_model_sampler_post_cfg_function(lambda args: seen.append(args["cond_scale"]) or args["denoised"])
    setting.run(peers.made(kind, model, cfg=cfg))
    return seen


@pytest.mark.parametrize(
    "kind, negative, words",
    [("Silent", True, "Silent does not tell the host its weight"),
     ("Elsewhere", False, "Elsewhere takes no negative prompt")],
)  # fmt: skip
def test_apg_is_refused_where_a_guider_has_no_difference_that_it_knows(kind, negative, words, main):
    with pytest.raises(ValueError, match=f"between one positive and one negative prompt, and {words}.*KSampler"):
        setting_of(main).run(peers.made(kind, with_apg(main), negative=negative))
