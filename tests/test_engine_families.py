"""Over the families of the host: every rank of latent and every prediction type, alone, in batches and mixed."""

import engine_probe as probe
import pytest
import torch
from host_families import BUILT
from host_models import MODELS, count_forwards, tensors

CFG, WEIGHT = 3.0, 2.0
# Families whose network in the host gives a sample another result beside others (comfy/ldm/ace/ace_step15.py counts
# every reference as the first sample's). They run at batch 1 without CFG here; a test below says when this ends.
NOT_PER_SAMPLE = {"ace_step15"}


@pytest.fixture(scope="module", params=MODELS)
def spec(request, comfy):
    return MODELS[request.param]


@pytest.fixture(scope="module")
def pair(spec):
    return spec.build(0), spec.build(7)


def late_cfg():
    from guidance_pack.guidance.schedule import Interval

    return Interval(0.5, 1.0)


def guider_of(model, spec):
    cfg = 1.0 if spec.name in NOT_PER_SAMPLE else CFG
    return probe.cfg_guider(model, spec.conditioning(1), spec.conditioning(2), cfg)


@pytest.mark.many
def test_a_step_is_the_hosts_own_plus_the_guides_term(spec, pair):
    main, guide = pair
    edge = float(main.get_model_object("model_sampling").percent_to_sigma(0.5))
    model, calls = probe.recorded(probe.guided(main, guide, weight=WEIGHT, cfg_schedule=late_cfg()))
    setting = probe.setting_of(main, spec, steps=3, latent_seed=3)
    with count_forwards(main) as ours, count_forwards(guide) as guides:
        out = setting.run(guider_of(model, spec))
    assert all(torch.isfinite(t).all() for t in tensors(out))

    def acts(sigma):
        return float(sigma <= edge)

    inside = sum(acts(call.level) for call in calls)
    assert 0 < inside < len(calls) == 3
    inside *= spec.name not in NOT_PER_SAMPLE
    assert (ours.evaluations, guides.evaluations) == (3 + inside, 3)
    host = probe.replay(guider_of(main, spec), setting, calls, acts)
    bare = [probe.alone(network, spec.conditioning(1), setting, calls) for network in pair]
    probe.assert_law(calls, host, *bare, lambda sigma: WEIGHT)


@pytest.mark.many
def test_off_is_bit_identical(spec, pair):
    main, guide = pair
    setting = probe.setting_of(main, spec, steps=2)
    with count_forwards(main) as plain:
        expected = setting.run(guider_of(main, spec))
    with count_forwards(main) as ours, count_forwards(guide) as guides:
        got = setting.run(guider_of(probe.guided(main, guide, weight=1.0), spec))
    assert all(torch.equal(a, b) for a, b in zip(tensors(got), tensors(expected), strict=True))
    assert (ours.forwards, ours.rows, guides.forwards) == (plain.forwards, plain.rows, 0)


def test_families_that_mix_samples_are_named(spec, pair):
    """The plain host, without this pack: a sample's estimate beside two others against the same sample alone."""
    main, _ = pair
    whole = probe.setting_of(main, spec, steps=1, batch=3, latent_seed=3)
    together = tensors(whole.run(guider_of(main, spec)))
    part = probe.Setting(whole.sigmas, picked(whole.latent, 1), picked(whole.noise, 1))
    pairs = zip(tensors(part.run(guider_of(main, spec))), together, strict=True)
    apart = max(probe.far_apart(single, batch[1:2]) for single, batch in pairs)
    assert (apart > 1e-3) == (spec.name in NOT_PER_SAMPLE)


@pytest.mark.many
@pytest.mark.parametrize("spec", sorted(MODELS.keys() - NOT_PER_SAMPLE), indirect=True)
def test_a_batch_of_3_is_three_batches_of_1(spec, pair):
    from guidance_pack.guidance.rules.apg import APG
    from guidance_pack.guidance.rules.rescale import Rescale
    from guidance_pack.host.engine.install import with_rule

    main, guide = pair
    model = with_rule(with_rule(probe.guided(main, guide, weight=WEIGHT), APG(norm_threshold=2.0)), Rescale(0.7))
    whole = probe.setting_of(main, spec, steps=2, batch=3, latent_seed=3)
    together = tensors(whole.run(guider_of(model, spec)))
    for index in range(3):
        part = probe.Setting(whole.sigmas, picked(whole.latent, index), picked(whole.noise, index))
        for single, batch in zip(tensors(part.run(guider_of(model, spec))), together, strict=True):
            assert probe.far_apart(single, batch[index : index + 1]) < 1e-3  # sigma 4500 leaves no more digits
    assert probe.far_apart(together[0][:1], together[0][1:2]) > 0.05


def picked(samples, index):
    import comfy.nested_tensor

    parts = [t[index : index + 1] for t in tensors(samples)]
    return comfy.nested_tensor.NestedTensor(parts) if samples.is_nested else parts[0]


# Mixed families: one latent space, other prediction types. Written out by hand from papers.md's law of equal SNR.

SD15 = MODELS["sd15"]
FAMILIES = ("eps", "v", "zsnr v", "edm", "flow")


