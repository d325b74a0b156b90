"""Under every guider and sampler node of the host: the same law, only the needed evaluations, and off is exact."""

import engine_probe as probe
import pytest
import torch
from host_models import MODELS, count_forwards

SD15 = MODELS["sd15"]
STEPS = 4
CFG, WEIGHT = 3.0, 2.5
CFG_SPAN, GUIDE_SPAN = (0.3, 1.0), (0.0, 0.8)  # percent; with 4 steps each leaves some steps out
# Evaluations of the main and of the second network per call, inside and outside CFG's interval.
COSTS = {
    "cfg": ((2, 0), (1, 0)),
    "basic": ((1, 0), (1, 0)),
    "dual": ((3, 0), (1, 0)),
    "dual nested": ((3, 0), (3, 0)),
    "dual model": ((1, 1), (1, 0)),
    "perp neg": ((3, 0), (3, 0)),
}


@pytest.fixture(scope="module")
def second(comfy):
    return SD15.build(9)


def make(kind, model, second, cfg=CFG):
    """A GUIDER from the host's own node."""
    from comfy_extras.nodes_custom_sampler import BasicGuider, CFGGuider, DualCFGGuider, DualModelGuider
    from comfy_extras.nodes_perpneg import PerpNegGuider

    one, two, three = (SD15.conditioning(seed) for seed in (1, 2, 3))
    made = {
        "cfg": lambda: CFGGuider.execute(model, one, two, cfg),
        "basic": lambda: BasicGuider.execute(model, one),
        "dual": lambda: DualCFGGuider.execute(model, one, three, two, cfg, cfg - 1.0, "regular"),
        "dual nested": lambda: DualCFGGuider.execute(model, one, three, two, cfg, cfg - 1.0, "nested"),
        "dual model": lambda: DualModelGuider.execute(model, one, cfg, second, two),
        "perp neg": lambda: PerpNegGuider.execute(model, one, two, three, cfg, 0.7),
    }
    return made[kind]().args[0]


def interval(span):
    from guidance_pack.guidance.schedule import Interval

    return Interval(*span)


def inside(model, span):
    """1 inside the interval, 0 outside, by hand."""
    sampling = model.get_model_object("model_sampling")
    start, end = (float(sampling.percent_to_sigma(p)) if p else float("inf") for p in span)
    return lambda sigma: 1.0 if end < sigma <= start else 0.0


def weight_at(model):
    acts = inside(model, GUIDE_SPAN)
    return lambda sigma: 1.0 + (WEIGHT - 1.0) * acts(sigma)


def spanned(main, guide, **more):
    return probe.guided(
        main, guide, weight=WEIGHT, schedule=interval(GUIDE_SPAN), cfg_schedule=interval(CFG_SPAN), **more
    )


@pytest.mark.many
@pytest.mark.parametrize("kind", COSTS)
def test_every_guider_gets_its_own_step_plus_the_guides_term(kind, main, guide, second):
    model, calls = probe.recorded(spanned(main, guide))
    setting = probe.setting_of(main, SD15, steps=STEPS)
    with count_forwards(main) as ours, count_forwards(guide) as guides, count_forwards(second) as seconds:
        out = setting.run(make(kind, model, second))
    assert torch.isfinite(out).all() and len(calls) == STEPS

    acts, weight = inside(main, CFG_SPAN), weight_at(main)
    costs = [COSTS[kind][0 if acts(call.level) else 1] for call in calls]
    assert len({acts(call.level) for call in calls}) == 2
    assert (ours.evaluations, seconds.evaluations) == tuple(sum(cost) for cost in zip(*costs, strict=True))
    assert guides.forwards == sum(weight(call.level) != 1.0 for call in calls) < STEPS

    host = probe.replay(make(kind, main, second), setting, calls, acts)
    bare = [probe.alone(model, SD15.conditioning(1), setting, calls) for model in (main, guide)]
    probe.assert_law(calls, host, *bare, weight)


@pytest.mark.many
@pytest.mark.parametrize("kind", COSTS)
def test_off_is_bit_identical_under_every_guider(kind, main, guide, second):
    setting = probe.setting_of(main, SD15, steps=2)
    with count_forwards(main) as plain:
        expected = setting.run(make(kind, main, second))
    for weight, schedule in ((1.0, None), (3.0, interval((0.4, 0.4)))):
        model = probe.guided(main, guide, weight=weight, schedule=schedule)
        with count_forwards(main) as ours, count_forwards(guide) as guides:
            got = setting.run(make(kind, model, second))
        assert torch.equal(got, expected)
        assert (ours.forwards, ours.rows, guides.forwards) == (plain.forwards, plain.rows, 0)
    assert torch.equal(setting.run(make(kind, main, second)), expected)


@pytest.mark.many
@pytest.mark.parametrize("kind", COSTS)
def test_the_guiders_weights_are_its_own_again_after_a_run(kind, main, guide, second):
    guider = make(kind, spanned(main, guide), second)
    before = {name: value for name, value in vars(guider).items() if name.startswith("cfg")}
    setting = probe.setting_of(main, SD15, steps=2)
    first = setting.run(guider)
    assert {name: getattr(guider, name) for name in before} == before
    assert torch.equal(setting.run(guider), first), "a second run of the same guider must be the same run"


