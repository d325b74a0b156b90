"""Tune Guidance and Load Recipe on the real host: what is varied, what is kept, what is said, and no run made twice."""

import json

import pytest
import torch
from compare_scene import chained, sampled, scene, widgets
from world import LABELS

LABEL = "star, moon"


@pytest.fixture(scope="module")
def tiny(comfy):
    from guidance_pack.host.models.tiny import load_tiny_model

    with torch.inference_mode():
        return load_tiny_model("shapes-edm"), load_tiny_model("shapes-edm-weak")


@pytest.fixture(scope="module")
def guided(tiny):
    return chained(*tiny)


@pytest.fixture(scope="module")
def guide(comfy):
    from guidance_pack.host.models.guides import load_guide

    return load_guide("shapes-classifier")


@pytest.fixture
def runs(comfy, monkeypatch):
    """The settings and numbers of all runs, in order, of which none is drawn: the judge likes a weight of 3, and each
    run has a level that all settings share. The run number `stop` is broken off."""
    import comfy.model_management

    from guidance_pack.host.tuning.problem import Problem
    from guidance_pack.host.tuning.reading import Reading

    class Runs(list):
        stop = None

    seen = Runs()

    def run(self, settings, index, callback):
        weight = settings.rules[0].weight
        seen.append((weight, index))
        if seen.stop == len(seen):
            raise comfy.model_management.InterruptProcessingException
        values = tuple(index + offset - (weight - 3.0) ** 2 for offset in (0.0, 0.01 * weight))
        reading = Reading((values,) * len(self.judges), (0.2, 0.2, 0.0), ("00" * 192, "ff" * 192), self.cost(settings))
        return reading, torch.zeros(2, 4, 4, 3)

    monkeypatch.setattr(Problem, "run", run)
    return seen


def first_of(model, **changed):
    from guidance_pack.host.engine.plan import plan_of

    return widgets(rules=plan_of(model).guidance.rules, steps=1, **changed)


def problem(model, guide, vary="cfg weight: 1 .. 4", budget=120, seeds=2, checks=2, **changed):
    from guidance_pack.guidance.tuning.guards import Limits
    from guidance_pack.host.compare.score import Wanted
    from guidance_pack.host.tuning.problem import Effort, Judge, Problem
    from guidance_pack.host.tuning.space import parse_space

    first = first_of(model, **changed)
    judges = (Judge(guide, (Wanted(LABEL),)),)
    limits, effort = Limits(0.0, 0.0, 0.0, 0.0), Effort(seeds, checks, budget)
    return Problem((scene(model),), first, parse_space(vary, first), judges, limits, effort)


def tuned(asked, study):
    from guidance_pack.host.tuning.tune import tune

    with torch.inference_mode():
        return tune(asked, study, lambda words, spent, budget: None)


def study_of(asked, where=None):
    from guidance_pack.host.tuning.study import Study

    return Study(where, asked.fingerprint(), len(asked.judges), 0)


def test_a_search_keeps_its_budget_and_finds_what_the_judge_likes(guided, guide, runs):
    asked = problem(guided, guide, budget=240)
    found = tuned(asked, study_of(asked))
    assert found.won and abs(found.chosen.rules[0].weight - 3.0) < 0.2
    assert found.check.chances[0] > 0.95 and found.check.wins == (4,) and found.check.pictures == 4
    assert 200 < found.spent <= 240 and found.importance == {"cfg weight": 1.0}
    assert len(set(runs)) == len(runs)
    assert any(not c.whole for c in found.candidates)  # the worse half was stopped early


def test_two_searches_at_once_make_no_run_twice(guided, guide, runs, monkeypatch, tmp_path):
    import time
    from concurrent.futures import ThreadPoolExecutor

    from guidance_pack.host.tuning.problem import Problem

    run, asked, where = Problem.run, problem(guided, guide, budget=200), tmp_path / "study.log"
    monkeypatch.setattr(Problem, "run", lambda *args: (time.sleep(0.05), run(*args))[1])
    with ThreadPoolExecutor(2) as pool:
        both = list(pool.map(lambda worker: tuned(asked, study_of(asked, where)), range(2)))
    read = runs[: len(runs)]
    twice = {one: read.count(one) for one in read if read.count(one) > 1}
    shown = {(found.winner.settings.rules[0].weight, index) for found in both for index in (2, 3)}
    assert set(twice) <= {(1.0, 2), (1.0, 3), (2.0, 2), (2.0, 3)} | shown, twice  # drawn again for the strip alone
    assert both[0].spent <= 200 and both[1].spent <= 200


