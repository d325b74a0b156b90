"""Pictures steered by experts that are still being trained, to see how they do."""

from __future__ import annotations

import copy
from dataclasses import replace

import comfy.sample
import torch
from comfy.model_patcher import ModelPatcher

from ...guidance.experts.bank import ExpertBank, adapter_names, own_tensors
from ...guidance.guide import Guide
from ...guidance.noise_schedule import noise_schedule
from ...guidance.routing import Experts
from ...guidance.rules.gradient import GradientGuidance
from ...guidance.training.experts import ExpertsTraining
from ..common.compatibility import describe
from ..common.decoders import LINEAR, is_pixels, latents_of
from ..common.labels import class_conditioning
from ..common.unloading import unload_everything
from ..engine.steer import AUTO, steer_to_class, steer_to_target
from ..engine.targets import REFERENCE
from ..models.guides import LoadedGuide, manage
from .pictures import PictureFolder

SHOWN, STEPS, SEED = 8, 12, 0
LOSSES = {"depth": "depth", "segmentation": "segmentation", "embedding": "embedding", "score": "score"}


def check_preview(model: ModelPatcher) -> None:
    """Raise ValueError if there can be no preview with this MODEL, in words, before the training starts."""
    if not is_pixels(latents_of(model)):
        raise ValueError(
            f"{describe(model)} works on latents; the preview needs a model that works on pictures (the tiny model, "
            f"ADM). Connect the model's VAE to vae to train experts that look at its latents, or disconnect model: "
            f"experts that look at pictures do not need it."
        )


def guided_pictures(
    model: ModelPatcher, training: ExpertsTraining, pictures: PictureFolder, scale: float
) -> torch.Tensor:
    """A row of pictures as an IMAGE [1, H, W, 3]: one for each of the first classes, or for each of the first pictures.

    The latest expert stands in for those that are still to come.
    """
    with torch.inference_mode():
        steered = _steer(model, _guide(training), pictures, scale)
        latent = torch.zeros(SHOWN, 3, *pictures.size)
        noise = comfy.sample.prepare_noise(latent, SEED)
        nothing = class_conditioning(model, "")
        samples = comfy.sample.sample(
            steered, noise, STEPS, 1.0, "euler", "karras", nothing, nothing, latent, disable_pbar=True, seed=SEED
        )
    unload_everything()
    row = torch.cat(list(samples.clone().float().clamp(-1, 1).cpu()), dim=2)
    return ((row + 1) / 2).movedim(0, -1)[None]


def experts_so_far(training: ExpertsTraining) -> ExpertBank:
    """As many as there are to be, over a copy of what they began as; the latest stands in for those to come."""
    with torch.inference_mode(False):
        mine = training.adapters if training.done else [*training.adapters, training.student.adapter()]
        adapters = [*mine, *[mine[-1]] * (training.recipe.experts - len(mine))]
        base = copy.deepcopy(training.base)
        return ExpertBank(base, adapters, own_tensors(base, adapter_names(adapters))).eval()


def _guide(training: ExpertsTraining) -> LoadedGuide:
    """The experts so far as a guide."""
    bank = experts_so_far(training)
    member = replace(training.spec, sees="noisy", schedule=noise_schedule(training.recipe.schedule))
    experts = Experts(tuple(edge**-0.5 for edge in training.recipe.edges))
    return LoadedGuide(Guide((member,) * training.recipe.experts, experts), (manage(bank),))


def _steer(model: ModelPatcher, guide: LoadedGuide, pictures: PictureFolder, scale: float) -> ModelPatcher:
    rule = GradientGuidance(scale)
    where = {"at": AUTO, "decoder": LINEAR, "vae": None}
    if guide.guide.first.task == "classification":
        classes = range(min(SHOWN, len(guide.guide.first.labels)))
        return steer_to_class(model, guide, ", ".join(map(str, classes)), rule, **where)
    first, _ = pictures.batch(torch.arange(min(SHOWN, len(pictures))))
    images = ((first + 1) / 2).movedim(1, -1)
    wanted = {"images": images, "kind": REFERENCE, "text": "", "cutouts": 0, "seed": SEED}
    return steer_to_target(model, LOSSES[guide.guide.first.task], guide, wanted, rule, **where)
