"""Adaptive Weight on the real host: what KSampler evaluates and gives, alone and in a batch, and what is refused."""

import pytest
import torch
from engine_probe import cfg_guider, far_apart, recorded, setting_of
from host_families import BUILT
from host_models import MODELS, count_forwards, sample, tensors

SD15 = MODELS["sd15"]
STEPS, STOP, AGREEMENT = 6, "stop when alike", 0.98
ALWAYS = ("percent", 0.0, 1.0)


def adapted(model, method=STOP, similarity=0.99, max_weight=10.0, *where, t1=0.4, reuse=1, **more):
    from guidance_pack.nodes.adaptive_weight import GuidanceAdaptiveWeight

    (out,) = GuidanceAdaptiveWeight.execute(
        model, method, similarity, max_weight, *(where or ALWAYS), 0.95, 0.5, t1, reuse, **more
    ).args
    return out


def drawn(model, spec=SD15, batch=1, cfg=5.0, **more):
    given = spec.conditioning(1), spec.conditioning(2), spec.latent(batch)
    (out,) = tensors(sample(model, *given, steps=STEPS, cfg=cfg, scheduler=spec.scheduler, **more))
    return out


@pytest.fixture(scope="module")
def main(comfy):
    return SD15.build(0)


def test_once_alike_the_negative_is_no_longer_evaluated(main):
    """The pictures of both prompts are alike from the second step on, and looked at from the third (sigma 5) on."""
    with count_forwards(main) as plain:
        whole = drawn(main)
    with count_forwards(main) as count:
        stopped = drawn(adapted(main, similarity=AGREEMENT))
    assert plain.evaluations == 2 * STEPS and count.evaluations == 2 * 3 + 3
    watched, calls = recorded(main)
    drawn(watched)
    from guidance_pack.guidance.rules.cfg import CFG
    from guidance_pack.guidance.schedule import Interval
    from guidance_pack.host.engine.install import with_rule

    until = with_rule(main, CFG(None, Interval(1e4, (calls[2].level + calls[3].level) / 2, "sigma")))
    assert torch.equal(stopped, drawn(until)) and not torch.equal(stopped, whole)


@pytest.mark.parametrize("sampler", ["euler", "heun"])
def test_off_and_outside_its_interval_it_is_free_and_exact(main, sampler):
    with count_forwards(main) as plain:
        expected = drawn(main, sampler=sampler)
    for model in (adapted(main, similarity=1.0), adapted(main, STOP, 0.0, 10.0, "percent", 0.5, 0.5)):
        with count_forwards(main) as count:
            assert torch.equal(drawn(model, sampler=sampler), expected)
        assert count.evaluations == plain.evaluations
    weak = SD15.build(3)
    model = adapted(main, "feedback", max_weight=1.0, guide_model=weak)
    with count_forwards(weak) as guide:
        assert torch.equal(drawn(model, sampler=sampler), expected)
    assert guide.forwards == 0


def test_feedback_at_most_1_is_no_cfg(main):
    with count_forwards(main) as count:
        out = drawn(adapted(main, "feedback", max_weight=1.0))
    assert count.evaluations == STEPS and torch.equal(out, drawn(main, cfg=1.0))


@pytest.mark.parametrize(
    ("name", "method"),
    [("sd15", "stop"), ("flux", "stop"), ("sd15", "feedback"), ("wan", "feedback"), ("sd15", "guide")],
)
def test_a_batch_is_its_pictures(comfy, name, method):
    """KSampler draws the noise of a batch at once, so the pictures are made one by one from parts of it."""
    spec = MODELS[name]
    main = spec.build(0)
    weak = {"guide_model": spec.build(3)} if method == "guide" else {}
    model = adapted(main, STOP if method == "stop" else "feedback", 0.98, t1=0.3, **weak)
    setting = setting_of(main, spec, steps=4, batch=3, latent_seed=4)
    setting.latent = setting.latent * torch.tensor([0.2, 1.0, 3.0]).view(3, *[1] * (setting.latent.ndim - 1))
    words = spec.conditioning(1), spec.conditioning(2)
    together = setting.run(cfg_guider(model, *words, 4.0))
    latent, noise = setting.latent, setting.noise
    for i in range(3):
        setting.latent, setting.noise = latent[i : i + 1], noise[i : i + 1]
        assert far_apart(together[i : i + 1], setting.run(cfg_guider(model, *words, 4.0))) < 1e-4