def test_an_interrupted_search_goes_on_with_what_it_has(guided, guide, runs, tmp_path):
    import comfy.model_management

    asked, where = problem(guided, guide, budget=110), tmp_path / "study.log"
    runs.stop = 12
    with pytest.raises(comfy.model_management.InterruptProcessingException):
        tuned(asked, study_of(asked, where))
    runs.stop = None
    found = tuned(asked, study_of(asked, where))
    counted = runs[:11] + runs[12:]  # without the run that was broken off
    assert len(counted) == len(set(counted)) and found.spent <= 110
    assert runs[11] in runs[12:]  # its setting is tried again
    runs.clear()
    assert tuned(asked, study_of(asked, where)).spent == found.spent
    assert len(runs) == 3 * 2  # of the strip alone
    more = problem(guided, guide, budget=140)
    assert found.spent < tuned(more, study_of(more, where)).spent <= 140


@pytest.mark.parametrize(("minutes", "words"), [(3, "Nothing else was tried"), (30, "30 minutes"), (0, "minutes; ")])
def test_the_minutes_are_kept_with_time_for_the_check(guided, guide, runs, monkeypatch, minutes, words):
    """Every run takes a minute."""
    from dataclasses import replace
    from types import SimpleNamespace

    from guidance_pack.host.tuning import clock, tune
    from guidance_pack.host.tuning.words import tuned_words

    for module in (clock, tune):
        monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=lambda: 60.0 * len(runs), sleep=None))
    asked = problem(guided, guide, budget=240)
    asked = replace(asked, effort=replace(asked.effort, minutes=minutes))
    found = tuned(asked, study_of(asked))
    assert words in tuned_words(found, asked)
    assert found.out_of_time == bool(minutes) and (not minutes or found.minutes <= max(minutes, 4))
    assert (found.check is not None) == (minutes != 3) and (minutes or found.spent > 200)


def test_limits_stop_a_setting_and_a_front_has_several_judges(guided, guide, runs, monkeypatch):
    from dataclasses import replace

    from guidance_pack.guidance.tuning.guards import Limits
    from guidance_pack.host.tuning import tune as search

    monkeypatch.setattr(search, "seen_in", lambda readings: search.Look(0.2, 5.0 + readings[0].values[0][0], 0.0, 0.1))
    asked = problem(guided, guide, budget=140)
    asked = replace(asked, judges=asked.judges * 2, limits=Limits(0.0, 4.0, 0.0, 0.0))
    found = tuned(asked, study_of(asked))
    assert len(found.candidates[0].means) == 2 and found.front
    passed = [c for c in found.candidates if not c.kept]
    assert passed and all(len(c.readings) == 1 for c in passed) and all(c.kept for c in found.front)


def test_where_the_best_passes_a_limit_on_new_seeds_the_next_is_taken(guided, guide, runs, monkeypatch):
    from dataclasses import replace

    from guidance_pack.guidance.tuning.guards import Limits
    from guidance_pack.host.tuning import tune as search

    def look(readings):
        first, second = readings[0].values[0]
        weight = 100 * (second - first)
        number = first + (weight - 3.0) ** 2
        return search.Look(0.2, 10.0 if abs(weight - best) < 1e-6 and number > 1.5 else 1.0, 0.0, 0.1)

    best = 9.0
    monkeypatch.setattr(search, "seen_in", look)
    asked = replace(problem(guided, guide, budget=240), limits=Limits(0.0, 4.0, 0.0, 0.0))
    before = tuned(asked, study_of(asked))
    best = before.winner.values["cfg weight"]
    after = tuned(asked, study_of(asked))
    assert before.won and after.won and after.winner.values["cfg weight"] != best
    assert not any(value > 0 for value in after.check.excess.values())
    assert after.spent <= 240


