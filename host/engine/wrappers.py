"""The engine: four wrappers under one key, installed once per patched MODEL, whatever the number of components.

OUTER_SAMPLE opens and closes the run, PREPARE_SAMPLING lets the host load what the guides' conditioning needs,
SAMPLER_SAMPLE prepares the guides, PREDICT_NOISE does the step: the host's own step is run, not rewritten, and the
rules work on its result. The wrappers find everything through the guider, so that clones of the MODEL stay right.
"""

from __future__ import annotations

from math import nan
from typing import Any

import torch
from comfy.patcher_extension import WrappersMP, add_wrapper_with_key
from comfy.samplers import CFGGuider

from ...guidance.compose import each_at_its_own, needs_of
from ...guidance.noise_level import NoiseLevel
from ...guidance.step import Step
from ..common.keys import KEY
from ..common.remarks import remark
from .branches import evaluate
from .empty_prompt import put_empty
from .gradients import StepGradientContext
from .guider_checks import check_step
from .guider_weights import combining_with, weights_at
from .memory import is_short, reserve_for
from .negative import put_negative
from .observer import Observer
from .one_call import beside_main, riders_of
from .page_events import announce, announce_done, remark_on
from .run import Run, check_regions, open_run, run_of

RECOMPUTED = (
    "Memory is short for a gradient through the model, so its blocks are evaluated again in the backward: the same "
    "gradient, a third slower."
)


def outer_sample(executor, noise, latent_image, sampler, sigmas, *args, latent_shapes=None, **kwargs):
    """Open the run, sample, close the run, in every case."""
    if latent_shapes is not None:
        kwargs["latent_shapes"] = latent_shapes
    guider: CFGGuider = executor.class_obj
    run = open_run(guider, sigmas, latent_shapes)
    if run is None:
        return executor(noise, latent_image, sampler, sigmas, *args, **kwargs)
    check_regions(run, tuple(noise.shape))
    put_empty(run, guider)
    announce(run, guider.model_patcher)
    remark_on(run)
    finished = False
    try:
        with combining_with(guider, _loading_weights(run)):
            result = executor(noise, latent_image, sampler, sigmas, *args, **kwargs)
        finished = True
        run.skipped.check()
        _check_finite(run, result)
        announce_done(run, guider.model_patcher)
        return result
    finally:
        for guide in run.guides.values():
            guide.release(cleaned=finished)
        if run.gradients is not None:
            run.gradients.release()
        guider.model_options.pop(KEY, None)
        if run.recorder is not None:
            run.recorder.close(finished)


def _check_finite(run: Run, result: torch.Tensor) -> None:
    """Raise ValueError where guidance acted and nothing but NaN may come of it."""
    if not bool(torch.isfinite(result).all()) and run.acts:
        raise ValueError(
            "The sampler ended with values that are no numbers (NaN or infinite), so there is no picture. The guidance "
            "may be too strong: try lower weights and scales, a cap, or Guidance Rescale. If it happens without "
            "components too, the model or its precision is the cause."
        )


def prepare_sampling(executor, model, noise_shape, conds, *args, **kwargs):
    """Load what the guides' own conditioning needs together with everything else; what gradients need, entirely."""
    run: Run | None = (kwargs.get("model_options") or {}).get(KEY)
    if run is None:
        return executor(model, noise_shape, conds, *args, **kwargs)
    if run.gradients is not None:
        run.gradients.load()
        kwargs["force_full_load"] = kwargs.get("force_full_load", False) or run.gradients.through
    asking = {**conds, **run.own_conds}
    asking |= reserve_for(model, tuple(noise_shape), asking, [g.patcher for g in run.guides.values()], run.gradients)
    network, _, loaded = executor(model, noise_shape, asking, *args, **kwargs)
    return network, conds, loaded