def as_family(family, seed):
    """An independent SD1.5 network that is sampled as one of the families, by the host's own nodes."""
    from comfy_extras.nodes_model_advanced import (
        ModelSamplingContinuousEDM,
        ModelSamplingDiscrete,
        ModelSamplingSD3,
    )

    model = SD15.build(seed)
    patches = {
        "eps": lambda: (model,),
        "v": lambda: ModelSamplingDiscrete().patch(model, "v_prediction", False),
        "zsnr v": lambda: ModelSamplingDiscrete().patch(model, "v_prediction", True),
        "edm": lambda: ModelSamplingContinuousEDM().patch(model, "edm", 80.0, 0.002),
        "flow": lambda: ModelSamplingSD3().patch(model, 3.0),
    }
    return patches[family]()[0]


@pytest.fixture(scope="module")
def mains(comfy):
    return {family: as_family(family, 0) for family in FAMILIES}


@pytest.fixture(scope="module")
def guides(comfy):
    return {family: as_family(family, 7) for family in FAMILIES}


def carried(call, source, target):
    """x and sigma of a call in the other family's coordinates, by hand: VE x = x0 + s n, flow x = (1 - t) x0 + t n."""
    if (source == "flow") == (target == "flow"):
        return call
    if source == "flow":
        signal = (1.0 - call.sigma.double()).clamp(min=1e-4)
        x, sigma = call.x.double() / signal.view(-1, 1, 1, 1), call.sigma / signal
    else:
        sigma = call.sigma.double() / (1.0 + call.sigma.double())
        x = call.x.double() * (1.0 - sigma).view(-1, 1, 1, 1)
    return probe.Call(x.float(), sigma.float(), call.denoised)


@pytest.mark.many
@pytest.mark.parametrize("target", FAMILIES)
@pytest.mark.parametrize("source", FAMILIES)
def test_a_guide_of_another_family_sees_the_same_noise(source, target, mains, guides):
    main, guide = mains[source], guides[target]
    model, calls = probe.recorded(probe.guided(main, guide, weight=WEIGHT))
    setting = probe.setting_of(main, SD15, steps=3)
    setting.run(guider_of(model, SD15))
    host = probe.replay(guider_of(main, SD15), setting, calls)
    bare = probe.alone(main, SD15.conditioning(1), setting, calls)
    moved = [carried(call, source, target) for call in calls]
    guided = probe.alone(guide, SD15.conditioning(1), probe.setting_of(guide, SD15, steps=3), moved)
    probe.assert_law(calls, host, bare, guided, lambda sigma: WEIGHT, tolerance=1e-4)


@pytest.mark.parametrize("name", ["x0", "img_to_img"])
def test_prediction_types_that_cannot_be_carried_over_are_refused_in_words(name, mains):
    from comfy_extras.nodes_model_advanced import ModelSamplingDiscrete

    (guide,) = ModelSamplingDiscrete().patch(SD15.build(7), name, False)
    if name == "x0":  # sees the same x as eps: it is carried over
        probe.guided(mains["flow"], guide)
        return
    for main in (mains["eps"], mains["flow"]):
        with pytest.raises(ValueError, match="no conversion.*same prediction family"):
            probe.guided(main, guide)


# Guides that do not fit are refused before anything is sampled.


@pytest.mark.parametrize("other", ["sdxl", "sd3", "wan", "stable_audio"])
def test_another_latent_space_is_refused_in_words(other, mains):
    with pytest.raises(ValueError, match="do not share a latent space.*SD15.*channels.*same VAE"):
        probe.guided(mains["eps"], MODELS[other].build(1))


def test_a_network_that_mixes_a_batch_up_is_refused_before_its_guide_is_asked(comfy):
    """Beside both prompts the same network is right: a guide is asked for one."""
    spec = BUILT["hunyuan3d_21"]
    main, guide = spec.build(0), spec.build(7)
    model = probe.guided(main, guide, weight=2.0)
    probe.setting_of(main, spec, steps=1).run(guider_of(model, spec))
    with pytest.raises(ValueError, match="mixes the shapes of a batch up.*batch_size = 1 instead of 2"):
        probe.setting_of(main, spec, steps=1, batch=2).run(guider_of(model, spec))


def test_the_latent_format_that_a_node_patched_in_counts(comfy):
    from comfy_extras.nodes_model_advanced import ModelSamplingContinuousEDM

    spec = MODELS["sdxl"]
    (playground,) = ModelSamplingContinuousEDM().patch(spec.build(0), "edm_playground_v2.5", 80.0, 0.002)
    with pytest.raises(ValueError, match="do not share a latent space.*Playground"):
        probe.guided(playground, spec.build(7))
    (other,) = ModelSamplingContinuousEDM().patch(spec.build(7), "edm_playground_v2.5", 80.0, 0.002)
    probe.guided(playground, other)


def test_another_text_width_is_refused_before_sampling_unless_the_guide_has_its_own_prompt(mains):
    other = MODELS["sd20_v"]
    main, guide = mains["eps"], other.build(7)
    setting = probe.setting_of(main, SD15, steps=2)
    with count_forwards(main) as ours, pytest.raises(ValueError, match="width 1024.*width 768.*Connect guide_positive"):
        setting.run(guider_of(probe.guided(main, guide), SD15))
    assert ours.forwards == 0

    own = probe.guided(main, guide, weight=WEIGHT, positive=other.conditioning(4))
    model, calls = probe.recorded(own)
    setting.run(guider_of(model, SD15))
    host = probe.replay(guider_of(main, SD15), setting, calls)
    bare = probe.alone(main, SD15.conditioning(1), setting, calls)
    probe.assert_law(calls, host, bare, probe.alone(guide, other.conditioning(4), setting, calls), lambda sigma: WEIGHT)