def test_runs_are_what_the_nodes_give(tiny, guided, guide):
    asked = problem(guided, guide)
    settings = chained(*tiny, cfg=3.0)
    from guidance_pack.host.tuning.space import set_all

    with torch.inference_mode():
        reading, pictures = asked.run(set_all(asked.first, asked.space, {"cfg weight": 3.0}), 1, lambda *_: None)
    assert torch.equal(pictures, sampled(asked.scenes[0], settings, steps=1, seed=6))
    assert reading.evaluations == 3 and len(reading.values[0]) == 2


def test_the_unguided_pictures_and_the_fingerprint(tiny, guided, guide):
    asked = problem(guided, guide)
    with torch.inference_mode():
        _, pictures = asked.run(asked.unguided, 0, lambda *_: None)
    assert torch.equal(pictures, sampled(asked.scenes[0], tiny[0], steps=1))
    same = problem(chained(*tiny), guide)
    others = [
        problem(guided, guide, seeds=3), problem(chained(*tiny, auto=3.0), guide), problem(tiny[0], guide, "cfg"),
    ]  # fmt: skip
    assert same.fingerprint() == asked.fingerprint()
    assert asked.fingerprint() not in [other.fingerprint() for other in others]


def test_too_small_a_budget_is_refused_before_anything_is_drawn(guided, guide, runs):
    with pytest.raises(ValueError, match="budget is 20 evaluations.*Raise budget"):
        tuned(problem(guided, guide, budget=20), None)
    assert not runs


@pytest.mark.parametrize(
    ("vary", "dimensions"),
    [
        ("cfg weight", ["cfg weight: 1 .. 8"]),
        ("cfg interval", ["cfg start: 0 .. 0.5", "cfg end: 0.5 .. 1"]),
        ("autoguidance weight: 1.5 .. 2\n\ncfg weight: off, 2, 3", ["autoguidance weight: 1.5 .. 2",
                                                                  "cfg weight: off, 2, 3"]),
        ("steps: 4 .. 8\nscheduler: karras, simple", ["steps: 4 .. 8", "scheduler: karras, simple"]),
        ("mix\ntotal: 2 .. 4", ["mix: 0 .. 1", "total: 2 .. 4"]),
        ("cfg weight: 0.5 .. 32 log", ["cfg weight: 0.5 .. 32 log"]),
    ],
)  # fmt: skip
def test_lines_of_text_say_what_varies(guided, vary, dimensions):
    from guidance_pack.host.tuning.space import parse_space

    assert [d.words() for d in parse_space(vary, first_of(guided))] == dimensions


@pytest.mark.parametrize(
    ("vary", "words"),
    [
        ("", "vary is empty"), ("cfg wieght", "did you mean cfg weight"), ("seed: 1 .. 9", "no search can choose"),
        ("apg eta", "carries no apg"), ("cfg 2 weight: 1 .. 2", "only 1 of cfg"), ("cfg: 1 .. 4", "Vary cfg weight"),
        ("cfg weight\ncfg weight: 1 .. 2", "twice"), ("cfg weight: 4 .. 1", "the smaller first"),
        ("cfg weight: 1 .. x", "which is no number"), ("cfg weight: 1 .. 1000", "it can be 0 to 100"),
        ("cfg start: 0 .. 0.8\ncfg end: 0.5 .. 1", "may cross"), ("steps", "stands alone"), ("cfg weight: a", "takes"),
        ("steps: 1.5 .. 3", "whole numbers"), ("cfg weight: 0 .. 3 log", "above 0"),
    ],
)  # fmt: skip
def test_lines_that_cannot_be_varied_are_refused_in_words(guided, vary, words):
    from guidance_pack.host.tuning.space import parse_space

    with pytest.raises(ValueError, match=words):
        parse_space(vary, first_of(guided))


