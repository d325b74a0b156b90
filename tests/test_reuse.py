"""Autoguidance that keeps the guide's difference for some noise levels: what is evaluated, and what it gives."""

import pytest
import torch
from cases import levels
from engine_probe import cfg_guider, guided, recorded, replay, setting_of
from host_models import MODELS, count_forwards, sample, tensors

from guidance_pack.guidance.branch import POSITIVE, Branch
from guidance_pack.guidance.compose import Guidance, Memory, needs_of
from guidance_pack.guidance.rules.autoguidance import Autoguidance
from guidance_pack.guidance.schedule import Interval
from guidance_pack.guidance.step import Step

GUIDE = Branch(network="guide")
SIGMAS = (10.0, 5.0, 2.0, 1.0, 0.5, 0.2)
NO_CFG = torch.ones(1, dtype=torch.float64)


def asked(rule, *sigmas):
    """At which of these levels, each at a position of its own, the guide is asked."""
    guidance, memory, found = Guidance((rule,)), Memory(), []
    for position, sigma in enumerate(sigmas, 1):
        memory.move_to(position)
        acting = guidance.acting(levels(sigma), NO_CFG, memory)
        found.append(GUIDE in needs_of(acting) if acting else None)
        for one in acting:
            memory.keep(one.index, "a difference")
    return found


def test_the_guide_is_asked_at_every_second_level_of_its_own_interval():
    assert asked(Autoguidance(2.0, reuse=2), *SIGMAS) == [True, False] * 3
    assert asked(Autoguidance(2.0, reuse=2), *reversed(SIGMAS)) == [True, False] * 3, "unsampling"
    inside = Autoguidance(2.0, Interval(5.0, 0.3, "sigma_ve"), reuse=3)
    assert asked(inside, *SIGMAS) == [None, True, False, False, True, None]


def test_one_is_the_plain_rule():
    assert asked(Autoguidance(2.0), *SIGMAS) == [True] * 6


def test_where_no_difference_is_kept_the_guide_is_asked():
    assert all(GUIDE in Autoguidance(2.0, reuse=4).needs(turn, kept=False) for turn in range(8))


def test_the_kept_difference_is_added_at_the_weight_of_its_new_level():
    rule = Autoguidance(3.0, reuse=2)
    main, guide = torch.randn(1, 4), torch.randn(1, 4)
    first = Step(main, levels(10.0), {POSITIVE: main, GUIDE: guide}, NO_CFG, strength=NO_CFG + 2)
    push, state = rule.displacement(first, None)
    torch.testing.assert_close(push, 2 * (main - guide))
    later = Step(main, levels(5.0), {POSITIVE: 5 * main}, NO_CFG, strength=NO_CFG + 1)
    kept, again = rule.displacement(later, state)
    torch.testing.assert_close(kept, main - guide)
    assert again is state
    assert Autoguidance(3.0).displacement(first, None)[1] is None, "nothing is kept where nothing is reused"


def with_reuse(main, weak, reuse):
    from guidance_pack.host.engine.install import with_autoguidance

    return with_autoguidance(main, weak, Autoguidance(2.0, reuse=reuse))


@pytest.mark.slow
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


@pytest.mark.slow
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
