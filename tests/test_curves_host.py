"""What the server tells the page of a node and of a run: the rules' own strengths, under one key."""

import json

import pytest
import torch

STEPS = 6


@pytest.fixture(scope="module")
def sd15(comfy):
    import host_models

    return host_models.load("sd15")


def shown(ui):
    (text,) = ui["guidance_curve"]
    return json.loads(text)


@pytest.mark.slow
def test_a_nodes_output_holds_the_strengths_of_its_own_rules(sd15):
    from guidance_pack.guidance.rules.cfg import CFG
    from guidance_pack.guidance.rules.rescale import Rescale
    from guidance_pack.guidance.schedule import Interval
    from guidance_pack.host.engine.install import with_rule
    from guidance_pack.host.engine.page_events import PIECES, curve

    first = with_rule(sd15, CFG(5.0, Interval(0.25, 0.75)))
    second = with_rule(first, Rescale(0.7))
    (line,) = shown(curve(sd15, first))["lines"]
    inside = [0.25 <= (i + 0.5) / PIECES < 0.75 for i in range(PIECES)]
    assert line["values"] == [5.0 if i else 1.0 for i in inside] and line["relative"] is False
    (other,) = shown(curve(first, second))["lines"]
    assert other["values"] == pytest.approx([0.7] * PIECES) and other["key"] != line["key"]
    assert shown(curve(sd15, sd15))["lines"] == []


def test_a_run_names_the_same_lines_whatever_was_cloned(sd15):
    from types import SimpleNamespace

    from guidance_pack.guidance.rules.cfg import CFG
    from guidance_pack.guidance.rules.rescale import Rescale
    from guidance_pack.guidance.sigma_list import SigmaList
    from guidance_pack.host.common.noise_levels import ModelPositions, level_of
    from guidance_pack.host.engine.install import with_rule
    from guidance_pack.host.engine.page_events import curve, done_of, steps_of
    from guidance_pack.host.engine.plan import plan_of

    first = with_rule(sd15, CFG(None))
    second = with_rule(first, Rescale(0.7))
    sampling = sd15.get_model_object("model_sampling")
    guidance = plan_of(second).guidance.resolve(ModelPositions(sampling))
    sigmas = [*torch.linspace(14.0, 0.1, STEPS).tolist(), 0.0]
    run = SimpleNamespace(
        sigmas=SigmaList.of(sigmas), host_weights=(6.5,), guidance=guidance,
        level=lambda sigma: level_of(sampling, sigma),
    )
    told = steps_of(run, second.clone())
    keys = [shown(curve(a, b))["lines"][0]["key"] for a, b in ((sd15, first), (first, second))]
    assert list(told["lines"]) == keys and len(told["sigmas"]) == STEPS
    assert told["lines"][keys[0]] == [6.5] * STEPS  # the sampler's cfg, known in the run only
    assert told["lines"][keys[1]] == pytest.approx([0.7] * STEPS)
    assert shown(curve(sd15, first))["lines"][0]["relative"] is True
    assert done_of(run, second.clone()) == {
        "steps": STEPS, "evaluations": 2.0, "acted": {keys[0]: STEPS, keys[1]: STEPS},
    }  # fmt: skip


def test_two_nodes_with_different_guides_have_lines_of_their_own(sd15):
    """Branches of one graph: equal rules on one MODEL, whose guides differ."""
    import host_models

    from guidance_pack.guidance.rules.autoguidance import Autoguidance
    from guidance_pack.host.engine.install import with_autoguidance
    from guidance_pack.host.engine.page_events import curve

    nodes = [with_autoguidance(sd15, host_models.load("sd15", seed), Autoguidance(2.0)) for seed in (1, 2)]
    keys = [shown(curve(sd15, node))["lines"][0]["key"] for node in nodes]
    assert keys[0] != keys[1]
    assert [shown(curve(sd15, node.clone()))["lines"][0]["key"] for node in nodes] == keys


def test_nothing_is_sent_where_no_page_has_queued_the_run(sd15, monkeypatch):
    from guidance_pack.host.engine import page_events as curves

    monkeypatch.setattr(curves, "steps_of", lambda *_: pytest.fail("a run in a script has nobody to tell"))
    curves.announce(None, sd15)


def test_nothing_in_it_is_counted_as_a_picture(sd15):
    from comfy_execution.jobs import get_outputs_summary

    from guidance_pack.host.engine.page_events import curve

    assert get_outputs_summary({"1": curve(sd15, sd15)}) == (0, None)
