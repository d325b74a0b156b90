"""The inspector on the real host: it changes nothing, counts what was evaluated, and its numbers are the law's."""

import json

import engine_probe as probe
import pytest
import torch
from host_models import MODELS, count_forwards, sample, tensors
from test_engine_failures import broken, failures
from test_engine_guiders import COSTS, interval, make

SD15 = MODELS["sd15"]
STEPS = 4
CFG, WEIGHT = 3.0, 2.5


@pytest.fixture(scope="module")
def guided(main, guide):
    return probe.guided(main, guide, weight=WEIGHT, cfg=CFG, cfg_schedule=interval((0.3, 1.0)))


def inspect(model):
    """The inspected MODEL and its inspection."""
    from guidance_pack.host.engine.install import with_inspection
    from guidance_pack.host.recording.inspection import Inspection

    inspection = Inspection()
    return with_inspection(model, inspection), inspection


def run(model, spec=SD15, batch=1, cfg=CFG, **more):
    steps = more.pop("steps", STEPS)
    made = sample(
        model, spec.conditioning(1), spec.conditioning(2), spec.latent(batch), steps=steps, cfg=cfg,
        scheduler=spec.scheduler, **more,
    )
    return tensors(made)


@pytest.mark.many
@pytest.mark.parametrize("sampler", ["euler", "heun", "dpmpp_2m_sde", "euler_ancestral_cfg_pp"])
@pytest.mark.parametrize("components", [True, False], ids=["guided", "plain"])
def test_it_changes_no_bit_and_counts_what_was_evaluated(main, guide, guided, components, sampler):
    model = guided if components else main
    with count_forwards(main, 2) as mains, count_forwards(guide, 2) as guides:
        expected = run(model, batch=2, sampler=sampler)
    watched, inspection = inspect(model)
    with count_forwards(main, 2) as again, count_forwards(guide, 2) as guides_again:
        got = run(watched, batch=2, sampler=sampler)
    assert torch.equal(got[0], expected[0])
    assert (again.forwards, guides_again.forwards) == (mains.forwards, guides.forwards)
    record = inspection.record(0)
    assert record.finished and record.levels == STEPS and record.samples == 2
    assert sum(e.main for e in record.evaluations) == mains.evaluations
    assert sum(e.guides for e in record.evaluations) == guides.evaluations


@pytest.mark.slow
def test_the_numbers_are_those_of_the_law(main, guide, guided):
    watched, inspection = inspect(guided)
    model, calls = probe.recorded(watched)
    setting = probe.setting_of(main, SD15, steps=STEPS, batch=2)
    setting.run(probe.cfg_guider(model, SD15.conditioning(1), SD15.conditioning(2), 1.0))
    positive = probe.alone(main, SD15.conditioning(1), setting, calls)
    negative = probe.alone(main, SD15.conditioning(2), setting, calls)
    weak = probe.alone(guide, SD15.conditioning(1), setting, calls)
    evaluations = inspection.record(0).evaluations
    assert len(evaluations) == len(calls) == STEPS
    weights = []
    for e, call, d, n, g in zip(evaluations, calls, positive, negative, weak, strict=True):
        cfg, auto = e.terms
        weights.append(cfg.strength[0])
        assert_near(cfg.update, (weights[-1] - 1) * length(d - n) / length(d))
        assert_near(auto.update, (WEIGHT - 1) * length(d - g) / length(d))
        assert_near(e.total, length(call.denoised - d) / length(d))
        assert auto.strength == [WEIGHT] * 2 and e.sigma == call.sigma.tolist()
        if weights[-1] == 1.0:
            assert e.cosine is None and e.main == 1
        else:
            assert_near(e.cosine, torch.cosine_similarity(d.flatten(1), n.flatten(1), dim=1), 1e-5)
    assert [e.step for e in evaluations] == [1, 2, 3, 4]
    assert 1.0 in weights and CFG in weights and max(max(e.total) for e in evaluations) > 0.01


def length(change):
    return torch.linalg.vector_norm(change.flatten(1), dim=1)


def assert_near(values, wanted, tolerance=1e-3):
    assert values == pytest.approx(wanted.tolist(), rel=tolerance, abs=1e-5)


@pytest.mark.many
@pytest.mark.parametrize("kind", [kind for kind in COSTS])
def test_under_every_guider_it_changes_no_bit(main, guide, kind):
    from guidance_pack.guidance.rules.autoguidance import Autoguidance
    from guidance_pack.host.engine.install import with_autoguidance

    second = SD15.build(9)
    model = with_autoguidance(main, guide, Autoguidance(WEIGHT))
    setting = probe.setting_of(main, SD15, steps=2)
    expected = setting.run(make(kind, model, second))
    watched, inspection = inspect(model)
    assert torch.equal(setting.run(make(kind, watched, second)), expected)
    evaluations = inspection.record(0).evaluations
    assert [e.main for e in evaluations] == [COSTS[kind][0][0]] * 2 and [e.guides for e in evaluations] == [1, 1]
    assert (evaluations[0].terms[0].update[0] > 0) == (kind != "basic")


