"""Runs of small ADM and GLIDE MODELs on the real host, from noise as the papers' code takes it."""

import math

import torch

SIDE = 16


def start(batch, seed=3, side=SIDE):
    return torch.randn(batch, 3, side, side, generator=torch.Generator().manual_seed(seed))


def sigmas_at(model, steps):
    return torch.cat([model.get_model_object("model_sampling").sigmas[steps], torch.zeros(1)])


def euler(model, positive, noise, sigmas, *, cfg=1.0, negative=None, mask=None, latent=None):
    """SamplerCustom from noise in VE coordinates: what the host adds to the noise is divided out first."""
    import comfy.sample
    import comfy.samplers

    scaled = noise * math.sqrt(1 + float(sigmas[0]) ** 2) / float(sigmas[0])
    with torch.inference_mode():
        return comfy.sample.sample_custom(
            model, scaled, cfg, comfy.samplers.ksampler("euler"), sigmas, positive, negative or positive,
            torch.zeros_like(noise) if latent is None else latent, noise_mask=mask, seed=1, disable_pbar=True,
        )


def assert_same(found, wanted, tolerance=2e-5):
    assert float((found - wanted).abs().max()) < tolerance * float(wanted.abs().max())
