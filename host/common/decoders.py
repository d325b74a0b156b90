"""From a model's denoised estimate to a picture that a guide can look at, with a gradient all the way.

Three ways: the model works on pictures already; a VAE, whose network is called directly, because `VAE.decode` clamps,
loads models and falls back to tiles without a gradient (comfy/sd.py); or the latent format's own linear RGB factors,
the host's preview (latent_preview.py), one small matrix.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass, field
from typing import Any

import comfy.sd
import torch
from comfy.latent_formats import LatentFormat
from comfy.model_patcher import ModelPatcher
from einops import rearrange
from torch import nn

from .compatibility import describe

VAE, LINEAR, PIXELS = "vae", "linear rgb", "pixels"
DECODERS = [VAE, LINEAR]


@dataclass(frozen=True, eq=False)
class Decoder:
    """How the pictures of a MODEL are seen.

    Attributes:
        kind: VAE, LINEAR or PIXELS.
        key: where the MODEL holds the VAE's ModelPatcher; empty for the other kinds.
        dtype: what the VAE's network takes.
        black, white: the numbers that its network gives for black and white.
        source: the VAE that was connected, to recognise it in a second node.
        flat: whether it takes [B, C, H, W] alone, so that a video's frames are decoded one by one.
    """

    kind: str
    key: str = ""
    dtype: torch.dtype = torch.float32
    black: float = -1.0
    white: float = 1.0
    flat: bool = True
    source: comfy.sd.VAE | None = None
    _factors: dict = field(default_factory=dict, repr=False)

    def picture(self, denoised: torch.Tensor, latents: LatentFormat, network: Any) -> torch.Tensor:
        """[B, C, ...] in the model's own scale -> [B, 3, (T,) H, W] in [-1, 1], not clamped."""
        if self.kind == PIXELS:
            return denoised
        if self.kind == LINEAR:
            return linear_rgb(denoised, latents, self._rgb_factors(latents, denoised))
        assert network is not None, "a VAE decodes with its network"
        decoded = self._decoded(latents.process_out(denoised).to(self.dtype), network).to(denoised.dtype)
        return (decoded - self.black) * (2.0 / (self.white - self.black)) - 1.0

    def _rgb_factors(self, latents: LatentFormat, like: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None]:
        key = (type(latents), like.dtype, like.device)
        if key not in self._factors:
            with torch.inference_mode(False):  # autograd saves them
                self._factors[key] = rgb_factors(latents, like)
        return self._factors[key]

    def _decoded(self, latent: torch.Tensor, network: Any) -> torch.Tensor:
        if not self.flat or latent.ndim == 4:
            return network.decode(latent)
        frames = network.decode(rearrange(latent, "b c t h w -> (b t) c h w"))
        return rearrange(frames, "(b t) c h w -> b c t h w", b=len(latent))


def decoder_for(model: ModelPatcher, kind: str, vae: comfy.sd.VAE | None) -> Decoder:
    """How to see the pictures of this MODEL. Raises ValueError where the choice cannot work, with the ways that can."""
    latents = latents_of(model)
    if is_pixels(latents):
        return Decoder(PIXELS)
    if latents.latent_dimensions == 1:
        raise ValueError(
            f"{describe(model)} makes no pictures: its latents are a row of numbers, as of sound or of shapes. A guide "
            f"looks at pictures; use a model that makes them."
        )
    if kind == LINEAR:
        if latents.latent_rgb_factors is None:
            raise ValueError(
                f"{type(latents).__name__} latents have no linear RGB factors in ComfyUI. Choose decoder = vae and "
                f"connect a VAE or a tiny autoencoder (Load VAE: taesd)."
            )
        return Decoder(LINEAR)
    if vae is None:
        raise ValueError(
            f"The guide looks at pictures, and {describe(model)} works on latents. Connect a VAE (Load VAE: the "
            f"model's own, or a tiny one such as taesd, which is far cheaper), or choose decoder = linear rgb."
        )
    vae.throw_exception_if_invalid()
    if vae.latent_channels != latents.latent_channels:
        raise ValueError(
            f"This VAE decodes latents of {vae.latent_channels} channels, and {describe(model)} makes "
            f"{latents.latent_channels}. Connect the VAE that belongs to the model."
        )
    # Networks differ in the numbers they give for black and white; the host's own last step tells which.
    low, high = (float(vae.process_output(torch.full((1,), end))) for end in (0.25, 0.75))
    slope = (high - low) / 0.5
    black = 0.25 - low / slope
    return Decoder(VAE, "", vae.vae_dtype, black, black + 1.0 / slope, vae.latent_dim == 2)


def latents_of(model: ModelPatcher) -> LatentFormat:
    """The latent format of a MODEL; a node may have patched another in."""
    found: Any = model.get_model_object("latent_format")
    return found


def is_pixels(latents: LatentFormat) -> bool:
    """Whether the model works on pictures [B, 3, H, W] in [-1, 1] themselves."""
    return latents.latent_channels == 3 and latents.spacial_downscale_ratio == 1


def check_range(model: ModelPatcher) -> None:
    """Raise ValueError if the model's estimates are no pictures, so that they have no range to be kept in."""
    if not is_pixels(latents_of(model)):
        raise ValueError(
            f"{describe(model)} works on latents, and latents have no range as pictures do: Clamp would flatten them. "
            f"It is for models of pictures (ADM, P2, EDM2 img64, the Tiny Model). Against burnt colours of a latent "
            f"model take Guidance Rescale or APG, or set limit to 0 (off)."
        )


def copy_format(latents: LatentFormat) -> LatentFormat:
    """A copy whose tensors autograd may save. Call it outside inference mode."""
    out = copy.copy(latents)
    for name, value in vars(latents).items():
        if isinstance(value, torch.Tensor):
            setattr(out, name, value.clone())
    return out


def size_of(latents: LatentFormat, shape: tuple[int, ...]) -> tuple[int, int]:
    """Height and width in pixels of the pictures that latents of this shape [B, C, (T,) H, W] become."""
    ratio = latents.spacial_downscale_ratio
    return shape[-2] * ratio, shape[-1] * ratio


def rgb_factors(latents: LatentFormat, like: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None]:
    """The linear RGB factors [3, C] of a latent format that has them, and their offset [3]; dtype and device of `like`.

    A copy to the device waits for it: who looks often keeps them.
    """
    factors = torch.tensor(latents.latent_rgb_factors, dtype=like.dtype, device=like.device)
    bias = latents.latent_rgb_factors_bias
    return factors.T, None if bias is None else torch.tensor(bias, dtype=like.dtype, device=like.device)


def linear_rgb(
    denoised: torch.Tensor, latents: LatentFormat, factors: tuple[torch.Tensor, torch.Tensor | None]
) -> torch.Tensor:
    """[B, C, ...] in the model's own scale -> [B, 3, ...] in about [-1, 1], by the factors of `rgb_factors`."""
    if latents.latent_rgb_factors_reshape is not None:
        denoised = latents.latent_rgb_factors_reshape(denoised)
    return nn.functional.linear(denoised.movedim(1, -1), *factors).movedim(-1, 1)
