"""The search for settings without ComfyUI: recipes, guards, how sure a winner is, a study that processes share."""

import json
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
import torch

from guidance_pack.guidance.schedule import Interval
from guidance_pack.guidance.tuning.evidence import probability_better, spreads, student_cdf, tells_apart
from guidance_pack.guidance.tuning.guards import Limits, describe, look_of, measure, thumbnails
from guidance_pack.guidance.tuning.guider_config import is_guider_config, read_guider_config
from guidance_pack.guidance.tuning.recipe import Component, Recipe, parse_object, read_recipe

ROOT = Path(__file__).resolve().parent.parent


@pytest.mark.parametrize(("t", "degrees", "chance"), [(2.570582, 5, 0.975), (-1.812461, 10, 0.05), (0.0, 3, 0.5)])
def test_students_distribution_is_that_of_the_tables(t, degrees, chance):
    assert student_cdf(t, degrees) == pytest.approx(chance, abs=1e-6)


def test_the_probability_that_a_winner_is_better():
    some = [0.1, 0.3, -0.05, 0.2, 0.15]
    assert 0.9 < probability_better(some) < 1.0
    assert probability_better([-value for value in some]) == pytest.approx(1 - probability_better(some))
    assert probability_better([0.0] * 4) == 0.5 and probability_better([0.2] * 4) == 1.0
    assert probability_better([9.0]) == 0.5  # one picture says nothing


def test_settings_are_told_apart_from_their_seeds():
    """A level that all settings share in a picture is no noise; what each has of its own is."""
    made = torch.Generator().manual_seed(3)
    levels, own = torch.randn(12, generator=made), torch.randn(8, 12, generator=made)
    effect = torch.linspace(0, 1, 8)[:, None]
    assert tells_apart((effect + 10 * levels + 0.1 * own).tolist())
    assert not tells_apart((0.1 * effect + 10 * levels + own).tolist())
    four = torch.tensor([[0.0, 1.0, 0.2, 0.9], [0.1, 1.3, 0.1, 1.0]])
    assert not tells_apart(four.tolist()) and tells_apart((four + torch.tensor([[0.0], [9.0]])).tolist())
    spread, chance = spreads((levels + own).tolist())
    assert spread == pytest.approx(chance, rel=0.5) and spreads([[1.0, 2.0]]) == (0.0, 0.0)


def look(pictures):
    return look_of([measure(pictures)], thumbnails(pictures))


def test_guards_tell_what_is_wrong_with_pictures():
    unguided = 0.4 + 0.2 * torch.rand(6, 16, 16, 3, generator=torch.Generator().manual_seed(1))
    told = {
        "": unguided,
        "too much saturation": unguided + torch.tensor([0.2, 0.0, -0.2]),
        "too much contrast": (unguided - 0.5) * torch.tensor([1.7]) + 0.5,
        "too much clipping": torch.where(unguided[..., :1] < 0.45, 0.0, unguided),
        "too little variety": unguided[:1].expand(6, -1, -1, -1),
    }
    for words, pictures in told.items():
        assert words in describe(Limits().excess(look(pictures), look(unguided))), words
    assert describe(Limits().excess(look(unguided), look(unguided))) == ""
    none = Limits(0.0, 0.0, 0.0, 0.0)
    assert not any(none.excess(look(pictures), look(unguided)) for pictures in told.values())


def test_a_recipe_is_read_as_it_was_written():
    made = Recipe(
        (Component("cfg", {"weight": 2.5}, Interval(0.1, 0.8)), Component("rescale", {"phi": 0.4})),
        {"cfg": 1.0, "steps": 20, "scheduler": "karras"}, {"judges": ["a"]},
    )  # fmt: skip
    assert read_recipe(parse_object(made.text())) == made


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "recipe is empty"), ("{", "is not JSON"), ("[]", "must be a JSON object"),
        ('{"format": "other/1"}', "this pack reads"),
        ({"extra": 1}, "which no recipe has"), ({"components": {}}, "components is a list"),
        ({"components": [{"weight": 2}]}, "needs a kind"),
        ({"components": [{"kind": "cfg", "weight": "2"}]}, "it must be a number"),
        ({"components": [{"kind": "cfg", "interval": [0, 1]}]}, "a start, an end and percent or sigma"),
        ({"components": [{"kind": "cfg", "interval": [0.9, 0.1, "percent"]}]}, "start <= end"),
        ({"sampler": {"model": "x"}}, "it can have cfg"), ({"sampler": {"steps": "20"}}, "it must be a number"),
    ],
)  # fmt: skip
def test_what_is_wrong_with_a_recipe_is_told_in_words(text, words):
    found = text if isinstance(text, str) else json.dumps({"format": "guidance-components/recipe/1", **text})
    with pytest.raises(ValueError, match=words):
        read_recipe(parse_object(found))


def guider(name, **values):
    return read_guider_config({"_class_name": name, "_diffusers_version": "0.36.0", **values})