def test_both_ends_of_an_interval_are_set_at_once(guided):
    from guidance_pack.guidance.schedule import Interval
    from guidance_pack.host.tuning.space import parse_space, set_all

    first = first_of(guided)
    space = parse_space("cfg end\ncfg start\nautoguidance 1 start: 0.1 .. 0.4", first)
    made = set_all(first, space, {"cfg start": 0.3, "cfg end": 0.6, "autoguidance 1 start": 0.2})
    assert [rule.schedule for rule in made.rules] == [Interval(0.3, 0.6), Interval(0.2, 1.0)]


def test_a_recipe_gives_another_model_the_same_settings(tiny, guided):
    from guidance_pack.host.engine.plan import plan_of
    from guidance_pack.host.tuning.recipes import apply_recipe, parse_recipe, recipe_of

    text = recipe_of(first_of(guided)).text()
    other = apply_recipe(chained(*tiny, cfg=7.0, auto=3.0, start=0.2, end=0.4), parse_recipe(text)).model
    assert plan_of(other).guidance == plan_of(guided).guidance


def test_a_recipe_adds_what_needs_no_network_and_says_the_rest(tiny, guided):
    from guidance_pack.host.engine.plan import plan_of
    from guidance_pack.host.tuning.recipes import apply_recipe, parse_recipe

    def read(*components):
        return parse_recipe(json.dumps({"format": "guidance-components/recipe/1", "components": components}))

    made = apply_recipe(tiny[0], read({"kind": "cfg", "weight": 3}, {"kind": "rescale", "phi": 0.0}))
    assert [(rule.name, rule.weight) for rule in plan_of(made.model).guidance.rules] == [("cfg", 3.0)]
    assert "Added to the MODEL: cfg." in made.words
    made = apply_recipe(guided, read({"kind": "cfg", "weight": 3}))
    assert "left as they are: autoguidance" in made.words
    for wrong, words in (
        ({"kind": "autoguidance", "weight": 2}, "MODEL carries no autoguidance"), ({"kind": "cgf"}, "did you mean cfg"),
        ({"kind": "cfg", "wieght": 2}, "A number of the recipe's cfg"), ({"kind": "cfg", "weight": 900}, "0 to 100"),
        ({"kind": "rescale", "phi": None}, "has no phi"),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=words):
            apply_recipe(tiny[0], read(wrong))


def test_load_recipe_gives_the_samplers_numbers_and_marks_the_pictures(tiny):
    from guidance_pack.nodes.tuning import GuidanceLoadRecipe

    text = json.dumps({"_class_name": "ClassifierFreeGuidance", "guidance_scale": 3.0, "start": 0.2})
    model, cfg, steps, words = GuidanceLoadRecipe.execute(model=tiny[0], recipe=text).result
    assert (cfg, steps) == (1.0, 20) and "start 0.2 is not carried over" in words
    assert GuidanceLoadRecipe.validate_inputs(recipe='{"format": 1}') is not True


def test_the_node_gives_all_that_it_promises(guided, guide, monkeypatch, tmp_path):
    import folder_paths

    from guidance_pack.nodes.tuning import GuidanceTune

    monkeypatch.setattr(folder_paths, "get_output_directory", lambda: str(tmp_path))
    over = scene(guided)
    with torch.inference_mode():
        model, recipe, report, plot, strip = GuidanceTune.execute(
            model=guided, positive=over.positive, negative=over.negative, latent_image=over.latent, vae=over.vae,
            guide=guide, guides={"guide_2": guide}, label=LABEL, text="", vary="cfg weight: 1 .. 4", budget=45, seeds=2,
            new_seeds=2, study="mine", seed=5, steps=1, cfg=1.0, sampler_name="euler", scheduler="karras", denoise=1.0,
            saturation=1.5, contrast=0.0, clipping=0.1, variety=0.7, cell_size=32, minutes=0.0,
        ).result  # fmt: skip
    assert json.loads(recipe)["components"][0]["kind"] == "cfg" and "| as it came |" in report
    assert plot.shape[2] == 960 and strip.ndim == 4 and (tmp_path / "guidance" / "studies" / "mine.log").is_file()


