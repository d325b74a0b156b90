"""What Train Experts does with its widgets: recipe, progress, the live curve, and previews of guided pictures."""

from __future__ import annotations

import json
from time import monotonic
from typing import Any

import comfy.utils
import torch
from comfy.model_patcher import ModelPatcher
from PIL import Image

from ...guidance.training.distillation import KINDS as _KINDS
from ...guidance.training.experts import ExpertReport, ExpertsTraining
from ...guidance.training.lora_targets import Adaptation
from ...guidance.training.recipe import PRECISIONS as _PRECISIONS
from ...guidance.training.recipe import WEIGHTINGS as _WEIGHTINGS
from ...guidance.training.recipe import ExpertRecipe
from ...guidance.training.team_bank import STRETCHES, loss_curves
from ..models.expert_switch import ADM
from ..models.guides import LoadedGuide, bank_name_problem
from ..report.plot import draw_losses
from .pictures import PictureFolder
from .preview import check_preview, guided_pictures
from .train import Request, Trained, train_experts

KINDS: list[str] = [*_KINDS]
PRECISIONS: list[str] = [*_PRECISIONS]
WEIGHTINGS: list[str] = [*_WEIGHTINGS]
SCHEDULES = [ADM, "cosine", "stable diffusion"]
CURVE_SECONDS = 2.0
LARGEST_PREVIEW = 512


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


def run(
    guide: LoadedGuide, pictures: PictureFolder, name: str, recipe: ExpertRecipe, workflow: dict | None,
    prompt: dict | None, model: ModelPatcher | None, scale: float,
) -> tuple[Trained, torch.Tensor]:
    """Train with progress on the page; the bank, and the curve as an IMAGE [1, H, W, 3]."""
    page = {"workflow": workflow, "prompt": prompt}
    kept = {key: json.dumps(value, sort_keys=True) for key, value in page.items() if value}
    shown = model if scale > 0 else None
    if shown is not None:
        check_preview(shown)
    watch = _TrainingProgress(recipe, pictures, shown, scale)
    trained = train_experts(Request(guide, pictures, name, recipe, kept), watch)
    return trained, watch.picture(trained.curves)


class _TrainingProgress:
    """Shows how a training goes: called after every step."""

    def __init__(
        self, recipe: ExpertRecipe, pictures: PictureFolder, model: ModelPatcher | None, scale: float
    ) -> None:
        self.recipe, self.pictures, self.model, self.scale = recipe, pictures, model, scale
        self.bar = comfy.utils.ProgressBar(recipe.steps * recipe.experts)
        self.shown_at = 0.0
        self.samples: torch.Tensor | None = None

    def __call__(self, training: ExpertsTraining, report: ExpertReport) -> None:
        done = len(training.losses)
        if report.step == self.recipe.steps and self.model is not None:
            self.samples = guided_pictures(self.model, training, self.pictures, self.scale)
            self.shown_at = 0.0
        if monotonic() - self.shown_at < CURVE_SECONDS:
            self.bar.update_absolute(done)
            return
        self.shown_at = monotonic()
        curve = self.picture(loss_curves(training))
        shown = Image.fromarray((curve[0] * 255).round().to(torch.uint8).numpy())
        self.bar.update_absolute(done, preview=("JPEG", shown, LARGEST_PREVIEW))

    def picture(self, curves: list[list[float]]) -> torch.Tensor:
        """The curves, and below them the last preview."""
        curve = draw_losses(curves, min(STRETCHES, self.recipe.steps))
        if self.samples is None:
            return curve
        below = self.samples.movedim(-1, 1)
        height = round(below.shape[2] * curve.shape[2] / below.shape[3])
        below = torch.nn.functional.interpolate(below, (height, curve.shape[2]), mode="nearest")
        return torch.cat([curve, below.movedim(1, -1)], 1)
