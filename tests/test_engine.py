"""The engine on the real host: off is exact, the guide is itself, and only the needed evaluations are made."""

import comfy_calls
import pytest
import torch
from host_models import MODELS, count_forwards, sample, tensors

SD15 = MODELS["sd15"]
STEPS = 4


def run(model, cfg=4.0, batch=1, **more):
    (out,) = tensors(
        sample(model, SD15.conditioning(1), SD15.conditioning(2), SD15.latent(batch), steps=STEPS, cfg=cfg, **more)
    )
    return out


def rules():
    from guidance_pack.guidance.rules import apg, autoguidance, cfg, rescale

    return cfg.CFG, autoguidance.Autoguidance, apg.APG, rescale.Rescale


def interval(start, end):
    from guidance_pack.guidance.schedule import Interval

    return Interval(start, end)


@pytest.fixture(scope="module")
def off(install, main, guide):
    """Every component at its neutral setting, each on a clone of the same MODEL."""
    CFG, Autoguidance, APG, Rescale = rules()
    nowhere = interval(0.5, 0.5)
    return {
        "autoguidance 1": install.with_autoguidance(main, guide, Autoguidance(1.0)),
        "autoguidance nowhere": install.with_autoguidance(main, guide, Autoguidance(3.0, nowhere)),
        "sampler's cfg": install.with_rule(main, CFG(None)),
        "own cfg 4": install.with_rule(main, CFG(4.0)),
        "apg off": install.with_rule(main, APG(1.0, 0.0, 0.0)),
        "apg nowhere": install.with_rule(main, APG(schedule=nowhere)),
        "rescale 0": install.with_rule(main, Rescale(0.0)),
        "all of them": install.with_rule(
            install.with_rule(install.with_autoguidance(main, guide, Autoguidance(1.0)), APG(1.0, 0.0, 0.0)),
            Rescale(0.0),
        ),
    }


NAMES = ["autoguidance 1", "autoguidance nowhere", "sampler's cfg", "own cfg 4", "apg off", "apg nowhere", "rescale 0",
         "all of them"]


@pytest.mark.many
@pytest.mark.parametrize("sampler", ["euler", "heun", "dpmpp_2m_sde", "euler_ancestral_cfg_pp"])
@pytest.mark.parametrize("name", NAMES)
def test_off_is_bit_identical_and_costs_nothing(main, guide, off, name, sampler):
    with count_forwards(main) as plain:
        expected = run(main, sampler=sampler)
    with count_forwards(main) as count, count_forwards(guide) as guide_count:
        got = run(off[name], sampler=sampler)
    assert torch.equal(got, expected)
    assert (count.forwards, count.evaluations) == (plain.forwards, plain.evaluations)
    assert guide_count.forwards == 0


@pytest.mark.slow
def test_a_plain_run_after_guided_runs_is_exact(install, main, guide):
    CFG, Autoguidance, APG, Rescale = rules()
    before = run(main)
    shaped = install.with_rule(install.with_autoguidance(main, guide, Autoguidance(2.5)), APG())
    model = install.with_rule(shaped, Rescale())
    assert not torch.equal(run(model), before)
    assert torch.equal(run(main), before)
    assert main.model.current_patcher is None and guide.model.current_patcher is None


