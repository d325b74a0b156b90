"""Branches on the real host: read what it evaluates anyway, evaluate the rest through its public functions."""

from __future__ import annotations

from collections.abc import Iterable

import comfy.samplers
import torch
from comfy.patcher_extension import WrappersMP
from comfy.samplers import CFGGuider

from ...guidance.branch import MAIN, Branch
from ...guidance.noise_level import NoiseLevel
from ..common.keys import KEY
from .run import Run


class Observer:
    """Keeps the main network's bare predictions of one step as they pass, and changes nothing.

    Two places are watched, since no single one sees every case: CALC_COND_BATCH fires under every guider, and the
    pre-CFG hook sees whole samples where context windows split that call (comfy/samplers.py, context_windows.py).
    The first prediction of a conditioning in a step is the host's own; later ones come from other packs' extra passes.
    """

    def __init__(self, guider: CFGGuider):
        self.network = guider.inner_model
        self.names = {id(conds): name for name, conds in guider.conds.items()}
        self.seen: dict[Branch, torch.Tensor] = {}

    def options(self, model_options: dict) -> dict:
        """A copy of the options of this call with the observer in it."""
        out = model_options.copy()
        out["sampler_pre_cfg_function"] = [self.pre_cfg, *model_options.get("sampler_pre_cfg_function", [])]
        out["transformer_options"] = transformer = model_options.get("transformer_options", {}).copy()
        transformer["wrappers"] = wrappers = transformer.get("wrappers", {}).copy()
        wrappers[WrappersMP.CALC_COND_BATCH] = {
            **wrappers.get(WrappersMP.CALC_COND_BATCH, {}), KEY: [self.calc_cond_batch]
        }
        return out

    def calc_cond_batch(self, executor, model, conds, x_in, timestep, model_options):
        predictions = executor(model, conds, x_in, timestep, model_options)
        if model is self.network:
            self._keep(conds, predictions)
        return predictions

    def pre_cfg(self, args: dict):
        self._keep(args["conds"], args["conds_out"])
        return args["conds_out"]

    def _keep(self, conds: Iterable, predictions: Iterable[torch.Tensor]) -> None:
        # A skipped branch has conds None and arrives as zeros: it is no prediction.
        for cond, prediction in zip(conds, predictions, strict=False):
            branch = Branch(condition=self.names.get(id(cond), ""))
            if cond is not None and branch.condition and branch not in self.seen:
                self.seen[branch] = prediction.clone()


def evaluate(
    run: Run, guider: CFGGuider, branch: Branch, x: torch.Tensor, sigma: torch.Tensor, level: NoiseLevel, options: dict
) -> torch.Tensor:
    """The denoised estimate [B, ...] of one branch at x [B, ...] and the main model's sigma [B]."""
    if branch.network != MAIN:
        return run.guides[branch.network].denoised(branch.condition, x, sigma, level)
    conds = [guider.conds[branch.condition]]
    # Attention patches of other packs read index 1 as the negative branch (comfy_extras/nodes_slg.py).
    before = [None] if branch.condition == "negative" else []
    return comfy.samplers.calc_cond_batch(guider.inner_model, before + conds, x, sigma, options)[-1]
