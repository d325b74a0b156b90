"""Tune Guidance as its node and its command ask for it: texts and wires in, a MODEL, a recipe and pictures out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import comfy.utils
import folder_paths
import torch
from comfy.model_patcher import ModelPatcher

from ...guidance.tuning.guards import Limits
from ...guidance.tuning.recipe import Recipe
from ...guidance.tuning.sets import MEASURES, measures_in
from ..common.places import name_problem
from ..common.remarks import remark
from ..compare.compare import Scene, with_settings
from ..compare.score import Wanted
from ..compare.settings import Settings, settings_on, socket
from ..engine.plan import plan_of
from ..models.guides import LoadedGuide
from ..training.dataset import PictureFolder
from .judges import Judge, SetJudge
from .plot import draw_rows, draw_tuning
from .problem import MOST_GOALS, Effort, Problem
from .recipes import recipe_of
from .result import Tuned
from .space import parse_space
from .tune import tune
from .words import tuned_words, verdict

if TYPE_CHECKING:
    from .study import Study

STUDIES = "guidance/studies"  # inside ComfyUI's output folder
ADDRESS = "://"  # of a database
OPTUNA = "optuna>=5,<6"
NONE = "none"
MEASURE_CHOICES = [NONE, *MEASURES, "frechet and recall"]


@dataclass(frozen=True, eq=False)
class Aim:
    """What is wanted, as the widgets have it: guides that judge, a line of label or text for each prompt (one for all),
    and a target picture.

    measure: of `MEASURE_CHOICES`; how the first guide compares sets with the folder, instead of judging each picture.
    """

    guides: tuple[LoadedGuide, ...]
    label: str = ""
    text: str = ""
    target: torch.Tensor | None = None
    pictures: PictureFolder | None = None
    measure: str = NONE


@dataclass(frozen=True, eq=False)
class TuningResult:
    """What the node gives. plot and strip are IMAGEs [1, H, W, 3]; words: the verdict alone."""

    model: ModelPatcher
    recipe: str
    report: str
    plot: torch.Tensor
    strip: torch.Tensor
    words: str


def tune_guidance(
    scenes: Sequence[Scene], first: Settings, vary: str, aim: Aim, limits: Limits, effort: Effort, study: str, size: int
) -> TuningResult:
    """Search, check, and show. first: the sampler's settings; its rules come from the MODEL. study: a name or address.

    Raises:
        ValueError: Optuna is not installed, or something cannot be searched or judged, in words, before anything is
            drawn where that can be told.
    """
    models = scenes[0].models
    first, *others = (settings_on(first, model, index) for index, model in enumerate(models))
    made = min(effort.seeds, effort.checks) * scenes[0].latent["samples"].shape[0]
    judges = _judges(aim, len(scenes), made)
    problem = Problem(tuple(scenes), first, parse_space(vary, first, tuple(others)), judges, limits, effort)
    found = tune(problem, open_study(problem, study), _Watch(effort.budget))
    recipe = made_recipe(found, problem)
    return TuningResult(
        with_settings(models[found.chosen.model], found.chosen), recipe.text(), tuned_words(found, problem),
        draw_tuning(found, problem), draw_rows(found, size), verdict(found, [judge.name for judge in judges]),
    )


def made_recipe(tuned: Tuned, problem: Problem) -> Recipe:
    """The settings to use, and where they come from."""
    made: dict[str, Any] = {
        "by": "Tune Guidance", "judges": [judge.name for judge in problem.judges],
        "varied": [dimension.words() for dimension in problem.space], "evaluations": tuned.spent,
        "result": "winner" if tuned.won else "as the MODEL came",
    }  # fmt: skip
    if tuned.check is not None:
        made["probability better"] = [round(chance, 4) for chance in tuned.check.chances]
        made["new seeds"] = tuned.check.runs
    if len(problem.models) > 1:
        made["model"] = socket(tuned.chosen.model)
    came = plan_of(problem.models[tuned.chosen.model]).guidance.rules
    return recipe_of(tuned.chosen, made, came)


def open_study(problem: Problem, study: str | None) -> Study:
    """The study of a problem: in a file of this name, in a database at this address, or None for in memory.

    Raises:
        ValueError: Optuna is not installed, or the place cannot be used, in words.
    """
    try:
        from .study import Study
    except ModuleNotFoundError as error:
        if error.name not in ("optuna", "sqlalchemy"):
            raise
        raise ValueError(
            "Tune Guidance searches with Optuna, which is not installed. Install it into ComfyUI's Python, python -m "
            f'pip install "{OPTUNA}", and start ComfyUI again.'
        ) from None
    return Study(_place(study), problem.fingerprint(), len(problem.judges), problem.first.seed % 2**32)


def study_problem(study: str | None) -> str | None:
    """What is wrong with the name of a study, in words; None if nothing is that can be told without opening it."""
    if study is None or ADDRESS in study:
        return None
    problem = name_problem(study, "portraits", f"ComfyUI's output/{STUDIES}", ".log")
    return problem and problem.replace("name is", "study is", 1)


def _place(study: str | None) -> Path | str | None:
    problem = study_problem(study)
    if problem:
        raise ValueError(problem)
    if study is None or ADDRESS in study:
        return study
    return Path(folder_paths.get_output_directory()) / STUDIES / f"{study}.log"


def _judges(aim: Aim, prompts: int, made: int) -> tuple[Judge | SetJudge, ...]:
    """made: pictures of a setting, in the search or in the check."""
    of_sets = _set_judges(aim, made)
    others = aim.guides[bool(of_sets) :]
    if len(of_sets) + len(others) > MOST_GOALS:
        raise ValueError(f"{len(of_sets) + len(others)} judges are asked for; at most {MOST_GOALS} can judge together.")
    labels, texts = (_lines(name, getattr(aim, name), prompts) for name in ("label", "text"))
    count = max(len(labels), len(texts))
    wanted = tuple(
        Wanted(labels[at % len(labels)], aim.target, texts[at % len(texts)]) for at in range(count)
    )
    return (*of_sets, *(Judge(guide, wanted) for guide in others))


def _set_judges(aim: Aim, made: int) -> tuple[SetJudge, ...]:
    """Of the first guide, where sets are to be compared with the user's pictures."""
    if (aim.pictures is None) != (aim.measure == NONE):
        came = "pictures is not connected" if aim.pictures is None else "pictures is connected"
        raise ValueError(
            f"set_measure is {aim.measure}, and {came}. To compare with a folder of your own pictures connect Load "
            f"Pictures and choose a measure; to have each picture judged by itself leave both."
        )
    if aim.pictures is None:
        return ()
    return tuple(SetJudge(aim.guides[0], aim.pictures, measure, made) for measure in measures_in(aim.measure))


def _lines(name: str, text: str, prompts: int) -> list[str]:
    """One for all prompts, or one for each."""
    lines = [line.strip() for line in text.splitlines() if line.strip()] or [""]
    if len(lines) not in (1, prompts):
        raise ValueError(
            f"{name} has {len(lines)} lines, and {prompts} prompts are connected. Write one line for all of them, or "
            f"one for each, positive first."
        )
    return lines


class _Watch:
    """Progress over the budget, and a line of words on the node."""

    def __init__(self, budget: int):
        self.bar = comfy.utils.ProgressBar(budget)

    def __call__(self, words: str, spent: int, budget: int) -> None:
        self.bar.update_absolute(min(spent, budget))
        remark(f"{words}: {spent} of {budget} evaluations")