@pytest.mark.many
@pytest.mark.parametrize(
    ("build", "cfg", "expected"),
    [
        ("plain", 4.0, (8, 0)),
        ("plain", 1.0, (4, 0)),
        ("autoguidance", 1.0, (4, 4)),
        ("autoguidance", 4.0, (8, 4)),
        ("both", 1.0, (8, 4)),
        ("mix all cfg", 1.0, (8, 0)),
        ("cfg 1", 4.0, (4, 0)),
        ("cfg half", 4.0, (6, 0)),
        ("autoguidance half", 1.0, (4, 2)),
        ("cfg half, autoguidance other half", 4.0, (6, 2)),
        ("apg", 4.0, (8, 0)),
        ("apg", 1.0, (4, 0)),
        ("rescale", 4.0, (8, 0)),
        ("twice the same guide", 1.0, (4, 4)),
    ],
)
def test_evaluations(install, main, guide, build, cfg, expected):
    """(main, guide) evaluations over 4 steps at percent 0, .25, .5, .75, counted at the networks' forward."""
    CFG, Autoguidance, APG, Rescale = rules()
    first, second = interval(0.0, 0.45), interval(0.45, 1.0)

    def auto(model, weight=2.0, **more):
        return install.with_autoguidance(model, guide, Autoguidance(weight, **more))

    model = {
        "plain": lambda: main,
        "autoguidance": lambda: auto(main),
        "both": lambda: auto(install.with_rule(main, CFG(3.0))),
        "mix all cfg": lambda: auto(install.with_rule(main, CFG(3.0)), 1.0),
        "cfg 1": lambda: install.with_rule(main, CFG(1.0)),
        "cfg half": lambda: install.with_rule(main, CFG(None, first)),
        "autoguidance half": lambda: auto(main, schedule=second),
        "cfg half, autoguidance other half": lambda: auto(install.with_rule(main, CFG(None, first)), schedule=second),
        "apg": lambda: install.with_rule(main, APG()),
        "rescale": lambda: install.with_rule(main, Rescale()),
        "twice the same guide": lambda: auto(auto(main)),
    }[build]()
    with count_forwards(main) as count, count_forwards(guide) as guide_count:
        run(model, cfg, scheduler="sgm_uniform")
    assert (count.evaluations, guide_count.evaluations) == expected


@pytest.mark.slow
def test_the_guides_prediction_is_the_checkpoint_evaluated_alone(install, main, guide):
    """Maximum difference 0 between the guide inside KSampler and the same MODEL sampled by itself on the same x."""
    _, Autoguidance, _, _ = rules()
    seen = recorded(install.with_autoguidance(main, guide, Autoguidance(2.0)), guide)
    assert len(seen) == STEPS
    for x, sigma, prediction in seen:
        assert torch.equal(alone(guide, x, sigma), prediction)


@pytest.mark.slow
def test_autoguidance_is_the_closed_form_in_every_step(install, main, guide):
    """D' = D_main + (w - 1)(D_main - D_guide), from predictions made apart from the engine."""
    _, Autoguidance, _, _ = rules()
    steps = outputs(install.with_autoguidance(main, guide, Autoguidance(2.5)), cfg=1.0)
    for x, sigma, denoised in steps:
        d_main, d_guide = alone(main, x, sigma), alone(guide, x, sigma)
        expected = d_main + 1.5 * (d_main - d_guide)
        torch.testing.assert_close(denoised, expected, rtol=1e-5, atol=1e-5)
        assert (d_main - d_guide).abs().max() > 0.01


@pytest.mark.slow
def test_apg_without_shaping_equals_cfg_and_with_it_the_formula(install, main):
    CFG, _, APG, _ = rules()
    for x, sigma, denoised in outputs(install.with_rule(main, APG(0.0, 0.0, 0.0)), cfg=3.0):
        positive, negative = alone(main, x, sigma), alone(main, x, sigma, SD15.conditioning(2))
        delta, flat = positive - negative, positive.flatten()
        orthogonal = delta - positive * ((delta.flatten() @ flat) / (flat @ flat))
        torch.testing.assert_close(denoised, positive + 2.0 * orthogonal, rtol=1e-4, atol=1e-4)


@pytest.mark.slow
def test_rescale_is_the_formula(install, main):
    _, _, _, Rescale = rules()
    for x, sigma, denoised in outputs(install.with_rule(main, Rescale(0.6)), cfg=3.0):
        positive, negative = alone(main, x, sigma), alone(main, x, sigma, SD15.conditioning(2))
        combined = negative + 3.0 * (positive - negative)
        ratio = positive.std(unbiased=False) / combined.std(unbiased=False)
        torch.testing.assert_close(denoised, 0.6 * combined * ratio + 0.4 * combined, rtol=1e-4, atol=1e-4)


