"""Whether the tensors of a stopped training are its state: none missing, none too many, and none that cannot be.

A state is read from a file that may be damaged or somebody else's. Each function gives the end of a sentence, "" where
nothing is wrong.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from ..checkpoints.weights import misfit, number_problem, shapes_of, trained_problem, weight_problem
from ..checkpoints.words import shown
from ..experts.bank import adapter_tensors, adapters_of, problems
from .recipe import ExpertRecipe
from .student import Student

_PART = "expert."


def place_problem(recipe: ExpertRecipe, base: nn.Module, saved: Mapping[str, Tensor]) -> str:
    """What is wrong with how far it says that it is: `at`, `losses` and the experts that are finished."""
    at, losses = saved.get("at"), saved.get("losses")
    if at is None or losses is None or at.dtype != torch.int64 or tuple(at.shape) != (2,):
        return "it does not say how far it is"
    expert, step = at.tolist()
    within = 0 <= expert < recipe.experts and 0 <= step <= recipe.steps
    if not within and (expert, step) != (recipe.experts, 0):
        return f"it is at step {step} of expert {expert + 1}, of {recipe.steps} steps and {recipe.experts} experts"
    count = expert * recipe.steps + step
    if losses.dtype != torch.float64 or tuple(losses.shape) != (count,) or weight_problem(losses):
        return f"it has not the {count} losses of its steps"
    finished = {name: tensor for name, tensor in saved.items() if name.startswith(_PART)}
    return _parts_problem(recipe, base, finished, expert)


def _parts_problem(recipe: ExpertRecipe, base: nn.Module, saved: Mapping[str, Tensor], count: int) -> str:
    try:
        adapters = adapters_of(saved, count, recipe.adaptation.scale)
    except KeyError as error:
        return str(error.args[0])
    unknown = saved.keys() - adapter_tensors(adapters).keys()
    if unknown:
        return f"it has {shown(min(unknown))}, which is of no finished expert"
    if not all(adapter.names() for adapter in adapters):
        return "a finished expert in it is empty"
    for name, tensor in saved.items():
        if problem := trained_problem(name, tensor):
            return f"its tensor {shown(name)} {problem}"
    wrong = problems(base, adapters)
    return f"it {wrong[0]}" if wrong else ""


def student_problem(
    student: Student, optimizer: Mapping[str, Tensor], scaler: Mapping[str, float], saved: Mapping[str, Tensor]
) -> str:
    """What is wrong with the expert that is being trained and with its optimiser.

    Args:
        optimizer: tensors as the optimiser's are at this step, by their names in the state.
        scaler: the numbers of the gradients' scaler.
    """
    wanted = {f"student.{name}": tensor for name, tensor in student.tensors().items()}
    wanted |= optimizer
    wanted |= {f"scaler.{key}": torch.tensor(value) for key, value in scaler.items()}
    found = {name: t for name, t in saved.items() if name not in ("at", "losses") and not name.startswith(_PART)}
    problem = misfit(shapes_of(wanted), shapes_of(found)) or number_problem(found, wanted)
    if problem:
        return problem
    counted = [name for name in found if name.startswith(("optimizer.step.", "optimizer.exp_avg_sq."))]
    negative = [name for name in counted if bool(found[name].lt(0).any())]
    return f"its tensor {shown(negative[0])} is below 0" if negative else ""
