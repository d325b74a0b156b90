"""Train Experts: from its widgets to a recipe, the training with its checkpoint, the live curve, and the bank."""

from __future__ import annotations

import json
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from time import monotonic
from typing import Any

import comfy.model_management
import comfy.utils
import folder_paths
import torch
from comfy.model_patcher import ModelPatcher
from PIL import Image

from ...guidance.checkpoints.guide_source import GuideSource
from ...guidance.experts.file import BankFile
from ...guidance.guide import GuideSpec
from ...guidance.training.checkpoint import STRETCHES, TrainingFiles, facts_of, kept_curves, loss_curves
from ...guidance.training.distillation import KINDS as _KINDS
from ...guidance.training.experts import ExpertReport, ExpertsTraining, Work
from ...guidance.training.lora_targets import Adaptation
from ...guidance.training.recipe import PRECISIONS as _PRECISIONS
from ...guidance.training.recipe import WEIGHTINGS as _WEIGHTINGS
from ...guidance.training.recipe import ExpertRecipe
from ..common.unfinished import show_unfinished
from ..common.unloading import unload_everything
from ..models.expert_switch import ADM
from ..models.guides import FOLDER, LoadedGuide, bank_name_problem, bank_path, build, load_bank, source_of
from ..report.plot import draw_losses
from .dataset import PictureFolder, training_pictures
from .keeping import kept
from .latents import LatentLessons, LatentSpace, device_network
from .preview import check_preview, guided_pictures
from .readings import Readings

KINDS: list[str] = [*_KINDS]
PRECISIONS: list[str] = [*_PRECISIONS]
WEIGHTINGS: list[str] = [*_WEIGHTINGS]
CURVE_SECONDS = 2.0
OnStep = Callable[[ExpertsTraining, ExpertReport], None]


@dataclass(frozen=True)
class Request:
    """What is to be trained.

    Attributes:
        guide: a clean one, as Load Guide gives it; it is loaded anew and so stays as it is.
        name: of the bank's file in models/guides, without its ending.
        workflow: what the file keeps of the page, see `page_of`.
        model, vae: with both, experts that look at the model's noisy latents are trained.
    """

    guide: LoadedGuide
    pictures: PictureFolder
    name: str
    recipe: ExpertRecipe
    workflow: dict[str, str] = field(default_factory=dict)
    model: ModelPatcher | None = None
    vae: Any = None


@dataclass(frozen=True)
class Trained:
    """The bank as a guide, where it lies, and the loss curve of each expert."""

    guide: LoadedGuide
    path: Path
    curves: list[list[float]]


def train_experts(request: Request, watch: OnStep) -> Trained:
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
    source = source_of(request.guide.guide.name)
    sha256 = request.pictures.take_sha256(comfy.model_management.throw_exception_if_processing_interrupted)
    space = None
    if request.vae is not None:
        space = LatentSpace.of(request.model, request.vae, request.guide.guide.first)
        request = replace(request, recipe=_of_heads(request.recipe))
    more = space.facts if space else {}
    facts = facts_of(source, request.recipe.as_dict(), sha256, len(request.pictures), **more)
    files = TrainingFiles(bank_path(request.name), _waiting_path(request.name), facts, f"in models/{FOLDER}")
    bank = files.finished()
    if bank is None:
        with files.reserved():
            # Another process may have been faster.
            bank = files.finished() or _train(request, source, space, files, watch)
    return Trained(load_bank(bank), files.final, kept_curves(bank))


def _of_heads(recipe: ExpertRecipe) -> ExpertRecipe:
    """Heads are trained whole, and a VAE's latents of a mirrored picture are no mirrored latents."""
    return replace(recipe, flip=False, adaptation=replace(recipe.adaptation, efficient=False))


def _train(
    request: Request, source: GuideSource, space: LatentSpace | None, files: TrainingFiles, watch: OnStep
) -> BankFile:
    """Take the steps that are left and write the bank."""
    with torch.inference_mode(False), torch.enable_grad():
        network, spec = build(source)
        pictures = training_pictures(request.pictures, spec, request.recipe.learn_from)
        if space is None:
            training = _training(network, spec, request.recipe)
        else:
            unload_everything()
            teacher = None if request.recipe.learn_from == "labels" else device_network(network)
            pictures = LatentLessons(space, pictures, teacher, spec)
            training = _training(pictures.head(request.recipe), space.spec(spec), request.recipe, taught=True)
        files.resume(training)
        files.require_disk(training)
        with kept(training, files) as keep, _enough_memory(training):
            for report in training.steps(pictures, len(request.pictures)):
                watch(training, report)
                comfy.model_management.throw_exception_if_processing_interrupted()
                keep()
            return files.finish(training, request.workflow)


def _training(
    network: torch.nn.Module, spec: GuideSpec, recipe: ExpertRecipe, taught: bool = False
) -> ExpertsTraining:
    """On the device, which everything else has left."""
    device = comfy.model_management.get_torch_device()
    unload_everything()
    comfy.model_management.soft_empty_cache()
    return ExpertsTraining(network.to(device), spec, recipe, device, taught=taught)


