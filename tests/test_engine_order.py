"""Runs in every order of noise levels: upwards, there and back, and by samplers that round their way through them.

A formula stands in for the network inside the host's own evaluation, so that a run takes milliseconds.
"""

import engine_probe as probe
import pytest
import torch
from host_models import MODELS

SD15 = MODELS["sd15"]
THROUGH_LOGARITHMS = ["dpm_2_ancestral", "dpmpp_2s_ancestral", "exp_heun_2_x0", "exp_heun_2_x0_sde"]
FALLING = (10.0, 4.0, 1.5, 0.5, 0.0)
ORDERS = {
    "upwards": (0.5, 1.5, 4.0, 10.0),
    "there and back": (0.5, 4.0, 10.0, 4.0, 0.5, 0.0),
    "restarts": (10.0, 4.0, 1.5, 4.0, 1.5, 0.0),
    "a level twice": (10.0, 4.0, 4.0, 1.5, 0.0),
}


def formula(model, size):
    """A clone of a MODEL that estimates a picture by a formula of input, noise and prompt."""

    def evaluate(apply_model, args):
        x, sigma = args["input"], args["timestep"].reshape(-1, 1, 1, 1)
        words = args["c"]["c_crossattn"].mean((1, 2)).reshape(-1, 1, 1, 1)
        return size * x / (1 + sigma**2) + torch.sin(x + size) + 10 * words

    out = model.clone()
    out.set_model_unet_function_wrapper(evaluate)
    return out


@pytest.fixture(scope="module")
def quick(main):
    return formula(main, 0.9)


@pytest.fixture(scope="module")
def weak(guide):
    return formula(guide, 0.5)


@pytest.fixture
def positions(comfy, monkeypatch):
    """The position of every evaluation of the guided denoiser."""
    from guidance_pack.host.engine.run import Run

    seen, move_to = [], Run.move_to

    def note(run, sigma):
        level = move_to(run, sigma)
        seen.append(run.position)
        return level

    monkeypatch.setattr(Run, "move_to", note)
    return seen


def reused(main, guide, reuse=2):
    from guidance_pack.guidance.rules.autoguidance import Autoguidance
    from guidance_pack.host.engine.install import with_autoguidance

    return with_autoguidance(main, guide, Autoguidance(2.0, reuse=reuse))


def run(model, sigmas, sampler="euler", cfg=1.0):
    setting = probe.setting_of(model, SD15, sampler=sampler)
    setting.sigmas = torch.tensor(sigmas) if isinstance(sigmas, tuple) else sigmas
    return setting.run(probe.cfg_guider(model, SD15.conditioning(1), SD15.conditioning(2), cfg))


@pytest.mark.parametrize("sampler", THROUGH_LOGARITHMS)
@pytest.mark.parametrize("scheduler", ["karras", "exponential"])
def test_rounding_makes_no_cache_miss_and_moves_no_position(quick, weak, positions, sampler, scheduler):
    sigmas = probe.sigmas_of(quick, 20, scheduler)
    assert torch.isfinite(run(reused(quick, weak), sigmas, sampler)).all()
    values, (model, calls) = sigmas.tolist(), probe.recorded(reused(quick, weak))
    positions.clear()
    run(model, sigmas, sampler)
    assert positions == [sum(value * 1.0001 >= call.level for value in values) for call in calls]


@pytest.mark.parametrize("name", ORDERS)
@pytest.mark.parametrize("sampler", ["euler", "heun"])
def test_the_law_holds_in_every_order(quick, weak, name, sampler):
    """With reuse, the push is the difference that was last evaluated, wherever the list goes."""
    model, calls = probe.recorded(reused(quick, weak))
    run(model, ORDERS[name], sampler)
    setting, words = probe.setting_of(quick, SD15), SD15.conditioning(1)
    own, bad = (probe.alone(network, words, setting, calls) for network in (quick, weak))
    pushes = [call.denoised - mine for call, mine in zip(calls, own, strict=True)]
    differences = [mine - weak for mine, weak in zip(own, bad, strict=True)]
    for index, push in enumerate(pushes):
        near = [probe.far_apart(push, difference) for difference in differences[: index + 1]]
        assert min(near) < 1e-4, f"the push of evaluation {index} is no difference of this run"
    fresh = [probe.far_apart(p, d) < 1e-4 for p, d in zip(pushes, differences, strict=True)]
    assert fresh[0] and not all(fresh)


def test_positions_count_the_steps_of_a_rising_list(quick, positions):
    from guidance_pack.guidance.rules.apg import APG
    from guidance_pack.host.engine.install import with_inspection, with_rule
    from guidance_pack.host.recording.inspection import Inspection

    seen = Inspection()
    model = with_inspection(with_rule(quick, APG(0.5, 0.0, -0.5)), seen)
    run(model, torch.linspace(0.2, 10.0, 9), cfg=3.0)
    assert positions == [1, 2, 3, 4, 5, 6, 7, 8]
    assert [evaluation.step for evaluation in seen.record(0).evaluations] == positions


def test_momentum_is_the_same_whatever_the_order(quick):
    """2410.02416 Algorithm 1 without projection and limit, by hand over the recorded evaluations."""
    from guidance_pack.guidance.rules.apg import APG
    from guidance_pack.host.engine.install import with_rule

    for sigmas in (FALLING, tuple(reversed(FALLING[:-1]))):
        model, calls = probe.recorded(with_rule(quick, APG(1.0, 0.0, -0.5)))
        run(model, sigmas, cfg=3.0)
        setting = probe.setting_of(quick, SD15)
        positive, negative = (probe.alone(quick, SD15.conditioning(i), setting, calls) for i in (1, 2))
        average = torch.zeros(())
        for call, good, bad in zip(calls, positive, negative, strict=True):
            average = good - bad - 0.5 * average
            assert probe.far_apart(call.denoised, good + 2.0 * average) < 1e-4


def test_the_report_follows_the_list_as_it_was_given(quick, weak):
    from guidance_pack.host.engine.install import with_inspection
    from guidance_pack.host.recording.inspection import Inspection
    from guidance_pack.host.report.report import report

    for sigmas in (FALLING, *ORDERS.values()):
        model = reused(quick, weak)
        told = report(model, torch.tensor(sigmas), 1.0).guide_evaluations
        inspection = Inspection()
        run(with_inspection(model, inspection), sigmas)
        assert list(told) == [evaluation.guides for evaluation in inspection.record(0).evaluations]
