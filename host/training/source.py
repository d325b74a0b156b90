"""What Make Pictures draws with and Train Guidance learns for: a MODEL, its prompts and its VAE, checked beforehand."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import comfy.sd
import torch
from comfy.model_patcher import ModelPatcher

from ..common.compatibility import describe
from ..common.decoders import is_pixels, latents_of
from ..common.labels import LABELS_KEY, class_conditioning, unconditional
from ..models.adm import LOW_RES_KEY
from ..models.tiny import pixel_vae
from ..report.identity import digest, facts_of_model, sample_of
from ..report.report import report

DEALT = (LABELS_KEY, LOW_RES_KEY, "pooled_output")  # entries of a CONDITIONING that may hold one row per picture


@dataclass(frozen=True, eq=False)
class PictureSource:
    """Attributes:
    shape: of one picture's latent, [C, h, w].
    facts: what decides the pictures, as far as it is known, for the manifest.
    """

    model: ModelPatcher
    positive: list
    negative: list
    vae: comfy.sd.VAE
    shape: tuple[int, int, int]
    facts: dict[str, Any]

    @classmethod
    def of(
        cls, model: ModelPatcher, positive: list | None, negative: list | None, vae: comfy.sd.VAE | None,
        size: tuple[int, int], sigmas: torch.Tensor, cfg: float,
    ) -> PictureSource:
        """size: height and width in pixels. Raises ValueError where the parts do not go together, in words."""
        shape = _shape(model, size)
        prompts = _prompts(model, positive, negative, sigmas.cpu(), cfg)
        found = vae_of(model, vae)
        facts = facts_of_model(model) | {"positive": digest(prompts[0]), "negative": digest(prompts[1])}
        facts["vae"] = vae_facts(found)
        return cls(model, *prompts, found, shape, facts)


def vae_facts(vae: comfy.sd.VAE) -> str:
    """Which VAE it is, in a word."""
    decoder = vae.first_stage_model
    numbers = digest(sample_of(decoder)) if isinstance(decoder, torch.nn.Module) else "without numbers"
    return f"{type(decoder).__name__} {numbers}"


def deal(conditioning: list, indices: Sequence[int]) -> list:
    """A CONDITIONING that holds several rows (such as classes) for the pictures of these numbers, dealt in turn."""

    def rows(value: Any) -> Any:
        several = isinstance(value, torch.Tensor) and value.ndim > 0 and len(value) > 1
        return value[[index % len(value) for index in indices]] if several else value

    return [
        [rows(cond), {key: rows(value) if key in DEALT else value for key, value in more.items()}]
        for cond, more in conditioning
    ]


def _shape(model: ModelPatcher, size: tuple[int, int]) -> tuple[int, int, int]:
    latents = latents_of(model)
    if latents.latent_dimensions != 2:
        kind = "in a row, as of sound or shapes" if latents.latent_dimensions == 1 else "with a time axis, as of videos"
        raise ValueError(f"{describe(model)} works on latents {kind}; this node needs a model of single pictures.")
    ratio = latents.spacial_downscale_ratio
    for side, value in zip(("height", "width"), size, strict=True):
        if value % ratio:
            raise ValueError(
                f"{side} is {value}; with {describe(model)} it must be a multiple of {ratio}, such as "
                f"{max(ratio, value // ratio * ratio)}."
            )
    return latents.latent_channels, size[0] // ratio, size[1] // ratio


def _prompts(
    model: ModelPatcher, positive: list | None, negative: list | None, sigmas: torch.Tensor, cfg: float
) -> tuple[list, list]:
    if unconditional(model):
        nothing = class_conditioning(model, "")
        return positive or nothing, negative or nothing
    if not positive:
        raise ValueError(
            f"positive is not connected, and {describe(model)} is no model of classes that could do without. For "
            f"unconditional pictures of a text-to-image model connect CLIP Text Encode with an empty text."
        )
    if not negative and max(report(model, sigmas, cfg).main_evaluations) > 1:
        raise ValueError(
            f"negative is not connected, and guidance away from it is asked for (cfg is {cfg:g}). Connect a negative, "
            f"or set cfg to 1 and take CFG Combine out of the MODEL."
        )
    return positive, negative or positive


def vae_of(model: ModelPatcher, vae: comfy.sd.VAE | None) -> comfy.sd.VAE:
    """The VAE that makes pictures of the MODEL's latents. Raises ValueError for none or another's, in words."""
    latents = latents_of(model)
    if is_pixels(latents):
        return pixel_vae()
    if vae is None:
        raise ValueError(f"{describe(model)} works on latents: connect the VAE that belongs to it to vae (Load VAE).")
    vae.throw_exception_if_invalid()
    if vae.latent_channels != latents.latent_channels:
        raise ValueError(
            f"This VAE decodes latents of {vae.latent_channels} channels, and {describe(model)} makes "
            f"{latents.latent_channels}. Connect the VAE that belongs to the model."
        )
    return vae