@pytest.mark.many
@pytest.mark.parametrize("name", ["sd15", "sdxl", "sd3", "flux", "wan", "stable_audio", "ltxav", "chroma_radiance"])
def test_every_family_is_written_down_and_shown(comfy, name):
    from guidance_pack.host.report.show import show

    spec = MODELS[name]
    plain = spec.build(0)
    watched, inspection = inspect(plain)
    expected = run(plain, spec, steps=2)
    got = run(watched, spec, steps=2)
    assert all(torch.equal(a, b) for a, b in zip(got, expected, strict=True))
    shown = show(inspection, 0)
    assert shown.plot.shape[2:] == shown.strip.shape[2:] == (960, 3) and shown.table.count("\n| ") == 4
    assert shown.preview.shape == (1, shown.plot.shape[1] + shown.strip.shape[1], 960, 3)
    seen = inspection.record(0).evaluations[0].picture
    assert (seen is None) == (name == "stable_audio"), name
    assert seen is None or (seen.shape[3] == 3 and float(seen.float().std()) > 1)


def test_a_step_that_is_evaluated_twice_has_two_rows(guided):
    watched, inspection = inspect(guided)
    run(watched, sampler="heun")
    steps = [e.step for e in inspection.record(0).evaluations]
    assert steps == [1, 2, 2, 3, 3, 4, 4]  # Heun looks ahead to the next level, and not from the last one


class Page:
    """Stands for the server's connection to the page: what it was told."""

    client_id = "someone"

    def __init__(self):
        self.words = []

    def send_sync(self, event, data, client):
        assert client == self.client_id

    def send_progress_text(self, words, node, client):
        assert client == self.client_id
        self.words.append((node, words))


@pytest.fixture
def page(comfy, monkeypatch):
    import server

    made = Page()
    monkeypatch.setattr(server.PromptServer, "instance", made, raising=False)
    return made


@pytest.mark.slow
def test_runs_of_one_prompt_are_kept_apart_and_the_next_prompt_starts_anew(guided, page):
    from comfy_execution.utils import CurrentNodeContext

    watched, inspection = inspect(guided)
    with CurrentNodeContext("one", "5"):
        run(watched, steps=1)
        run(watched, steps=2)
    assert [record.levels for record in inspection.records] == [1, 2]
    assert inspection.record(1).levels == 1 and inspection.record(0).levels == inspection.record(2).levels == 2
    with pytest.raises(ValueError, match="run is 3, and 2 were inspected"):
        inspection.record(3)
    with CurrentNodeContext("two", "6"):
        run(watched, steps=1)
    assert [(record.levels, record.node) for record in inspection.records] == [(1, "6")]


def test_the_page_hears_of_every_evaluation_while_the_run_goes_on(guided, page, monkeypatch):
    from comfy_execution.utils import CurrentNodeContext

    from guidance_pack.host.recording import recorder as inspect_recorder

    monkeypatch.setattr(inspect_recorder, "PAUSE", 0.0)
    watched, inspection = inspect(guided)
    inspection.node = "12"
    with CurrentNodeContext("one", "5"):
        run(watched, sampler="heun")
    evaluations = inspection.record(0).evaluations
    assert [node for node, _ in page.words] == ["12"] * len(evaluations)
    first = page.words[0][1].splitlines()
    assert first[0].startswith(f"step 1 of {STEPS}, sigma ")
    assert first[1].startswith("autoguidance (guide 1) 2.5: update ")
    assert first[-1].startswith("positive, guide 1: ")


@pytest.mark.slow
def test_fast_evaluations_are_told_together(guided, page, monkeypatch):
    from comfy_execution.utils import CurrentNodeContext

    from guidance_pack.host.recording import recorder as inspect_recorder

    monkeypatch.setattr(inspect_recorder, "PAUSE", 0.0)
    alone, one_by_one = inspect(guided)
    run(alone)
    monkeypatch.setattr(inspect_recorder, "PAUSE", 60.0)
    watched, inspection = inspect(guided)
    inspection.node = "12"
    with CurrentNodeContext("one", "5"):
        run(watched)
    assert len(page.words) == 1 and page.words[0][1].startswith(f"step {STEPS} of {STEPS}, ")
    seen, expected = (found.record(0).evaluations for found in (inspection, one_by_one))
    assert [(e.total, e.terms, e.cosine) for e in seen] == [(e.total, e.terms, e.cosine) for e in expected]