def test_a_guider_of_diffusers_is_read_where_it_means_the_same():
    plain = guider("ClassifierFreeGuidance", guidance_scale=5.0, guidance_rescale=0.0, start=0.0, stop=1.0)
    assert plain.components == (Component("cfg", {"weight": 5.0}),) and plain.notes == ()
    original = guider("ClassifierFreeGuidance", guidance_scale=5.0, use_original_formulation=True)
    assert original.components[0].numbers == {"weight": 6.0}
    assert guider("ClassifierFreeGuidance", enabled=False).components[0].numbers == {"weight": 1.0}
    auto = guider("AutoGuidance", guidance_scale=2.0, dropout=1.0, auto_guidance_layers=[3])
    assert auto.components[0].kind == "autoguidance" and "Degraded Model" in auto.notes[0]
    apg = guider("AdaptiveProjectedGuidance", guidance_scale=8.0, eta=0.0, start=0.2)
    assert apg.components == (Component("cfg", {"weight": 8.0}),)
    assert [note.split()[0] for note in apg.notes] == ["start", "adaptive_projected_guidance_rescale", "eta"]
    assert is_guider_config({"_class_name": "x"}) and not is_guider_config({"format": "x"})


def test_a_guider_of_another_kind_is_refused_in_words():
    with pytest.raises(ValueError, match="what can be read of diffusers is ClassifierFreeGuidance"):
        guider("MyGuidance")
    with pytest.raises(ValueError, match="it must be a number"):
        guider("ClassifierFreeGuidance", guidance_scale="7")


WORKER = f"""
import sys, time
from importlib.machinery import ModuleSpec
from importlib.util import module_from_spec
from pathlib import Path

spec = ModuleSpec("guidance_pack", None, is_package=True)
spec.submodule_search_locations = [{str(ROOT)!r}]
sys.modules["guidance_pack"] = module_from_spec(spec)
from guidance_pack.host.tuning.reading import BudgetSpent, Reading
from guidance_pack.host.tuning.study import Study

class Line:
    name, low, high, whole, log, choices = "weight", 1.0, 8.0, False, False, ()
    def rounded(self, value):
        return float(f"{{value:.3g}}")

study, budget = Study(Path(sys.argv[1]), "shared", 1, 7), int(sys.argv[2])
print("ready", flush=True)
sys.stdin.readline()
try:
    while True:
        trial, values = study.ask((Line(),))
        for index in range(2):
            study.claim(10, budget)
            time.sleep(0.05)  # a run, so that the processes take turns
            study.keep(f"{{values['weight']:g}}", index, Reading(((-abs(values["weight"] - 3.0),),), (0, 0, 0), (), 10))
            study.claim(0, budget)
            print(trial.number, index, values["weight"], flush=True)
        study.finish(trial, [-abs(values["weight"] - 3.0)], {{}}, whole=True)
except BudgetSpent:
    print("spent", study.spent())
"""


def work(budget, *files):
    """What processes print that work on these studies at the same time, a list of lines for each."""
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    commands = [[sys.executable, "-c", WORKER, str(file), str(budget)] for file in files]
    started = [subprocess.Popen(command, **pipes) for command in commands]
    for process in started:
        assert process.stdout.readline() == "ready\n", process.stderr.read()
    for process in started:
        process.stdin.write("go\n")
        process.stdin.flush()
    found = []
    for process in started:
        out, problems = process.communicate(timeout=60)
        assert process.returncode == 0, problems
        found.append([line.split() for line in out.splitlines()])
    return found


def test_two_processes_share_a_study_without_a_trial_twice(tmp_path):
    *both, alone = work(180, tmp_path / "two.log", tmp_path / "two.log", tmp_path / "one.log")
    runs = [tuple(line) for lines in both for line in lines if line[0] != "spent"]
    assert len(runs) == len(set(runs)) <= 18 and max(Counter(run[:2] for run in runs).values()) == 1
    assert all(int(lines[-1][1]) <= 180 for lines in both)  # the budget is kept together
    assert all(len(lines) > 2 for lines in both)  # both worked
    first = {line[0]: line[2] for line in alone if line[0] != "spent" and int(line[0]) < 8}
    assert {run[0]: run[2] for run in runs if run[0] in first}.items() <= first.items()  # up to their order


def test_the_command_runs_what_the_node_needs_and_no_more():
    from tune import prepare

    from devtools.terminal import DevError

    def node(kind, **inputs):
        return {"class_type": kind, "inputs": inputs}

    prompt = {
        "1": node("GuidanceTinyModel"), "2": node("GuidanceCFG", model=["1", 0]), "5": node("GuidanceLoadGuide"),
        "3": node("GuidanceTune", model=["2", 0], budget=400, **{"guides.guide_2": ["5", 0]}),
        "4": node("SaveImage", images=["3", 4]),
    }  # fmt: skip
    part, tune = prepare(prompt, {"budget": 900})
    assert set(part) == {"1", "2", "3", "5", "tell recipe", "tell report"} and tune == "3"
    assert part["3"]["inputs"]["budget"] == 900 and prompt["3"]["inputs"]["budget"] == 400
    assert part["tell recipe"]["inputs"] == {"source": ["3", 1]}
    with pytest.raises(DevError, match="0 nodes Tune Guidance; it needs one"):
        prepare({"1": node("GuidanceTinyModel")}, {})