@pytest.mark.slow
def test_a_guide_may_have_its_own_prompt(install, main, guide):
    _, Autoguidance, _, _ = rules()
    model = install.with_autoguidance(main, guide, Autoguidance(2.0), SD15.conditioning(9))
    for x, sigma, prediction in recorded(model, guide):
        assert torch.equal(alone(guide, x, sigma, SD15.conditioning(9)), prediction)


def test_momentum_moves_on_once_per_noise_level(install, main):
    """Heun evaluates inner levels twice; APG's momentum must see each of them as one position."""
    from guidance_pack.host.engine import wrappers as engine

    _, _, APG, _ = rules()
    model = install.with_rule(main, APG(1.0, 0.0, -0.5))
    positions = []
    original = engine.Run.move_to
    try:
        engine.Run.move_to = lambda self, sigma: (original(self, sigma), positions.append(self.position))[0]
        run(model, sampler="heun")
    finally:
        engine.Run.move_to = original
    assert positions == [1, 2, 2, 3, 3, 4, 4]


@pytest.mark.parametrize("nearly", [1.0 + 2**-52, 1.0 + 1e-10, 1.0 - 1e-10])
def test_a_weight_of_one_up_to_rounding_is_off_as_it_is_for_the_host(install, main, guide, nearly):
    from guidance_pack.guidance.schedule import Constant
    from guidance_pack.host.report.report import report, sigmas_of

    CFG, Autoguidance, APG, Rescale = rules()
    apg = APG(0.0, 1.0, -0.5)
    plain = run(main, cfg=1.0)
    models = {
        "the sampler's": install.with_rule(install.with_rule(main, apg), Rescale(0.0)),
        "its own": install.with_rule(install.with_rule(main, CFG(nearly)), apg),
        "a schedule's": install.with_rule(install.with_rule(main, CFG(5.0, Constant((nearly - 1) / 4))), apg),
        "autoguidance": install.with_autoguidance(install.with_rule(main, apg), guide, Autoguidance(nearly)),
    }
    for name, model in models.items():
        with count_forwards(main) as count, count_forwards(guide) as guides:
            out = run(model, cfg=nearly)
        assert (count.evaluations, guides.evaluations) == (STEPS, 0), name
        assert torch.equal(out, plain), name
        told = report(model, sigmas_of(model, "normal", STEPS), nearly)
        assert (sum(told.main_evaluations), sum(told.guide_evaluations)) == (STEPS, 0), name


def test_a_node_loads_no_guide_for_a_weight_of_one_up_to_rounding(comfy, main):
    from guidance_pack.nodes.weak_model import GuidanceAutoguidance, GuidanceMix

    assert GuidanceAutoguidance.check_lazy_status(weight=1.0 + 2**-52) == []
    assert GuidanceMix.check_lazy_status(total=1.0 + 1e-10, mix=0.5) == []
    (out,) = GuidanceAutoguidance.execute(main, 1.0 - 1e-10, 1, "percent", 0.0, 1.0).args
    assert out is main


def alone(model, x, sigma, conditioning=None):
    """The MODEL's denoised estimate of x at sigma, through a guider of its own."""
    return comfy_calls.denoised(model, SD15, x, sigma, conditioning)


def outputs(model, **more):
    """(x, sigma, guided denoised) of every call of the guided denoiser in a run."""
    from comfy.patcher_extension import WrappersMP

    seen = []

    def note(executor, x, timestep, *rest):
        out = executor(x, timestep, *rest)
        seen.append((x.clone(), timestep.clone(), out.clone()))
        return out

    watched = model.clone()
    watched.wrappers[WrappersMP.PREDICT_NOISE] = {"watch": [note], **watched.wrappers[WrappersMP.PREDICT_NOISE]}
    run(watched, **more)
    return seen


def recorded(model, guide):
    """(x, sigma, prediction) of every evaluation of the guide's network in a run."""
    seen = []
    original = type(guide.model).apply_model

    def note(self, x, t, *args, **kwargs):
        out = original(self, x, t, *args, **kwargs)
        if self is guide.model:
            seen.append((x.clone(), t.clone(), out.clone()))
        return out

    type(guide.model).apply_model = note
    try:
        run(model, cfg=1.0)
    finally:
        type(guide.model).apply_model = original
    return seen
