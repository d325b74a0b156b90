"""Runs with gradients: off is exact and free, samples stay apart, other guidance goes on."""

import comfy_calls
import pytest
import steering
import torch
from engine_probe import cfg_guider, far_apart, noise_like, setting_of, sigmas_of
from host_models import MODELS, count_forwards, sample, tensors
from test_engine_gradients import steer
from test_engine_guiders import COSTS, make

SD15, RADIANCE = MODELS["sd15"], MODELS["chroma_radiance"]
PLACES = {
    "denoised": {"at": "denoised", "decoder": "linear rgb"},
    "through": {"at": "through denoiser", "decoder": "linear rgb"},
    "vae": {"at": "denoised"},
}
main, guide, vae = steering.main, steering.guide, steering.vae


def run(model, spec=SD15, cfg=4.0, batch=1, seed=0, **more):
    latent = spec.latent(batch)
    (out,) = tensors(sample(model, spec.conditioning(1), spec.conditioning(2), latent, steps=3, cfg=cfg, **more))
    return out


def counted(network):
    """How often a guide's network was called, and a handle that stops counting."""
    calls = []
    return calls, network.register_forward_pre_hook(lambda _, args: calls.append(len(args[0])))


def place(name, vae):
    return {**PLACES[name], "vae": vae} if name == "vae" else PLACES[name]


@pytest.mark.parametrize("name", PLACES)
def test_outside_its_interval_it_is_bit_identical_and_free(main, guide, vae, name):
    from guidance_pack.guidance.schedule import Interval

    nowhere = steer(main, guide, schedule=Interval(0.5, 0.5), **place(name, vae))
    with count_forwards(main) as plain:
        expected = run(main)
    calls, handle = counted(guide.patchers[0].model)
    with count_forwards(main) as count:
        got = run(nowhere)
    handle.remove()
    assert torch.equal(got, expected) and not calls
    assert (count.forwards, count.evaluations) == (plain.forwards, plain.evaluations)


@pytest.mark.slow
def test_the_guide_is_evaluated_once_per_step_and_the_denoiser_no_more_than_before(main, guide, vae):
    for name, extra in (("denoised", 0), ("vae", 0), ("through", 3)):
        model = steer(main, guide, **place(name, vae))
        calls, handle = counted(guide.patchers[0].model)
        with count_forwards(main) as count:
            run(model)
        handle.remove()
        assert calls == [1, 1, 1]
        assert count.evaluations == 6 + extra


@pytest.mark.slow
@pytest.mark.parametrize("name", [*PLACES, "noisy"])
def test_a_batch_of_three_is_three_batches_of_one(main, guide, vae, name):
    spec, settings = (RADIANCE, {"at": "noisy input"}) if name == "noisy" else (SD15, place(name, vae))
    base = main if spec is SD15 else steering.as_nodes_do(RADIANCE.build, 0)
    settings = {**settings, "scale": 20.0}  # a chaotic random network makes much of rounding at larger ones
    steered = steer(base, guide, "cat, dog, bird", **settings)
    alone = {label: steer(base, guide, label, **settings) for label in ("cat", "dog", "bird")}
    noise, latent = noise_like((3, *spec.latents[0])), torch.zeros(3, *spec.latents[0])
    setting = setting_of(base, spec, batch=3)
    setting.noise, setting.latent = noise, latent
    together = setting.run(cfg_guider(steered, spec.conditioning(1), spec.conditioning(2), 1.0))
    for row, model in enumerate(alone.values()):
        setting.noise, setting.latent = noise[row : row + 1], latent[row : row + 1]
        one = setting.run(cfg_guider(model, spec.conditioning(1), spec.conditioning(2), 1.0))
        assert far_apart(together[row : row + 1], one) < 1e-4


def test_samples_at_different_noise_levels_are_separate(comfy):
    """Experts too: each sample is judged by the one in charge of its level."""
    model = steering.as_nodes_do(RADIANCE.build, 0)
    experts = steering.team((3, 4), (1.0,), sees="timestep")
    steered = steer(model, experts, at="noisy input")
    sigma = torch.tensor([0.8, 0.2])
    x = noise_like((2, 3, 32, 32))
    together = comfy_calls.denoised(steered, RADIANCE, x, sigma)
    plain = comfy_calls.denoised(model, RADIANCE, x, sigma)
    for row, seed in enumerate((4, 3)):
        one = steer(model, steering.loaded(seed, sees="timestep"), at="noisy input")
        alone = comfy_calls.denoised(one, RADIANCE, x[row : row + 1], sigma[row : row + 1])
        assert far_apart(together[row : row + 1], alone) < 1e-5
        assert far_apart(together[row : row + 1], plain[row : row + 1]) > 1e-3


def test_only_the_expert_in_charge_is_evaluated(comfy):
    model = steering.as_nodes_do(RADIANCE.build, 0)
    experts = steering.team((3, 4), (2.0,), sees="noisy")
    seen = [counted(patcher.model) for patcher in experts.patchers]
    run(steer(model, experts, at="noisy input"), RADIANCE, cfg=1.0, scheduler="simple")
    levels = [s / (1 - s) for s in sigmas_of(model, 3, "simple")[:-1].tolist() if s < 1.0]
    for _, handle in seen:
        handle.remove()
    clean = sum(level < 2.0 for level in levels)
    assert clean and clean < len(levels), "both experts should have had a turn"
    assert [len(calls) for calls, _ in seen] == [clean, len(levels) - clean]