def test_what_is_missing_is_said_in_words(guided, guide, monkeypatch):
    import sys

    from guidance_pack.host.tuning.task import Aim, _judges, open_study, study_problem

    asked = problem(guided, guide)
    monkeypatch.delitem(sys.modules, "guidance_pack.host.tuning.study", raising=False)
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(ValueError, match="pip install"):
        open_study(asked, None)
    assert "output/guidance/studies" in study_problem("../mine") and study_problem("sqlite:///x.db") is None
    with pytest.raises(ValueError, match="label has 2 lines, and 3 prompts"):
        _judges(Aim((guide,), "star\nmoon"), 3, 4)
    with pytest.raises(ValueError, match="label is empty"):
        _judges(Aim((guide,)), 1, 4)[0].values(torch.rand(1, 16, 16, 3), 0)


def test_a_judge_that_tells_nothing_apart_gives_no_winner(guided, guide, runs, monkeypatch):
    from dataclasses import replace

    from guidance_pack.host.tuning.problem import Problem
    from guidance_pack.host.tuning.words import verdict

    drawn, run = torch.Generator().manual_seed(0), Problem.run

    def by_chance(self, *args):
        reading, pictures = run(self, *args)
        return replace(reading, values=(tuple(torch.rand(2, generator=drawn).tolist()),)), pictures

    monkeypatch.setattr(Problem, "run", by_chance)
    asked = problem(guided, guide, budget=100)
    found = tuned(asked, study_of(asked))
    assert not found.told_apart and found.chosen is asked.first and not found.won
    assert "cannot tell the settings apart" in verdict(found, ["judge"])


def test_agreement_is_the_judges_own_number(comfy, guide):
    from world import render

    from guidance_pack.host.compare.score import Wanted, agreement, score

    made = render(6, seed=7)
    images = (made.images.movedim(1, -1) + 1) / 2
    label = ", ".join(LABELS[index] for index in made.labels)
    chances = agreement(images, guide, Wanted(label))
    assert chances.shape == (6,) and score(images, guide, label, None).right == tuple((chances > 0.5).tolist())


def test_a_recipe_is_written_into_the_pictures_made_with_it(server):
    import io

    from PIL import Image

    from devtools import gallery

    def node(kind, **inputs):
        return {"class_type": kind, "inputs": inputs, "_meta": {"title": kind}}

    recipe = {"format": "guidance-components/recipe/1", "components": [{"kind": "cfg", "weight": 2.0}]}
    prompt = {
        "1": node("GuidanceTinyModel", name="shapes-edm"),
        "2": node("GuidanceClassLabel", model=["1", 0], label="star"),
        "3": node("GuidanceLoadRecipe", model=["1", 0], recipe=json.dumps(recipe)),
        "4": node("EmptyLatentImage", width=16, height=16, batch_size=1),
        "5": node("KSampler", model=["3", 0], positive=["2", 0], negative=["2", 0], latent_image=["4", 0], seed=1,
                  steps=["3", 2], cfg=["3", 1], sampler_name="euler", scheduler="karras", denoise=1.0),
        "6": node("VAEDecode", samples=["5", 0], vae=["1", 1]),
        "7": node("SaveImage", images=["6", 0], filename_prefix="recipe"),
    }  # fmt: skip
    body = {"prompt": prompt, "extra_data": {"extra_pnginfo": {"workflow": {"nodes": []}}}}
    status, answer = server.post("/prompt", body)
    assert status == 200, answer
    (image,) = gallery.wait_for(server, answer["prompt_id"], prompt, "recipe")["7"]["images"]
    written = Image.open(io.BytesIO(gallery.fetch_picture(server, image))).info
    assert json.loads(written["guidance_recipe"])["components"] == recipe["components"]


def test_settings_that_were_stopped_early_count_where_settings_are_told_apart(guided, guide, runs):
    """The few that reach the last seed are alike: they were chosen so."""
    from guidance_pack.guidance.tuning.evidence import tells_apart
    from guidance_pack.host.tuning.result import tables_of

    asked = problem(guided, guide, budget=140)
    found = tuned(asked, study_of(asked))
    tables = tables_of([found.first, *found.candidates])
    assert [len(table[0]) for table in tables] == [2, 4] and len(tables[0]) == 1 + len(found.candidates)
    assert found.told_apart and tells_apart(tables[0])
