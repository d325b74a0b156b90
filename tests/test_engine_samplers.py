"""With every sampler of the host: weights follow the noise level of each call, and only what is needed is evaluated."""

import math

import engine_probe as probe
import pytest
import torch
from host_models import MODELS, count_forwards

SD15 = MODELS["sd15"]
CFG, WEIGHT = 3.0, 2.0
CFG_SPAN = (8.0, 0.3)  # sigma
GUIDE_SPAN = (5.0, 0.1)
POINTS = ((14.0, 0.4), (2.0, 1.0), (0.2, 0.5))  # the guide's strength along log sigma
NAMES = [
    "euler", "euler_cfg_pp", "euler_ancestral", "euler_ancestral_cfg_pp", "heun", "heunpp2", "exp_heun_2_x0",
    "exp_heun_2_x0_sde", "dpm_2", "dpm_2_ancestral", "lms", "dpm_fast", "dpm_adaptive", "dpmpp_2s_ancestral",
    "dpmpp_2s_ancestral_cfg_pp", "dpmpp_sde", "dpmpp_sde_gpu", "dpmpp_2m", "dpmpp_2m_cfg_pp", "dpmpp_2m_sde",
    "dpmpp_2m_sde_gpu", "dpmpp_2m_sde_heun", "dpmpp_2m_sde_heun_gpu", "dpmpp_3m_sde", "dpmpp_3m_sde_gpu", "ddpm", "lcm",
    "ipndm", "ipndm_v", "deis", "res_multistep", "res_multistep_cfg_pp", "res_multistep_ancestral",
    "res_multistep_ancestral_cfg_pp", "gradient_estimation", "gradient_estimation_cfg_pp", "er_sde", "seeds_2",
    "seeds_3", "sa_solver", "sa_solver_pece", "ddim", "uni_pc", "uni_pc_bh2",
]  # fmt: skip


def scheduled(main, guide):
    from guidance_pack.guidance.schedule import Curve, Interval

    return probe.guided(
        main, guide, weight=WEIGHT, schedule=Curve(POINTS, "sigma") * Interval(*GUIDE_SPAN, "sigma"),
        cfg_schedule=Interval(*CFG_SPAN, "sigma"),
    )  # fmt: skip


def wanted(sigma: float) -> tuple[float, float]:
    """The weights of CFG and of autoguidance at a sigma, by hand."""
    cfg = CFG if CFG_SPAN[1] < sigma <= CFG_SPAN[0] else 1.0
    if not GUIDE_SPAN[1] < sigma <= GUIDE_SPAN[0]:
        return cfg, 1.0
    for (left, a), (right, b) in zip(POINTS, POINTS[1:], strict=False):
        if left >= sigma >= right:
            part = math.log(left / sigma) / math.log(left / right)
            return cfg, 1.0 + (WEIGHT - 1.0) * (a + (b - a) * part)
    return cfg, 1.0 + (WEIGHT - 1.0) * (POINTS[0] if sigma > POINTS[0][0] else POINTS[-1])[1]


def applied(call, positive, negative, guide) -> tuple[float, float]:
    """The weights that were really applied in a call: its result is a sum of the three bare predictions."""
    directions = torch.stack([(positive - negative).flatten(), (positive - guide).flatten()], 1).double()
    change = (call.denoised - positive).flatten().double()
    weights = torch.linalg.lstsq(directions, change[:, None]).solution
    left_over = (directions @ weights)[:, 0] - change
    assert left_over.norm() <= 1e-3 * directions.norm(), "the result is no sum of the three predictions"
    return tuple(1.0 + float(w) for w in weights[:, 0])


def sampled(model, name):
    import nodes

    with torch.inference_mode():
        (out,) = nodes.KSampler().sample(
            model, 3, 3, CFG, name, "normal", SD15.conditioning(1), SD15.conditioning(2), SD15.latent(1, None)
        )
    return out["samples"]


def test_the_list_is_the_hosts(comfy):
    import comfy.samplers

    missing = set(comfy.samplers.SAMPLER_NAMES) - set(NAMES)
    assert not missing, "the host has samplers that are not tested"


@pytest.mark.many
@pytest.mark.parametrize("name", NAMES)
def test_weights_follow_the_noise_level_of_every_call(name, main, guide):
    model, calls = probe.recorded(scheduled(main, guide))
    with count_forwards(main) as ours, count_forwards(guide) as guides:
        out = sampled(model, name)
    assert torch.isfinite(out).all() and len(calls) >= 3

    weights = [wanted(call.level) for call in calls]
    always_two = name.endswith("_cfg_pp")  # these samplers want the negative prediction at any cfg
    assert ours.evaluations == sum(2 if always_two or cfg != 1.0 else 1 for cfg, _ in weights)
    assert guides.forwards == guides.evaluations == sum(weight != 1.0 for _, weight in weights)

    setting = probe.setting_of(main, SD15)
    bare = [
        probe.alone(network, SD15.conditioning(prompt), setting, calls)
        for network, prompt in ((main, 1), (main, 2), (guide, 1))
    ]
    for call, expected, *predictions in zip(calls, weights, *bare, strict=True):
        assert applied(call, *predictions) == pytest.approx(expected, abs=2e-3), f"at sigma {call.level:g}"


@pytest.mark.many
@pytest.mark.parametrize("name", NAMES)
def test_off_is_bit_identical_with_every_sampler(name, main, guide):
    from guidance_pack.guidance.schedule import Interval

    plain = sampled(main, name)
    nowhere = probe.guided(main, guide, weight=3.0, schedule=Interval(1e4, 5e3, "sigma"))
    with count_forwards(guide) as guides:
        assert torch.equal(sampled(nowhere, name), plain)
    assert guides.forwards == 0


@pytest.mark.many
@pytest.mark.parametrize("name", ["dpm_2_ancestral", "dpmpp_sde", "dpmpp_2s_ancestral", "seeds_3"])
def test_samplers_with_inner_calls_meet_both_sides_of_an_edge(name, main, guide):
    """These call the model between the steps: their calls must be told apart by noise level, not by number."""
    model, calls = probe.recorded(scheduled(main, guide))
    sampled(model, name)
    levels = {call.level for call in calls}
    steps = {float(sigma) for sigma in probe.sigmas_of(main, 3)}
    assert len(calls) > 3 and levels - steps, "no call between the steps"
    assert {wanted(level)[0] for level in levels} == {1.0, CFG}