@pytest.mark.parametrize("order", ["gradient first", "gradient last"])
def test_it_adds_to_cfg_and_autoguidance(main, guide, order):
    """The displacement of each term is the same alone and together."""
    from guidance_pack.guidance.rules.autoguidance import Autoguidance
    from guidance_pack.guidance.rules.cfg import CFG
    from guidance_pack.host.engine.install import with_autoguidance, with_rule

    weak = SD15.build(7)

    def others(model):
        return with_rule(with_autoguidance(model, weak, Autoguidance(2.0)), CFG(3.0))

    settings = PLACES["denoised"]
    last = order == "gradient last"
    both = steer(others(main), guide, **settings) if last else others(steer(main, guide, **settings))
    x, sigma = noise_like((1, 4, 8, 8)) * 3, torch.tensor([3.0])
    plain, a, b, ab = (
        comfy_calls.denoised(m, SD15, x, sigma) for m in (main, others(main), steer(main, guide, **settings), both)
    )
    assert far_apart(a, plain) > 1e-2 and far_apart(b, plain) > 1e-2
    assert far_apart(ab - plain, (a - plain) + (b - plain)) < 1e-4


def test_two_gradients_on_one_model_share_a_network_and_add(main, guide):
    settings = PLACES["denoised"]
    one = steer(main, guide, "dog", **settings)
    two = steer(one, guide, "cat", **settings)
    keys = [key for key in two.additional_models if key.startswith("guidance-components/")]
    assert len(keys) == 1
    x, sigma = noise_like((1, 4, 8, 8)) * 3, torch.tensor([3.0])
    plain, dog, cat, both = (
        comfy_calls.denoised(m, SD15, x, sigma) for m in (main, one, steer(main, guide, "cat", **settings), two)
    )
    assert far_apart(both - plain, (dog - plain) + (cat - plain)) < 1e-4


def test_inpainting_keeps_what_is_masked(main, guide):
    model = steer(main, guide, **PLACES["denoised"])
    setting = setting_of(main, SD15, latent_seed=4)
    setting.mask = torch.zeros(1, 1, 8, 8)
    setting.mask[..., 4:] = 1.0
    out = setting.run(cfg_guider(model, SD15.conditioning(1), SD15.conditioning(2), 1.0))
    torch.testing.assert_close(out[..., :4].cpu(), setting.latent[..., :4], rtol=0, atol=1e-4)
    plain = setting.run(cfg_guider(main, SD15.conditioning(1), SD15.conditioning(2), 1.0))
    assert far_apart(out[..., 4:], plain[..., 4:]) > 1e-3


SAMPLERS = ["euler", "euler_ancestral", "heun", "dpmpp_2m", "dpmpp_sde", "ddim", "uni_pc", "ddpm", "lcm"]


@pytest.mark.many
@pytest.mark.parametrize("sampler", SAMPLERS)
def test_samplers_finish_and_repeat(main, guide, sampler):
    model = steer(main, guide, **PLACES["denoised"])
    first = run(model, sampler=sampler)
    assert torch.equal(first, run(model, sampler=sampler))
    assert bool(torch.isfinite(first).all()) and far_apart(first, run(main, sampler=sampler)) > 1e-4


def test_mean_shift_is_weaker_by_its_factor(main, guide):
    from guidance_pack.guidance.noise_level import NoiseLevel, mean_shift

    settings, sigmas = PLACES["denoised"], torch.tensor([3.0, 2.0, 0.0])
    found = {}
    for form in ("score shift", "mean shift"):
        from engine_probe import recorded

        probe, calls = recorded(steer(main, guide, mean_shift=form == "mean shift", **settings))
        setting = setting_of(main, SD15)
        setting.sigmas = sigmas
        setting.run(cfg_guider(probe, SD15.conditioning(1), SD15.conditioning(2), 1.0))
        own = comfy_calls.denoised(main, SD15, calls[0].x, calls[0].sigma)
        found[form] = calls[0].denoised - own
    level = [NoiseLevel.variance_exploding(s.reshape(1)) for s in sigmas]
    factor = float(mean_shift(level[0], level[1]))
    assert factor == pytest.approx((4 / 5) / (9 / 10) * (1 / 10 / (1 / 5)) ** 0.5)
    assert far_apart(found["mean shift"], factor * found["score shift"]) < 1e-4


@pytest.mark.parametrize("kind", sorted(COSTS))
def test_under_every_guider_the_push_is_the_same(main, guide, kind):
    """The guide looks at the estimate for the positive prompt, whatever else a guider combines."""
    second = SD15.build(9)
    x, sigma = noise_like((1, 4, 8, 8)) * 3, torch.tensor([3.0])
    steered = steer(main, guide, **PLACES["denoised"])
    expected = comfy_calls.denoised(steered, SD15, x, sigma) - comfy_calls.denoised(main, SD15, x, sigma)
    found = [once(make(kind, model, second), x, sigma) for model in (steered, main)]
    assert far_apart(found[0] - found[1], expected) < 1e-3


def once(guider, x, sigma):
    """One evaluation of a guider at x."""
    import comfy.samplers

    found = []

    def look(model, noise, sigmas, extra_args, **others):
        found.append(model(x, sigma, **extra_args))
        return noise

    with torch.inference_mode():
        guider.sample(
            torch.zeros_like(x), torch.zeros_like(x), comfy.samplers.KSAMPLER(look), torch.tensor([3.0, 0.0]), seed=0
        )
    return found[0]
