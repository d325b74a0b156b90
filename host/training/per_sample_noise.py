"""Noise that belongs to each picture by itself, so that a picture does not depend on the batch it is made in.

ComfyUI draws the noise of a batch from one generator, the start's and that of ancestral and SDE samplers alike; here
each picture has a generator of its own. Source: comfy/k_diffusion/sampling.py (noise_sampler, BatchedBrownianTree).
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence

import comfy.samplers
import torch
from comfy.k_diffusion.sampling import BrownianTreeNoiseSampler

from ...guidance.seeds import seed_of

ALONE = ("dpm_adaptive",)  # its steps depend on all pictures of a batch


def generators(seed: int, indices: Sequence[int]) -> list[torch.Generator]:
    """One per picture, by its number in the set.

    torch's CPU generator knows 2^32 seeds. Counting from a scattered start, the pictures of a set all differ, and the
    sets of neighbouring seeds do not overlap.
    """
    start = seed_of(seed)
    return [torch.Generator().manual_seed((start + index) % 2**32) for index in indices]


def start_noise(shape: Sequence[int], own: Sequence[torch.Generator]) -> torch.Tensor:
    """[B, *shape], each picture's from its generator."""
    return torch.stack([torch.randn(*shape, generator=generator) for generator in own])


def sampler_for(
    name: str, sigmas: torch.Tensor, shape: Sequence[int], own: Sequence[torch.Generator]
) -> comfy.samplers.KSAMPLER:
    """The host's sampler, whose noise on the way, if it adds any, is each picture's own."""
    sampler = comfy.samplers.sampler_object(name)
    if "noise_sampler" in inspect.signature(sampler.sampler_function).parameters:
        # A new dict: the host's samplers share theirs.
        sampler.extra_options = {**sampler.extra_options, "noise_sampler": _noise(name, sigmas, shape, own)}
    return sampler


def _noise(
    name: str, sigmas: torch.Tensor, shape: Sequence[int], own: Sequence[torch.Generator]
) -> Callable[[torch.Tensor, torch.Tensor], torch.Tensor]:
    if name.startswith("dpmpp") and "sde" in name:  # they ask for parts of one path
        seeds = [int(torch.randint(2**62, (), generator=generator)) for generator in own]
        like = torch.zeros(len(own), *shape)
        return BrownianTreeNoiseSampler(like, sigmas[sigmas > 0].min(), sigmas.max(), seed=seeds, cpu=True)
    return lambda sigma, sigma_next: start_noise(shape, own).to(sigmas.device)
