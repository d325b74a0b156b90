"""What the host's memory manager is told that a run needs at once, beside the main model's own forward pass.

The host asks everything that conditioning brings along how much memory its evaluations need (comfy/sampler_helpers.py,
get_additional_models), so what guides and gradients need is said in its place there. The factors are measured on
networks in their real sizes: what their backward keeps, counted at the tensors that autograd saves.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import comfy.model_management
import comfy.sampler_helpers
from comfy.latent_formats import LatentFormat
from comfy.model_patcher import ModelPatcher

from ..common.decoders import VAE, latents_of, size_of
from .gradients import THROUGH, Gradients
from .plan import GradientRequest

DENOISER = 16  # x the host's estimate of one forward; 3 to 18 without, 9 to 30 with memory-efficient attention
DECODER = 3  # x the host's estimate of a decoding; 2.6 for the KL autoencoder
VALUES = 4096  # kept for each pixel of a guide's input; 400 (ResNet-50) to 1,300 (DINOv2-L), more in ADM's classifiers


@dataclass(frozen=True)
class Reserve:
    """Stands among the ControlNets of a conditioning and says how many bytes else are needed."""

    size: int

    def get_models(self) -> list:
        return []

    def inference_memory_requirements(self, dtype) -> int:
        return self.size


def reserve_for(
    model: ModelPatcher, shape: tuple[int, ...], conds: dict, guides: list[ModelPatcher], gradients: Gradients | None
) -> dict[str, list[dict[str, Any]]]:
    """Conditioning that makes the host reserve what a run over latents of this shape needs beyond its own estimate.

    Nothing where that estimate is enough. A guide, the main model and a gradient take turns.
    """
    _, own = comfy.sampler_helpers.estimate_memory(model, shape, conds)
    needs = [comfy.sampler_helpers.estimate_memory(guide, shape, conds)[1] for guide in guides]
    if gradients is not None:
        latents = latents_of(model)
        needs += [_gradient(gradients, request, own, latents, shape) for request in gradients.requests.values()]
    missing = math.ceil(max(needs, default=0) - own)
    # Clones on other devices each ask a ControlNet for a copy, which this is none.
    if missing <= 0 or model.get_additional_models_with_key("multigpu"):
        return {}
    return {"guidance memory": [{"control": Reserve(missing)}]}


def is_short(model: ModelPatcher, shape: tuple[int, ...], conds: dict, gradients: Gradients) -> bool:
    """Whether a gradient through the denoiser does not fit beside the networks, which are loaded by now, as it is."""
    if not gradients.through:
        return False
    _, own = comfy.sampler_helpers.estimate_memory(model, shape, conds)
    return own * DENOISER > comfy.model_management.get_free_memory(model.load_device)


def _gradient(
    gradients: Gradients, request: GradientRequest, own: float, latents: LatentFormat, shape: tuple[int, ...]
) -> float:
    """Bytes of one gradient: all that it passes through is kept until its backward. own: of one forward."""
    pictures = shape[0] * (shape[2] if len(shape) == 5 else 1)
    total = own * DENOISER if request.objective.at == THROUGH else 0.0
    if request.decoder.kind == VAE and request.decoder.source is not None:
        flat = request.decoder.flat
        one = (1, shape[1], *shape[-2:]) if flat else (1, *shape[1:])  # the host's estimate is of one picture or video
        decoding = request.decoder.source.memory_used_decode(one, request.decoder.dtype)
        total += DECODER * decoding * (pictures if flat else shape[0])
    for patcher in gradients.guide(request)[:1]:  # members take turns
        size = comfy.model_management.dtype_size(next(patcher.model.parameters()).dtype)
        total += VALUES * size * pictures * _pixels(request, latents, shape)
    return total


def _pixels(request: GradientRequest, latents: LatentFormat, shape: tuple[int, ...]) -> int:
    """How many pixels a guide looks at for one picture or frame."""
    guide, cutouts = request.objective.guide, request.objective.cutouts
    if cutouts is not None:
        return cutouts.count * cutouts.size**2
    if guide is None or guide.first.domain == "latent":
        return math.prod(shape[-2:])
    return math.prod(guide.first.preprocessing.input_size(*size_of(latents, shape)))
