"""Which pairs of MODELs can be main and guide: checked in words before sampling starts."""

from __future__ import annotations

from comfy.ldm.hunyuan3dv2_1.hunyuandit import HunYuanDiTPlain
from comfy.model_patcher import ModelPatcher

from .noise_levels import convertible, same_coordinates


def describe(model: ModelPatcher) -> str:
    """The network in a few words: its class in ComfyUI, its latent format and size."""
    size = model.model_size() / 2**20
    latents = type(model.get_model_object("latent_format")).__name__
    return f"{type(model.model).__name__} ({latents} latents, {size:.0f} MB)"


def check_pair(main: ModelPatcher, guide: ModelPatcher) -> None:
    """Raise ValueError if the guide cannot be evaluated on the main model's noisy input.

    Both must live in the same latent space. Different prediction families (eps, v, EDM, flow) are converted.
    """
    first, second = (m.get_model_object("latent_format") for m in (main, guide))  # a node may have patched another in
    same_space = type(first) is type(second) and first.latent_channels == second.latent_channels
    if not same_space or getattr(first, "scale_factor", None) != getattr(second, "scale_factor", None):
        raise ValueError(
            f"model and guide_model do not share a latent space: model is {describe(main)} with "
            f"{first.latent_channels} channels, guide_model is {describe(guide)} with {second.latent_channels}. "
            f"A guide must be a version of the same model family (the same VAE)."
        )
    sampling = [m.get_model_object("model_sampling") for m in (main, guide)]
    if not same_coordinates(*sampling) and not all(map(convertible, sampling)):
        names = [m.model.model_type.name for m in (main, guide)]
        raise ValueError(
            f"model predicts {names[0]} and guide_model {names[1]}: between these there is no conversion of the noisy "
            f"input. Use a guide of the same prediction family."
        )


def check_conditioning(guide: ModelPatcher, name: str, conds: list[dict]) -> None:
    """Raise ValueError if a U-Net guide cannot read the width of these text embeddings."""
    width = guide.model.model_config.unet_config.get("context_dim")
    for cond in conds:
        found = cond.get("cross_attn")
        if width is not None and found is not None and found.shape[-1] != width:
            raise ValueError(
                f"{name} ({type(guide.model).__name__}) reads text embeddings of width {width}, but its positive "
                f"conditioning has width {found.shape[-1]}, made for another text encoder. Connect guide_positive: the "
                f"prompt encoded with the guide's own CLIP."
            )


def check_batch(model: ModelPatcher, count: int) -> None:
    """Raise ValueError if the network would mix `count` latents that it is given for one prompt alone.

    Hunyuan3D 2.1 takes every batch for two halves of one latent, with and without prompt (its `forward` in
    comfy/ldm/hunyuan3dv2_1/hunyuandit.py): right in a KSampler's step, which gives it both, and nowhere else.
    """
    if count > 1 and isinstance(model.get_model_object("diffusion_model"), HunYuanDiTPlain):
        raise ValueError(
            f"Hunyuan3D 2.1 in this ComfyUI mixes the shapes of a batch up where it is asked for one prompt alone, as "
            f"this guidance does. Make one shape at a time (batch_size = 1 instead of {count})."
        )
