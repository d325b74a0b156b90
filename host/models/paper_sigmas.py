"""The noise levels of the papers' own samplers for a MODEL, and its start from their noise.

The host starts from noise x sqrt(1 + sigma^2) where a run begins at the model's largest sigma, and from noise x sigma
everywhere else (comfy/samplers.py `KSAMPLER.sample`). The papers on timesteps start from unit noise in their own
coordinates, which is the former, wherever they begin; EDM starts from the latter, always.
"""

from __future__ import annotations

import copy
import math
from typing import Any

import comfy.model_sampling as families
import torch
from comfy.model_patcher import ModelPatcher

from ...guidance.respacing import edm_sigmas, respaced
from ..common.compatibility import describe


class PaperStart:
    """Mixed into a model's own sampling: a run that begins at `first` begins as in the paper.

    first: the sigma. unit_noise: whether that is unit noise in coordinates of unit variance, as on timesteps.
    temperature: what that noise is multiplied by.
    """

    first: float
    unit_noise: bool
    temperature: float

    def noise_scaling(self, sigma, noise, latent_image, max_denoise=None):
        # Only the start of a run says whether it begins at the largest sigma; inpainting asks in between.
        if max_denoise is not None and math.isclose(float(sigma), self.first, rel_tol=1e-5):
            max_denoise, noise = self.unit_noise, noise * self.temperature
        own: Any = super()
        return own.noise_scaling(sigma, noise, latent_image, bool(max_denoise))


def with_paper_sigmas(
    model: ModelPatcher, respacing: str, temperature: float = 1.0
) -> tuple[ModelPatcher, torch.Tensor]:
    """A clone that starts from the paper's noise, and the sigmas [steps + 1] of the paper's sampler, float32.

    respacing: as in guided-diffusion (`guidance.respacing`) for a model on timesteps, a number of steps for an EDM.
    temperature: what the start's noise is multiplied by.

    Raises:
        ValueError: a model of another kind, or a respacing that it does not have, in words.
    """
    sampling: Any = model.get_model_object("model_sampling")
    on_timesteps = isinstance(sampling, families.ModelSamplingDiscrete) and isinstance(sampling, families.EPS)
    if on_timesteps:
        table = sampling.sigmas.detach().cpu()
        levels = torch.cat([table[respaced(respacing, len(table))], torch.zeros(1)])
    elif isinstance(sampling, families.ModelSamplingContinuousEDM) and isinstance(sampling, families.EDM):
        levels = edm_sigmas(_steps(respacing), float(sampling.sigma_min), float(sampling.sigma_max)).float()
    else:
        raise ValueError(
            f"{describe(model)} counts noise in another way than the papers' models: on timesteps (ADM, P2, Stable "
            f"Diffusion) or as EDM does (EDM2). Use KSampler, or BasicScheduler for its sigmas."
        )
    out = model.clone()
    out.add_object_patch("model_sampling", _from_paper_start(sampling, float(levels[0]), on_timesteps, temperature))
    return out, levels


def _steps(respacing: str) -> int:
    if not respacing.isdecimal() or len(respacing) > 5:
        raise ValueError(
            f"respacing is {respacing[:60]!r}, and this MODEL has no timesteps to count: EDM2 takes the number of its "
            f"steps. Its paper's is 32, with sampler heun."
        )
    return int(respacing)


def _from_paper_start(sampling: Any, first: float, unit_noise: bool, temperature: float) -> Any:
    out = copy.deepcopy(sampling)
    if not isinstance(out, PaperStart):
        out.__class__ = type("PaperSampling", (PaperStart, type(out)), {})
    out.first, out.unit_noise, out.temperature = first, unit_noise, temperature
    return out
