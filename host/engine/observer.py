"""What passes in one step of the host: the main network's bare predictions, and the weight they are combined with."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from comfy.patcher_extension import WrappersMP
from comfy.samplers import CFGGuider

from ...guidance.branch import EMPTY, NEGATIVE, POSITIVE, Branch
from ..common.keys import KEY
from ..common.uncopied import Uncopied
from .guider_weights import numbers
from .one_call import Rider, may_ride, ride_along


class Observer(Uncopied):
    """Keeps what passes, and changes nothing; guides that can ride along in the host's call are put into it.

    Three places are watched, since no single one sees every case: CALC_COND_BATCH fires under every guider; the pre-CFG
    hook sees whole samples where context windows split that call, and the weight; the post-CFG hook sees the weight
    of guiders that combine by `cfg_function` alone (comfy/samplers.py, context_windows.py).
    The first prediction of a conditioning in a step is the host's own; later ones come from other packs' extra passes.

    Attributes:
        seen: the predictions, [B, ...] each.
        weight: what the host was told to combine with; None where nothing was combined, or by the guider itself.
        evaluated: whether the main network was.
    """

    def __init__(self, guider: CFGGuider, x: torch.Tensor, riders: tuple[Rider, ...] = ()):
        self.network = guider.inner_model
        self.names = {id(conds): name for name, conds in guider.conds.items()}
        self.seen: dict[Branch, torch.Tensor] = {}
        self.weight: float | None = None
        self.evaluated = False
        self._x, self._riders = x, riders

    def options(self, model_options: dict) -> dict:
        """A copy of the options of this call with the observer in it."""
        out = model_options.copy()
        out["sampler_pre_cfg_function"] = [self.pre_cfg, *model_options.get("sampler_pre_cfg_function", [])]
        out["sampler_post_cfg_function"] = [self.post_cfg, *model_options.get("sampler_post_cfg_function", [])]
        out["transformer_options"] = transformer = model_options.get("transformer_options", {}).copy()
        transformer["wrappers"] = wrappers = transformer.get("wrappers", {}).copy()
        # Outermost: further in, other packs split the batch into windows.
        others = {key: w for key, w in wrappers.get(WrappersMP.CALC_COND_BATCH, {}).items() if key != KEY}
        wrappers[WrappersMP.CALC_COND_BATCH] = {KEY: [self.calc_cond_batch], **others}
        return out

    def calc_cond_batch(self, executor, model, conds, x_in, timestep, model_options):
        riders = self._board(model, conds, x_in, model_options)
        asked, options = ride_along(riders, conds, model_options) if riders else (conds, model_options)
        predictions = executor(model, asked, x_in, timestep, options)
        predictions, others = predictions[: len(conds)], predictions[len(conds) :]
        if model is self.network:
            self.evaluated = True
            self._keep(conds, predictions)
        self.seen |= {rider.branch: other.clone() for rider, other in zip(riders, others, strict=True)}
        return predictions

    def _board(self, model, conds, x_in: torch.Tensor, model_options: dict) -> tuple[Rider, ...]:
        """The guides that ride in this call: the step's first of the positive prompt at the sampler's own x."""
        named = {self.names.get(id(cond)) for cond in conds}
        if model is not self.network or x_in is not self._x or POSITIVE.condition not in named:
            return ()
        # Where the host leaves the negative prompt out, no rule asks for the empty one.
        riders = tuple(r for r in self._riders if r.branch != EMPTY or NEGATIVE.condition in named)
        self._riders = ()
        return riders if riders and may_ride(conds, riders, model_options) else ()

    def pre_cfg(self, args: dict):
        self._keep(args["conds"], args["conds_out"])
        self._weigh(args)
        return args["conds_out"]

    def post_cfg(self, args: dict):
        self._weigh(args)
        return args["denoised"]

    def _keep(self, conds: Iterable, predictions: Iterable[torch.Tensor]) -> None:
        # A skipped branch has conds None and arrives as zeros: it is no prediction.
        for cond, prediction in zip(conds, predictions, strict=False):
            branch = Branch(condition=self.names.get(id(cond), ""))
            if cond is not None and branch.condition and branch not in self.seen:
                self.seen[branch] = prediction.clone()

    def _weigh(self, args: dict) -> None:
        known = numbers(args.get("cond_scale"))
        if self.weight is None and len(known) == 1:
            self.weight = known[0]
