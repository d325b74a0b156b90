"""Autoguidance that keeps the guide's difference for some noise levels: what is evaluated, and what it gives."""

import pytest
import torch
from engine_probe import cfg_guider, guided, recorded, replay, setting_of
from host_models import MODELS, count_forwards, sample, tensors

from guidance_pack.guidance.branch import POSITIVE, Branch
from guidance_pack.guidance.noise_level import NoiseLevel
from guidance_pack.guidance.rules.autoguidance import Autoguidance
from guidance_pack.guidance.schedule import Interval
from guidance_pack.guidance.step import Step

GUIDE = Branch(network="guide")
LEVELS = NoiseLevel.variance_exploding(torch.tensor([10.0, 5.0, 2.0, 1.0, 0.5, 0.2], dtype=torch.float64))
NO_CFG = torch.ones(1, dtype=torch.float64)


def asked(rule, *sigmas):
    at = [NoiseLevel.variance_exploding(torch.tensor([sigma], dtype=torch.float64)) for sigma in sigmas]
    return [GUIDE in rule.needs(level, NO_CFG) for level in at]


def test_the_guide_is_asked_at_every_second_level_of_its_own_interval():
    rule = Autoguidance(2.0, reuse=2).over(LEVELS)
    assert asked(rule, 10.0, 5.0, 2.0, 1.0, 0.5, 0.2) == [True, False] * 3
    inside = Autoguidance(2.0, Interval(5.0, 0.3, "sigma_ve"), reuse=3).over(LEVELS)
    assert asked(inside, 5.0, 2.0, 1.0, 0.5) == [True, False, False, True]
    assert not inside.needs(NoiseLevel.variance_exploding(torch.tensor([10.0])), NO_CFG)


def test_evaluations_between_two_levels_belong_to_the_noisier_one_and_more_noise_to_the_first():
    rule = Autoguidance(2.0, reuse=2).over(LEVELS)
    assert asked(rule, 7.0, 3.0, 1.5) == [True, False, True]
    assert asked(rule, 12.0, 5.0 * (1 + 1e-8)) == [True, False]


def test_one_is_the_plain_rule():
    assert asked(Autoguidance(2.0).over(LEVELS), 10.0, 5.0, 2.0) == [True] * 3


def test_the_kept_difference_is_added_at_the_weight_of_its_new_level():
    rule = Autoguidance(3.0, reuse=2).over(LEVELS)
    main, guide = torch.randn(1, 4), torch.randn(1, 4)
    first = Step(main, LEVELS[torch.tensor([0])], {POSITIVE: main, GUIDE: guide}, NO_CFG)
    push, state = rule.displacement(first, None)
    torch.testing.assert_close(push, 2 * (main - guide))
    later = Step(main, LEVELS[torch.tensor([1])], {POSITIVE: 5 * main}, NO_CFG)
    kept, again = rule.displacement(later, state)
    torch.testing.assert_close(kept, 2 * (main - guide))
    assert again is state
    assert Autoguidance(3.0).displacement(first, None)[1] is None, "nothing is kept where nothing is reused"


def with_reuse(main, weak, reuse):
    from guidance_pack.host.engine.install import with_autoguidance

    return with_autoguidance(main, weak, Autoguidance(2.0, reuse=reuse))


@pytest.mark.parametrize("sampler", ["euler", "heun"])
def test_the_host_evaluates_the_guide_at_half_of_the_levels(comfy, sampler):
    spec = MODELS["sd15"]
    main, weak = spec.build(0), spec.build(5)
    forwards = []
    for reuse in (1, 2):
        given = spec.conditioning(1), spec.conditioning(1), spec.latent(1)
        with count_forwards(weak) as count:
            tensors(sample(with_reuse(main, weak, reuse), *given, steps=6, sampler=sampler))
        forwards.append(count.forwards)
    assert forwards == ([6, 3] if sampler == "euler" else [11, 5])


def test_each_push_is_the_last_difference_that_was_evaluated(comfy):
    spec = MODELS["sd15"]
    main, weak, words = spec.build(0), spec.build(5), spec.conditioning(1)
    setting = setting_of(main, spec, steps=6)
    watched, seen = recorded(with_reuse(main, weak, 2))
    setting.run(cfg_guider(watched, words, words, 1.0))
    own, bad = (replay(cfg_guider(model, words, words, 1.0), setting, seen) for model in (main, weak))
    for index, call in enumerate(seen):
        last = index - index % 2
        torch.testing.assert_close(call.denoised, own[index] + own[last] - bad[last], rtol=1e-4, atol=1e-4)


def test_the_report_counts_what_is_saved(comfy):
    from guidance_pack.host.report.report import report, sigmas_of

    spec = MODELS["sd15"]
    model = with_reuse(spec.build(0), spec.build(5), 3)
    told = report(model, sigmas_of(model, "normal", 7), 1.0)
    assert told.guide_evaluations == (1, 0, 0, 1, 0, 0, 1)
    assert "the guide at every 3 levels" in told.text


def test_reuse_one_is_bit_identical_to_the_rule_without_it(comfy):
    spec = MODELS["sd15"]
    main, weak = spec.build(0), spec.build(5)
    given = (spec.conditioning(1), spec.conditioning(1), spec.latent(1))
    models = with_reuse(main, weak, 1), guided(main, weak, cfg=False)
    (first,), (second,) = (tensors(sample(model, *given, steps=3)) for model in models)
    assert torch.equal(first, second)
