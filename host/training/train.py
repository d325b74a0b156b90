"""Training experts inside ComfyUI: a clean guide and pictures become a bank in models/guides.

Nothing already made is lost: a training that stops, for whatever reason, leaves a file from which the same settings go
on; a finished bank of the same settings is loaded instead of trained again, and one of other settings is left alone.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from time import monotonic
from typing import Any

import comfy.model_management
import folder_paths
import torch

from ...guidance.experts.file import read_bank, write_bank
from ...guidance.guide import GuideSpec
from ...guidance.training.checkpoint import differences, facts_in, facts_of, read_checkpoint, write_checkpoint
from ...guidance.training.experts import ExpertReport, ExpertsTraining
from ...guidance.training.recipe import ExpertRecipe
from ...guidance.training.team_bank import bank_of, loss_curves
from ..models.guides import FOLDER, LoadedGuide, bank_path, built, load_bank, source_of
from .dataset import PictureFolder, training_pictures

SAVE_SECONDS = 120.0
Watch = Callable[[ExpertsTraining, ExpertReport], None]


@dataclass(frozen=True)
class Request:
    """What is to be trained.

    Attributes:
        guide: a clean one, as Load Guide gives it; it is loaded anew and so stays as it is.
        name: of the bank's file in models/guides, without its ending.
        workflow: the page's "workflow" and "prompt" as JSON, kept in the file.
    """

    guide: LoadedGuide
    pictures: PictureFolder
    name: str
    recipe: ExpertRecipe
    workflow: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Trained:
    """The bank as a guide, where it lies, and the loss curve of each expert."""

    guide: LoadedGuide
    path: Path
    curves: list[list[float]]


def train_experts(request: Request, watch: Watch) -> Trained:
    """Train, from where it was stopped, and save. watch: called after every step; it may raise to stop.

    Raises:
        ValueError: a guide, pictures or a name that cannot be used, in words.
        OSError: the bank cannot be written; the training waits to be taken up again.
    """
    if request.guide.guide.sees_noise:
        raise ValueError(
            f"{request.guide.guide.name} sees noise already; connect the clean network that experts are to be made of "
            f"(choose it in Load Guide)."
        )
    path, waiting = bank_path(request.name), _waiting_path(request.name)
    source = source_of(request.guide.guide.name)
    facts = facts_of(source, request.recipe.as_dict(), request.pictures.fingerprint, len(request.pictures))
    if path.exists():
        return _finished(path, facts)
    with torch.inference_mode(False), torch.enable_grad():
        network, spec = built(source)
        training = _training(network, spec, request.recipe)
        lessons = training_pictures(request.pictures, spec, request.recipe.learn_from)
        if waiting.exists():
            training.restore(read_checkpoint(waiting, facts))
        with _kept(training, waiting, facts) as keep, _enough_memory():
            for report in training.steps(lessons, len(request.pictures)):
                watch(training, report)
                comfy.model_management.throw_exception_if_processing_interrupted()
                keep()
            path.parent.mkdir(parents=True, exist_ok=True)
            bank = bank_of(
                training, request.name, source.name, facts["base_sha256"], facts["pictures"], request.workflow
            )
            write_bank(path, bank)
    waiting.unlink(missing_ok=True)
    return Trained(load_bank(path), path, loss_curves(training))


def _training(network: torch.nn.Module, spec: GuideSpec, recipe: ExpertRecipe) -> ExpertsTraining:
    """On the device, which everything else has left."""
    device = comfy.model_management.get_torch_device()
    comfy.model_management.unload_all_models()
    comfy.model_management.soft_empty_cache()
    return ExpertsTraining(network.to(device), spec, recipe, device)


def _finished(path: Path, facts: dict[str, Any]) -> Trained:
    bank = read_bank(path)
    differs = differences(facts, facts_in(bank, facts))
    if differs:
        raise ValueError(
            f"{path.name} is in models/{FOLDER} already and was trained otherwise ({differs}). Choose another name, or "
            f"delete {path}."
        )
    return Trained(load_bank(path), path, bank.training["loss"])


def _waiting_path(name: str) -> Path:
    return Path(folder_paths.get_output_directory()) / "guidance" / "unfinished experts" / f"{name}.safetensors"


@contextmanager
def _kept(training: ExpertsTraining, path: Path, facts: dict[str, Any]) -> Generator[Callable[[], None]]:
    """Saves the training when it is left early, and every so often when the given function is called."""
    last = monotonic()

    def save() -> None:
        write_checkpoint(path, training.tensors(), facts)

    def now_and_then() -> None:
        nonlocal last
        if monotonic() - last > SAVE_SECONDS:
            save()
            last = monotonic()

    finished = False
    try:
        yield now_and_then
        finished = True
    finally:
        if not finished and training.losses:
            save()


@contextmanager
def _enough_memory() -> Generator[None]:
    try:
        yield
    except torch.OutOfMemoryError as error:
        raise RuntimeError(
            "There is not enough memory for this training. Choose a smaller batch_size, with more accumulate for the "
            "same pictures per step, or precision bf16."
        ) from error
