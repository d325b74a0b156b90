"""What the page's curves are drawn from: a MODEL's noise levels, a node's strengths there, and the steps of a run.

A node hands `curve(...)` to the page as its ui output: text (JSON), because the host counts anything else as a picture
of the run. Sampling then says where its steps fall on these lines; both know a line by the same key.
"""

from __future__ import annotations

import json
from math import nan
from typing import Any

import comfy.model_sampling as families
import torch
from comfy.model_patcher import ModelPatcher

from ...guidance.noise_level import NoiseLevel
from ...guidance.rule import Rule, is_one
from ...guidance.rules.cfg import CFG
from ...guidance.training.weighting import LevelWeight, normalise_weight, on
from ..common.noise_levels import ModelPositions, level_of
from ..common.remarks import page_server, remark
from ..models.guides import LoadedGuide
from .forecast import forecasts
from .guider_weights import numbers
from .plan import plan_of
from .run import Run

EVENT = "guidance-components.run"
DONE = "guidance-components.done"
PIECES = 200  # of the training timesteps, each known by its middle


def curve(before: ModelPatcher, after: ModelPatcher, guide: LoadedGuide | None = None) -> dict[str, list[str]]:
    """The ui output of a node that made `after` of `before`: the strengths of the rules that it added.

    guide: what takes the gradient, if experts may take turns in it.
    """
    model_sampling: Any = after.get_model_object("model_sampling")
    level = _levels(model_sampling)
    first = len(plan_of(before).guidance.rules)
    resolved = plan_of(after).guidance.resolve(ModelPositions(model_sampling)).rules
    keys = line_keys(after)
    lines = [_line(keys[i], resolved[i], level) for i in range(first, len(resolved))]
    return _shown({"noise": noise_of(model_sampling), "lines": lines, **(_experts(guide) if guide else {})})


def weighting_curve(model: ModelPatcher, weight: LevelWeight) -> dict[str, list[str]]:
    """The ui output of a loss weighting: its weight on the v-loss, with mean 1."""
    model_sampling: Any = model.get_model_object("model_sampling")
    level = _levels(model_sampling)
    values = on("v", normalise_weight(weight, level, "v"), level).tolist()
    return _shown({"noise": noise_of(model_sampling), "lines": [{"key": "", "values": values}]})


def expert_curve(guide: LoadedGuide) -> dict[str, list[str]]:
    """The ui output of guides that take turns: the edges between them, as noise to signal."""
    return _shown(_experts(guide))


def noise_of(model_sampling: Any) -> dict[str, Any]:
    """A model's noise as js/curves/noise.js takes it."""
    return {
        "sigmas": _sigmas(model_sampling),
        "flow": isinstance(model_sampling, families.CONST),
        "scale": float(getattr(model_sampling, "noise_scale", 1.0)),
        "low": float(model_sampling.sigma_min),
        "high": float(model_sampling.sigma_max),
    }


def announce(run: Run, model: ModelPatcher) -> None:
    """Tell the page where the steps of a queued run fall; nothing where no page has queued it."""
    server = page_server()
    if server is not None:
        server.send_sync(EVENT, steps_of(run, model), server.client_id)


def announce_done(run: Run, model: ModelPatcher) -> None:
    """Tell the page what a queued run did; nothing where no page has queued it, or rules chose weights in the run."""
    server, done = page_server(), done_of(run, model)
    if server is not None and done is not None:
        server.send_sync(DONE, done, server.client_id)


