"""Small pictures of denoised estimates: as they are, or in the latent format's preview colours (latent_preview.py)."""

from __future__ import annotations

from dataclasses import dataclass, field

import comfy.utils
import torch
from comfy.latent_formats import LatentFormat

from ...guidance.inspection import small_picture
from ..common.decoders import is_pixels, linear_rgb, rgb_factors

MOST = 4  # samples that are kept


@dataclass
class Lens:
    """Looks at the estimates of one run."""

    latents: LatentFormat
    shapes: list | None  # of several latents in one pack; the first of them is looked at
    factors: tuple[torch.Tensor, torch.Tensor | None] | None = field(default=None, init=False)

    def look(self, denoised: torch.Tensor) -> torch.Tensor | None:
        """The first samples of an estimate [B, ...] as uint8 [S, h, w, 3]; None of what is no picture."""
        latents = self.latents
        if self.shapes is not None and len(self.shapes) > 1:
            denoised = comfy.utils.unpack_latents(denoised, self.shapes)[0]
        denoised = denoised[:MOST]
        if denoised.ndim == 5:
            denoised = denoised[:, :, denoised.shape[2] // 2]  # a video's middle frame
        if latents.latent_dimensions == 1 or denoised.ndim != 4:
            return None
        if is_pixels(latents):
            return small_picture(denoised)
        if latents.latent_rgb_factors is None:
            return None
        if self.factors is None:
            self.factors = rgb_factors(latents, denoised)
        return small_picture(linear_rgb(denoised, latents, self.factors))