@pytest.mark.slow
def test_a_long_run_keeps_the_pictures_that_are_shown(guided):
    from guidance_pack.host.recording.record import MOST_SHOWN, shown_steps
    from guidance_pack.host.report.show import show

    watched, inspection = inspect(guided)
    run(watched, steps=3 * MOST_SHOWN)
    seen = inspection.record(0).evaluations
    assert [e.step - 1 for e in seen if e.picture is not None] == shown_steps(3 * MOST_SHOWN)
    assert show(inspection, 0).strip.shape[2:] == (960, 3)


def test_a_long_session_keeps_the_newest_runs(comfy):
    from guidance_pack.host.recording.inspection import MOST, Inspection
    from guidance_pack.host.recording.record import Record

    inspection = Inspection()
    for count in range(MOST + 3):
        inspection.open(Record("model", "", count), "one")
    assert [record.levels for record in inspection.records] == list(range(3, MOST + 3))


@pytest.mark.slow
def test_the_place_in_the_chain_does_not_matter_and_several_may_look(main, guide):
    first, early = inspect(main)
    model, late = inspect(probe.guided(first, guide, weight=WEIGHT, cfg=CFG))
    run(model)
    assert early.records == late.records and len(early.records) == 1
    assert [term.label for term in early.record(0).evaluations[0].terms] == ["CFG", "autoguidance (guide 1)"]
    run(probe.guided(main, guide, weight=WEIGHT, cfg=CFG))
    assert len(early.records) == 1, "the MODEL before the inspector is not inspected"


def test_the_same_component_twice_has_two_names(main, guide):
    model, inspection = inspect(probe.guided(probe.guided(main, guide, cfg=False), guide, cfg=False))
    run(model, cfg=1.0)
    labels = [term.label for term in inspection.record(0).evaluations[0].terms]
    assert labels == ["CFG", "autoguidance (guide 1)", "autoguidance (guide 1) #2"]


@pytest.mark.many
@pytest.mark.parametrize("kind", [0, 1, 2], ids=["exception", "interrupt", "out of memory"])
def test_what_was_recorded_before_a_failure_is_kept(main, guide, guided, kind):
    watched, inspection = inspect(guided)
    error = failures()[kind]
    handle = broken(guide.model.diffusion_model, error, 2)
    try:
        with pytest.raises(type(error)):
            run(watched)
    finally:
        handle.remove()
    record = inspection.record(0)
    assert not record.finished and [e.step for e in record.evaluations] == [1, 2]
    assert torch.equal(run(watched)[0], run(guided)[0])


def test_nothing_recorded_is_a_mistake_in_words(comfy):
    from guidance_pack.host.recording.inspection import Inspection
    from guidance_pack.host.report.show import show

    with pytest.raises(ValueError, match="no sampler has used the MODEL that comes out of Inspect Run"):
        show(Inspection(), 0)
    off = show(Inspection(on=False), 0)
    assert "switched off" in off.table and json.loads(off.json) == {"runs": []}


def test_a_run_holds_no_tensor_of_the_models_size(guided):
    watched, inspection = inspect(guided)
    run(watched)
    record = inspection.record(0)
    assert not any(torch.is_tensor(value) for e in record.evaluations for value in e.total)
    assert all(e.seconds > 0 and e.memory > 0 for e in record.evaluations)


def test_memory_is_that_of_this_process(comfy):
    import psutil

    from guidance_pack.host.recording.timer import memory_held

    assert memory_held(torch.device("cpu")) == pytest.approx(psutil.Process().memory_info().rss, rel=0.02)
    more = torch.ones(2**26)
    assert memory_held(torch.device("cpu")) == pytest.approx(psutil.Process().memory_info().rss, rel=0.02)
    assert memory_held(torch.device("cpu")) > more.nbytes


def test_json_has_every_sample_and_the_table_their_means(guided):
    from guidance_pack.host.report.show import show

    watched, inspection = inspect(guided)
    run(watched, batch=2)
    shown = show(inspection, 0)
    (told,) = json.loads(shown.json)["runs"]
    last = told["evaluations"][-1]
    assert told["steps"] == STEPS and told["samples"] == 2 and len(told["evaluations"]) == STEPS
    assert last["branches"] == [
        {"network": "main", "condition": "positive"}, {"network": "main", "condition": "negative"},
        {"network": "guide 1", "condition": "positive"},
    ]  # fmt: skip
    pushes = last["terms"][1]["push"]
    assert len(pushes) == 2 and pushes[0] != pushes[1]
    assert f"{50 * sum(pushes):.3g} %" in shown.table.splitlines()[-1]


def test_an_inspected_model_is_trained_as_if_it_were_plain(main):
    import comfy.model_management as management

    from guidance_pack.host.engine.run import open_run

    watched, inspection = inspect(main)
    guider = probe.cfg_guider(watched, SD15.conditioning(1), SD15.conditioning(2), 1.0)
    management.in_training = True
    try:
        assert open_run(guider, torch.tensor([1.0, 0.0]), None) is None
    finally:
        management.in_training = False
    assert inspection.records == []