def done_of(run: Run, model: ModelPatcher) -> dict[str, Any] | None:
    """At how many steps of a run each rule acted, and its evaluations as a multiple of an unguided run's.

    None where that is not known: a rule chose its weight, or only the guider knows the sampler's.
    """
    known = numbers(run.host_weights[-1])
    guidance, sigmas = run.guidance, run.sigmas
    if len(known) != 1 or any(rule.adaptive for rule in guidance.rules) or min(sigmas.values[:-1], default=0.0) <= 0.0:
        return None
    level = run.level(torch.tensor(sigmas.values[:-1], dtype=torch.float64))
    steps = list(forecasts(guidance, sigmas, level, guidance.cfg(level, known[0])))
    acted = [
        int((rule.weights(rule.schedule(level), known[0]) != 1.0).sum()) if isinstance(rule, CFG)
        else sum(any(one.index == index for one in step.acting) for step in steps)
        for index, rule in enumerate(guidance.rules)
    ]
    evaluations = sum(len(step.branches) for step in steps) / len(steps)
    return {"steps": len(steps), "evaluations": evaluations, "acted": dict(zip(line_keys(model), acted, strict=True))}


def remark_on(run: Run) -> None:
    """Say on the sampler what a component cannot do there."""
    relative = [rule for rule in run.guidance.combines if rule.weight is None]
    weights = [number for weight in run.host_weights for number in numbers(weight)]
    if relative and weights and all(map(is_one, weights)):
        remark("CFG Combine uses the sampler's cfg, which is 1, so there is no CFG. Raise cfg, or weight_from = node.")
    stops = bool(run.guidance.weighers) and not any(rule.alone for _, rule in run.guidance.weighers)
    if stops and not run.guidance.combines and weights and all(map(is_one, weights)):
        remark("Adaptive Weight stops CFG, and the sampler's cfg is 1, so there is none to stop. Raise cfg.")


def steps_of(run: Run, model: ModelPatcher) -> dict[str, Any]:
    """A run's noise levels (the model's own sigmas; no step begins at the last) and the strength of every rule."""
    sigmas = [sigma for sigma in run.sigmas.values[:-1] if sigma > 0.0]
    level = run.level(torch.tensor(sigmas, dtype=torch.float64))
    cfg = _sampler_weights(run, level)
    strengths = [
        rule.weights(rule.schedule(level), cfg) if isinstance(rule, CFG) else rule.shown(level)
        for rule in run.guidance.rules
    ]
    found = zip(line_keys(model), strengths, strict=True)
    return {"sigmas": sigmas, "lines": {key: s.tolist() for key, s in found if bool(s.isfinite().all())}}


def _sampler_weights(run: Run, level: NoiseLevel) -> torch.Tensor:
    """The sampler's own weight at every level [B]: one, or of a list one per step; nan where only the guider knows."""
    known = numbers(run.host_weights[-1])
    if len(known) == len(level.b):
        return torch.tensor(known, dtype=level.b.dtype)
    return torch.full_like(level.b, known[0] if len(known) == 1 else nan)


def _line(key: str, rule: Rule, level: NoiseLevel) -> dict[str, Any]:
    """`relative`: the sampler's own cfg is what the strength multiplies, so it is known only in the run."""
    relative = isinstance(rule, CFG) and rule.weight is None
    strength = rule.schedule(level) if relative else rule.shown(level)
    return {"key": key, "values": strength.tolist(), "relative": relative}


def line_keys(model: ModelPatcher) -> list[str]:
    """A name for every rule in its chain on this network: the same for all clones of the MODEL, in one process."""
    plan = plan_of(model)
    guides = {guide.name: guide for guide in plan.guides}
    named = [(rule, guides.get(getattr(rule, "guide", ""))) for rule in plan.guidance.rules]
    return [f"{hash((id(model.model), *named[: i + 1])):x}" for i in range(len(named))]


def _experts(guide: LoadedGuide) -> dict[str, Any]:
    experts = guide.guide.experts
    return {"edges": list(experts.edges), "handover": experts.handover}


def _sigmas(model_sampling: Any) -> list[float]:
    return [float(model_sampling.percent_to_sigma((i + 0.5) / PIECES)) for i in range(PIECES)]


def _levels(model_sampling: Any) -> NoiseLevel:
    return level_of(model_sampling, torch.tensor(_sigmas(model_sampling), dtype=torch.float64))


def _shown(data: dict[str, Any]) -> dict[str, list[str]]:
    return {"guidance_curve": [json.dumps(data)]}