@pytest.mark.slow
def test_ksampler_and_sampler_custom_give_what_a_cfg_guider_gives(main, guide):
    import comfy.samplers
    from comfy_extras.nodes_custom_sampler import RandomNoise, SamplerCustom, SamplerCustomAdvanced

    import nodes

    model = spanned(main, guide)
    one, two, latent = SD15.conditioning(1), SD15.conditioning(2), SD15.latent(1, None)
    sigmas, euler = probe.sigmas_of(main, STEPS), comfy.samplers.sampler_object("euler")
    with torch.inference_mode():
        (basic,) = nodes.KSampler().sample(model, 3, STEPS, CFG, "euler", "normal", one, two, latent)
        custom = SamplerCustom.execute(model, True, 3, CFG, one, two, euler, sigmas, latent).args[0]
        noise, guider = RandomNoise.execute(3).args[0], make("cfg", model, None)
        advanced = SamplerCustomAdvanced.execute(noise, guider, euler, sigmas, latent).args[0]
        (plain,) = nodes.KSampler().sample(main, 3, STEPS, CFG, "euler", "normal", one, two, latent)
    assert torch.equal(basic["samples"], custom["samples"]) and torch.equal(basic["samples"], advanced["samples"])
    assert probe.far_apart(basic["samples"], plain["samples"]) > 0.01


def advanced(model, start, end, first, last):
    import nodes

    def part(latent, begin, stop, noise, leftover):
        with torch.inference_mode():
            return nodes.KSamplerAdvanced().sample(
                model, noise, 3, STEPS, CFG, "euler", "normal", SD15.conditioning(1), SD15.conditioning(2), latent,
                begin, stop, leftover,
            )[0]  # fmt: skip

    latent = part(SD15.latent(1, None), start, end, first, "enable" if last else "disable")
    return part(latent, end, 10000, "disable", "disable") if last else latent


@pytest.mark.many
@pytest.mark.parametrize("split", [1, 2, 3])
def test_two_halves_of_ksampler_advanced_are_one_whole(split, main, guide):
    for model in (main, spanned(main, guide)):
        whole = advanced(model, 0, 10000, "enable", False)["samples"]
        halves = advanced(model, 0, split, "enable", True)["samples"]
        assert probe.far_apart(halves, whole) < 1e-5  # latents leave and enter the model's scale in between
    assert probe.far_apart(whole, advanced(main, 0, 10000, "enable", False)["samples"]) > 0.01


def test_cfg_combine_makes_dual_model_guider_at_cfg_1_evaluate_the_negative_model(main, guide, second):
    model, calls = probe.recorded(probe.guided(main, guide, weight=WEIGHT, cfg=CFG, cfg_schedule=interval(CFG_SPAN)))
    setting = probe.setting_of(main, SD15, steps=STEPS)
    with count_forwards(second) as seconds:
        setting.run(make("dual model", model, second, cfg=1.0))
    acts = inside(main, CFG_SPAN)
    assert seconds.evaluations == sum(acts(call.level) for call in calls) > 0
    host = probe.replay(make("dual model", main, second), setting, calls, acts)
    bare = [probe.alone(model, SD15.conditioning(1), setting, calls) for model in (main, guide)]
    probe.assert_law(calls, host, *bare, lambda sigma: WEIGHT)


@pytest.mark.slow
def test_cfg_combine_with_its_own_weight_stands_for_the_samplers(main, guide, second):
    setting = probe.setting_of(main, SD15, steps=2)
    for kind in ("cfg", "perp neg", "dual model"):
        own = setting.run(make(kind, probe.guided(main, guide, cfg=CFG), second, cfg=7.0))
        assert torch.equal(own, setting.run(make(kind, probe.guided(main, guide, cfg=False), second, cfg=CFG)))


@pytest.mark.parametrize(
    "kind, words",
    [("basic", "CFG Combine .* needs a negative prompt, and BasicGuider takes none"),
     ("dual", "DualCFGGuider mixes two prompts.*weight_from = sampler"),
     ("dual nested", "DualCFGGuider mixes two prompts.*weight_from = sampler")],
)  # fmt: skip
def test_an_own_weight_of_cfg_is_refused_where_the_guider_has_no_place_for_it(kind, words, main, guide, second):
    with count_forwards(main) as ours, pytest.raises(ValueError, match=words):
        probe.setting_of(main, SD15).run(make(kind, probe.guided(main, guide, cfg=4.0), second))
    assert ours.forwards == 0


@pytest.mark.parametrize("kind", ["basic", "dual", "dual nested", "dual model", "perp neg"])
def test_apg_is_refused_where_there_is_no_one_difference_to_shape(kind, main, second):
    from guidance_pack.guidance.rules.apg import APG
    from guidance_pack.host.engine.install import with_rule

    with count_forwards(main) as ours, pytest.raises(ValueError, match="APG works on the difference.*KSampler"):
        probe.setting_of(main, SD15).run(make(kind, with_rule(main, APG()), second))
    assert ours.forwards == 0


@pytest.mark.many
@pytest.mark.parametrize("kind", COSTS)
def test_rescale_works_on_the_result_of_every_guider(kind, main, second):
    from guidance_pack.guidance.rules.rescale import Rescale
    from guidance_pack.host.engine.install import with_rule

    model, calls = probe.recorded(with_rule(main, Rescale(1.0)))
    setting = probe.setting_of(main, SD15, steps=2)
    setting.run(make(kind, model, second))
    host = probe.replay(make(kind, main, second), setting, calls)
    for call, own, bare in zip(calls, host, probe.alone(main, SD15.conditioning(1), setting, calls), strict=True):
        expected = own * bare.std(correction=0) / own.std(correction=0)
        assert probe.far_apart(call.denoised, expected) < probe.TOLERANCE
