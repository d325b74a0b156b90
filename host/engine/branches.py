"""Branches that the host does not evaluate by itself, through its public functions."""

from __future__ import annotations

import comfy.samplers
import torch
from comfy.samplers import CFGGuider

from ...guidance.branch import MAIN, Branch
from ...guidance.noise_level import NoiseLevel
from ..common.compatibility import check_batch
from .run import Run

PLACES = ("positive", "negative", "empty")  # of the prompts in a call, as the host's own guiders have them


def evaluate(
    run: Run, guider: CFGGuider, branch: Branch, x: torch.Tensor, sigma: torch.Tensor, level: NoiseLevel, options: dict
) -> torch.Tensor:
    """The denoised estimate [B, ...] of one branch at x [B, ...] and the main model's sigma [B].

    Raises ValueError if the network would mix up the rows of a batch.
    """
    if branch.network != MAIN:
        return run.guides[branch.network].denoised(branch.condition, x, sigma, level)
    check_batch(guider.model_patcher, len(x))
    conds = [guider.conds[branch.condition]]
    # Attention patches of other packs read index 1 as the negative branch (comfy_extras/nodes_slg.py).
    before = [None] * PLACES.index(branch.condition) if branch.condition in PLACES else []
    return comfy.samplers.calc_cond_batch(guider.inner_model, before + conds, x, sigma, options)[-1]
