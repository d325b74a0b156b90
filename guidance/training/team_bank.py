"""The bank's file of a finished training: what the node and the command both write."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from ..experts.file import BankFile, BankHeader
from .experts import ExpertsTraining

STRETCHES = 100  # at most so many numbers of each expert's loss curve are kept


def bank_of(
    training: ExpertsTraining, name: str, base_name: str, base_sha256: str, pictures: Mapping[str, Any],
    workflow: Mapping[str, str],
) -> BankFile:
    """The experts with all that is needed to use, judge and repeat them.

    Args:
        name: of the bank, for people.
        base_name, base_sha256: of the clean network, as Load Guide names it, and its `bank_guide.fingerprint`.
        pictures: what the experts learnt from, as JSON: for people alone.
        workflow: the strings "workflow" and "prompt" of ComfyUI; empty where it was not made there.

    Raises:
        ValueError: the training is not finished.
    """
    recipe, spec = training.recipe, training.spec
    if not training.done:
        raise ValueError(
            f"{name} has {len(training.parts)} of {recipe.experts} experts; let the training finish before it is saved."
        )
    header = BankHeader(
        base_name, base_sha256, spec.task, recipe.schedule, recipe.edges, recipe.adaptation.scale, spec.labels,
        spec.preprocessing,
    )
    facts = {
        "recipe": recipe.as_dict(), "loss": loss_curves(training), "pictures": dict(pictures),
        "processes": training.process_group.count, "torch": torch.__version__,
    }
    return BankFile(name, header, tuple(training.parts), facts, dict(workflow))


def loss_curves(training: ExpertsTraining) -> list[list[float]]:
    """For each expert the mean loss of equal stretches of its steps so far, at most 100, in order."""
    steps = training.recipe.steps
    stretches = min(STRETCHES, steps)
    curves = []
    for expert in range(training.recipe.experts):
        losses = torch.tensor(training.losses[expert * steps : (expert + 1) * steps], dtype=torch.float64)
        parts = losses.tensor_split(max(1, len(losses) * stretches // steps))
        curves.append([float(f"{float(part.mean()):.6g}") for part in parts if len(part)])
    return curves