@pytest.mark.parametrize("sampler", ["heun", "dpmpp_sde", "euler_ancestral"])
def test_feedback_moves_the_weight_under_every_kind_of_sampler(main, sampler):
    from guidance_pack.host.engine import wrappers

    seen, weights_at = [], wrappers.weights_at
    try:
        wrappers.weights_at = lambda *given: seen.append(weights_at(*given)) or seen[-1]
        out = drawn(adapted(main, "feedback", t1=0.1), sampler=sampler)
    finally:
        wrappers.weights_at = weights_at
    found = [weight.number for weight in seen]
    assert torch.isfinite(out).all() and found[0] == pytest.approx(1 / 0.95) and len(set(found)) > 2
    assert all(1.0 < weight <= 10.0 for weight in found)


def test_feedback_over_autoguidance_leaves_the_samplers_cfg_and_can_reuse(main):
    weak = SD15.build(3)
    for reuse, expected in ((1, STEPS), (2, STEPS / 2)):
        with count_forwards(main) as count, count_forwards(weak) as guide:
            drawn(adapted(main, "feedback", reuse=reuse, guide_model=weak))
        assert (count.evaluations, guide.evaluations) == (2 * STEPS, expected)


def test_the_inspector_shows_what_was_chosen(main):
    from guidance_pack.host.engine.install import with_inspection
    from guidance_pack.host.recording.inspection import Inspection

    found = {}
    models = {"stop": adapted(main, similarity=AGREEMENT), "feedback": adapted(main, "feedback", t1=0.1)}
    for name, model in models.items():
        inspection = Inspection()
        drawn(with_inspection(model, inspection))
        found[name] = [[term.strength[0] for term in step.terms] for step in inspection.record(0).evaluations]
    assert [cfg for cfg, _ in found["stop"]] == [5.0] * 3 + [1.0] * 3
    assert [stopped for _, stopped in found["stop"]] == [0.0] * 3 + [1.0] * 3
    assert all(cfg == weight for cfg, weight in found["feedback"]) and len({w for _, w in found["feedback"]}) > 2


def test_the_report_says_that_its_evaluations_are_the_most(main):
    from guidance_pack.host.report.report import report, sigmas_of

    for method in (STOP, "feedback"):
        model = adapted(main, method)
        told = report(model, sigmas_of(model, "normal", STEPS), 5.0)
        assert sum(told.main_evaluations) == 2 * STEPS
    assert "not the sampler's cfg" in told.text and "the sampler's own" not in told.text


@pytest.mark.parametrize("method", [STOP, "feedback"])
def test_a_guider_without_a_negative_is_refused_in_words(main, method):
    import comfy.samplers

    guider = comfy.samplers.CFGGuider(adapted(main, method))
    guider.inner_set_conds({"positive": SD15.conditioning(1)})
    with count_forwards(main) as count, pytest.raises(ValueError, match="Adaptive Weight.*takes no negative prompt"):
        setting_of(main, SD15, steps=2).run(guider)
    assert count.forwards == 0


def test_feedback_is_refused_where_there_is_no_noise_to_judge_by(comfy):
    spec = BUILT["lotus"]
    main = spec.build(0)
    given = spec.conditioning(1), spec.conditioning(2), spec.latent()
    with count_forwards(main) as count, pytest.raises(ValueError, match="picture with noise. Choose method"):
        sample(adapted(main, "feedback"), *given, steps=2)
    assert count.forwards == 0


def test_the_guide_is_loaded_only_for_feedback(comfy):
    from guidance_pack.nodes.adaptive_weight import GuidanceAdaptiveWeight as Node

    given = {"max_weight": 10.0, "guide_model": None}
    assert Node.check_lazy_status(method="feedback", **given) == ["guide_model"]
    assert Node.check_lazy_status(method=STOP, **given) == []
    assert Node.check_lazy_status(method="feedback", max_weight=1.0, guide_model=None) == []
    assert Node.check_lazy_status(method="feedback", max_weight=10.0) == []