def _waiting_path(name: str) -> Path:
    return Path(folder_paths.get_output_directory()) / "guidance" / "unfinished experts" / f"{name}.safetensors"


@contextmanager
def _enough_memory(training: ExpertsTraining) -> Generator[None]:
    """Say what the memory was too little for: what is to be made smaller depends on it."""
    try:
        yield
    except torch.OutOfMemoryError as error:
        what, instead = _TOO_LITTLE_FOR[training.work]
        raise RuntimeError(
            f"There is not enough memory for {what}, after {len(training.losses)} steps. Run it again when other "
            f"programs and models have left the memory: it goes on from the last step that is saved. If it never fits, "
            f"train under another name, which begins anew, with {instead}."
        ) from error


_TOO_LITTLE_FOR: dict[Work, tuple[str, str]] = {
    "a batch": (
        "one batch of this training",
        "a smaller batch_size and more accumulate for the same pictures per step, or precision bf16",
    ),
    "the weights": ("the optimiser, which keeps two numbers for every trained one", "a smaller rank, or efficient on"),
    "the next expert": ("the next expert beside the one that is finished", "a smaller rank, or efficient on"),
    "nothing": ("what comes between two steps, such as the preview", "no model connected"),
}


def recipe_of(settings: dict[str, Any]) -> ExpertRecipe:
    """The recipe that the node's widgets describe. Raises ValueError for what cannot be, in words."""
    given = dict(settings)
    adaptation = Adaptation(**{key: given.pop(key) for key in ("efficient", "rank", "alpha", "layers")})
    schedule, batch = given.pop("schedule"), given.pop("batch_size")
    return ExpertRecipe(
        **given, batch=batch, schedule="linear" if schedule == ADM else schedule, adaptation=adaptation
    )


def recipe_problem(name: str | None, experts: int | None, iterations: int | None, rank: int | None) -> str | None:
    """What is wrong with the widgets, in words; None if nothing is, or if a value is linked and not known yet."""
    if name is not None and bank_name_problem(name):
        return bank_name_problem(name)
    try:
        if experts is not None and iterations is not None:
            ExpertRecipe(experts=experts, iterations=iterations)
        if rank is not None:
            Adaptation(rank=rank)
    except ValueError as error:
        return str(error)
    return None


def page_of(workflow: dict | None, prompt: dict | None) -> dict[str, str]:
    """What a bank's file keeps of the page that it was made on, each as JSON; nothing without a page."""
    page = {"workflow": workflow, "prompt": prompt}
    return {key: json.dumps(value, sort_keys=True) for key, value in page.items() if value}


def run(request: Request, model: ModelPatcher | None, scale: float) -> tuple[Trained, torch.Tensor]:
    """Train with progress on the page; the bank, and the curve as an IMAGE [1, H, W, 3].

    model, scale: what the previews are drawn with; none without a model or at 0. Experts of latents show what they
    read instead: what they steer needs a prompt.
    """
    shown = model if scale > 0 else None
    if shown is not None and request.vae is None:
        check_preview(shown)
    watch = _TrainingProgress(request, shown, scale)
    trained = train_experts(request, watch)
    return trained, watch.picture(trained.curves)


class _TrainingProgress:
    """Shows how a training goes: called after every step."""

    def __init__(self, request: Request, model: ModelPatcher | None, scale: float) -> None:
        self.request, self.model, self.scale = request, model, scale
        self.recipe = request.recipe
        self.bar = comfy.utils.ProgressBar(self.recipe.steps * self.recipe.experts)
        self.shown_at = 0.0
        self.readings: Readings | None = None
        self.samples: torch.Tensor | None = None

    def __call__(self, training: ExpertsTraining, report: ExpertReport) -> None:
        done = len(training.losses)
        if report.step == self.recipe.steps and self.model is not None:
            self.samples = self._preview(self.model, training)
            self.shown_at = 0.0
        if monotonic() - self.shown_at < CURVE_SECONDS:
            self.bar.update_absolute(done)
            return
        self.shown_at = monotonic()
        curve = self.picture(loss_curves(training))
        shown = Image.fromarray((curve[0] * 255).round().to(torch.uint8).numpy())
        self.bar.update_absolute(done)
        show_unfinished(shown)

    def _preview(self, model: ModelPatcher, training: ExpertsTraining) -> torch.Tensor:
        request = self.request
        if request.vae is None:
            return guided_pictures(model, training, request.pictures, self.scale)
        if self.readings is None:
            space = LatentSpace.of(model, request.vae, request.guide.guide.first)
            self.readings = Readings.of(request.guide, space, request.pictures)
        return self.readings.draw(training)

    def picture(self, curves: list[list[float]]) -> torch.Tensor:
        """The curves, and below them the last preview."""
        curve = draw_losses(curves, min(STRETCHES, self.recipe.steps))
        if self.samples is None:
            return curve
        below = self.samples.movedim(-1, 1)
        height = round(below.shape[2] * curve.shape[2] / below.shape[3])
        below = torch.nn.functional.interpolate(below, (height, curve.shape[2]), mode="nearest")
        return torch.cat([curve, below.movedim(1, -1)], 1)