def sampler_sample(executor, guider, sigmas, extra_args, callback, noise, latent_image=None, denoise_mask=None, *rest):
    """Prepare every guide: all networks are on their devices now."""
    run = run_of(guider)
    if run is None:
        return executor(guider, sigmas, extra_args, callback, noise, latent_image, denoise_mask, *rest)
    for guide in run.guides.values():
        guide.prepare(
            guider.model_patcher, extra_args["model_options"], sigmas, noise, latent_image, denoise_mask,
            extra_args.get("seed"), run.latent_shapes,
        )
        guide.changes = beside_main(guider.model_patcher, guide)
        if guide.changes and guide.toggle is not None:
            guide.compare(guider)
    if run.gradients is not None:
        run.gradients.prepare(guider, noise.shape)
        run.gradients.short = is_short(guider.model_patcher, noise.shape, guider.conds, run.gradients)
        if run.gradients.short:
            remark(RECOMPUTED)
    put_negative(run.guidance, guider, extra_args, noise, latent_image, denoise_mask, run.latent_shapes)
    watched = run.skipped.calc_cond_batch
    add_wrapper_with_key(WrappersMP.CALC_COND_BATCH, KEY, watched, extra_args["model_options"], is_model_options=True)
    with combining_with(guider, run.host_weights):
        return executor(guider, sigmas, extra_args, callback, noise, latent_image, denoise_mask, *rest)


def predict_noise(executor, x, timestep, model_options=None, seed=None):
    """One evaluation of the guided denoiser. x: [B, ...], timestep: the model's sigma [B]; returns denoised."""
    guider: CFGGuider = executor.class_obj
    model_options = {} if model_options is None else model_options
    run = run_of(guider)
    if run is None:
        return executor(x, timestep, model_options, seed)
    run.skipped.asked = True
    here = timestep.cpu()  # the one time that an evaluation waits for the device
    with run.watching(here, timestep.device):
        return _guide(executor, run, guider, x, timestep, run.move_to(here), model_options, seed)


def _guide(
    executor, run: Run, guider: CFGGuider, x, timestep, level: NoiseLevel, model_options, seed
) -> torch.Tensor:
    """The host's own step, what else the rules need, and the rules."""
    chosen = run.guidance.choose(x, level, run.memory)
    weights = weights_at(guider, run.guidance, level, chosen)
    unknown = torch.full_like(level.b, nan)  # the guider's weight shows later
    may_act = run.guidance.acting(level, unknown, run.memory, chosen)
    with combining_with(guider, weights.wanted):
        if not may_act and run.watch is None and not weights.changed and not run.guidance.regional:
            return executor(x, timestep, model_options, seed)
        observer = Observer(guider, x, riders_of(run.guides, guider, needs_of(may_act)))
        denoised = executor(x, timestep, observer.options(model_options), seed)
    cfg, acting = check_step(guider, run.guidance, may_act, weights, observer, level)
    missing = needs_of(acting) - observer.seen.keys()
    found = {branch: evaluate(run, guider, branch, x, timestep, level, model_options) for branch in missing}
    step = Step(x, level, {**observer.seen, **found}, cfg, **_here(run, guider, timestep, level, model_options))
    if weights.each is not None and observer.evaluated:
        denoised = each_at_its_own(denoised, step, weights.number)
    return run.guidance.steer(denoised, step, run.memory, acting)


def _here(run: Run, guider: CFGGuider, timestep, level, model_options) -> dict[str, Any]:
    """Where the run is, and what rules with gradients get there: the rest of a Step."""
    here = {"position": run.position, "watch": run.watch, "following": run.following(level)}
    if run.asked is not None:
        here["asked"] = run.asked.over(len(timestep))
    if run.gradients is None:
        return here
    return {**here, "gradient_context": StepGradientContext(run.gradients, guider, timestep, model_options)}


def _loading_weights(run: Run) -> tuple[Any, ...]:
    """A guider at cfg 1 may not even load what the negative branch needs; a CFG rule may ask for it later."""
    wanted = [rule.weight for rule in run.guidance.combines if rule.weight is not None]
    wanted += [2.0 for _, rule in run.guidance.weighers if rule.alone]  # any that is not 1
    return (max(wanted, key=lambda w: abs(w - 1.0)),) if run.host_weights == (1.0,) and wanted else run.host_weights


WRAPPERS = {
    WrappersMP.OUTER_SAMPLE: outer_sample,
    WrappersMP.PREPARE_SAMPLING: prepare_sampling,
    WrappersMP.SAMPLER_SAMPLE: sampler_sample,
    WrappersMP.PREDICT_NOISE: predict_noise,
}
