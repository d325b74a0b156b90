"""What a MODEL with components will do, before it does it: in words, in numbers, and as series for a plot."""

from __future__ import annotations

import math
from dataclasses import dataclass

import comfy.samplers
import torch
from comfy.model_patcher import ModelPatcher

from ...guidance.branch import MAIN
from ...guidance.rule import Rule, Weigher
from ...guidance.rules.cfg import CFG
from ...guidance.rules.gradient import GradientGuidance
from ...guidance.schedule import Curve, Interval, Product, Schedule
from ...guidance.sigma_list import SigmaList
from ..common.compatibility import describe
from ..common.decoders import LINEAR, VAE
from ..common.noise_levels import ModelPositions, level_of
from ..common.step_cache import describe_caches
from ..engine.forecast import forecasts
from ..engine.gradients import THROUGH
from ..engine.plan import GradientRequest, guides_of, plan_of
from ..lora.sharing import describe_sharing


@dataclass(frozen=True)
class Series:
    """One line of the plot: a strength at every noise level of the sampler."""

    label: str
    values: tuple[float, ...]


@dataclass(frozen=True)
class Report:
    """The plan over a sampler's noise levels."""

    sigmas: tuple[float, ...]  # the model's own sigmas, the last left out: no step begins there
    series: tuple[Series, ...]
    main_evaluations: tuple[int, ...]  # per noise level
    guide_evaluations: tuple[int, ...]
    gradients: tuple[int, ...]
    text: str


def scheduler_names() -> list[str]:
    """The schedulers that the host knows at this moment; other packs may add theirs."""
    return list(comfy.samplers.SCHEDULER_NAMES)


def sigmas_of(model: ModelPatcher, scheduler: str, steps: int) -> torch.Tensor:
    """The sigmas [steps + 1] that KSampler would use."""
    return comfy.samplers.calculate_sigmas(model.get_model_object("model_sampling"), scheduler, steps)


def report(model: ModelPatcher, sigmas: torch.Tensor, sampler_cfg: float) -> Report:
    """The plan over these sigmas, for a sampler with the cfg `sampler_cfg` that evaluates every level once."""
    model_sampling = model.get_model_object("model_sampling")
    plan = plan_of(model)
    grid = sigmas[:-1].cpu()
    level = level_of(model_sampling, grid)
    guidance = plan.guidance.resolve(ModelPositions(model_sampling))
    cfg = guidance.cfg(level, sampler_cfg)
    others = [rule for rule in guidance.rules if not isinstance(rule, CFG | Weigher)]
    series = [Series("CFG", tuple(cfg.tolist()))]
    series += [Series(rule.label, tuple(rule.strength(level).tolist())) for rule in others]
    steps = list(forecasts(guidance, SigmaList.of(sigmas.tolist()), level, cfg))
    main = tuple(sum(branch.network == MAIN for branch in step.branches) for step in steps)
    guides = tuple(sum(branch.network != MAIN for branch in step.branches) for step in steps)
    gradients = tuple(sum(isinstance(one.rule, GradientGuidance) for one in step.acting) for step in steps)
    text = _words(model, plan.guidance.rules, sampler_cfg, main, guides, gradients)
    return Report(tuple(grid.tolist()), tuple(series), main, guides, gradients, text)


def _words(model: ModelPatcher, rules: tuple[Rule, ...], sampler_cfg: float, main, guides, gradients) -> str:
    steps = len(main)
    lines = [f"Main: {describe(model)}"]
    lines += [f"{g.name}: {describe(p)}{describe_sharing(model, p)}" for g, p in guides_of(model).items()]
    lines += [_describe_gradient(request, model) for request in plan_of(model).gradients]
    lines += ["", "Rules, in chain order:" if rules else "No guidance components on this MODEL."]
    lines += [f"  {i}. {rule.explain()}{where(rule.schedule)}{_part(rule)}" for i, rule in enumerate(rules, 1)]
    if not any(isinstance(rule, CFG) or (isinstance(rule, Weigher) and rule.alone) for rule in rules):
        lines.append(f"  CFG: the sampler's own, w = {sampler_cfg:g} at every noise level")
    lines += [
        "",
        f"Evaluations over {steps} noise levels: {sum(main)} of the main network, {sum(guides)} of guides "
        f"(unguided: {steps}).",
        f"Per level: {_runs(main, guides)}.",
        *([f"Gradients: {sum(gradients)}, each a forward and a backward of its guide."] if sum(gradients) else []),
        f"Expected cost: {_cost(model, main, guides, gradients) / steps:.2f} x an unguided run, taking an evaluation's "
        "cost as proportional to the network's size" + (", guides and decoders not counted." if plan_of(model).gradients
                                                        else "."),
        "Samplers that evaluate a level several times (Heun, SDE) multiply all of it alike.",
        *describe_caches(model),
    ]
    return "\n".join(lines)


def _part(rule: Rule) -> str:
    return ", inside a mask" if rule.region is not None else ""


def where(schedule: Schedule) -> str:
    """A schedule in words, with a leading space; empty for one that is always 1."""
    if isinstance(schedule, Interval):
        start, end = ("the first step" if math.isinf(v) else f"{v:g}" for v in (schedule.start, schedule.end))
        return f", from {schedule.unit} {start} to {end}"
    if isinstance(schedule, Product):
        return "".join(where(part) for part in schedule.parts)
    if not isinstance(schedule, Curve):
        return ""
    points = schedule.points
    shown = points if len(points) <= 5 else (points[0], points[len(points) // 2], points[-1])
    return f", strength over {schedule.unit} " + ", ".join(f"{position:g}: {value:g}" for position, value in shown)


def _runs(main: tuple[int, ...], guides: tuple[int, ...]) -> str:
    """Equal neighbours grouped: "levels 1-4: 1 + 0, levels 5-20: 2 + 1" (main + guides)."""
    pairs, parts, first = list(zip(main, guides, strict=True)), [], 0
    for i in range(1, len(pairs) + 1):
        if i == len(pairs) or pairs[i] != pairs[first]:
            span = f"level {i}" if i - first == 1 else f"levels {first + 1}-{i}"
            parts.append(f"{span}: {pairs[first][0]} main + {pairs[first][1]} guide")
            first = i
    return ", ".join(parts)


def _describe_gradient(request: GradientRequest, model: ModelPatcher) -> str:
    """A gradient's networks in words."""
    size = sum(p.model_size() for p in model.get_additional_models_with_key(request.key)) / 2**20
    by = f"by {request.objective.guide.name} ({size:.0f} MB)" if request.objective.guide else "of the picture itself"
    seen = {VAE: ", seen through the VAE", LINEAR: ", seen in linear RGB"}.get(request.decoder.kind, "")
    return f"Gradient {by}, taken at the {request.objective.at}{seen}."


def _cost(model: ModelPatcher, main: tuple[int, ...], guides: tuple[int, ...], gradients: tuple[int, ...]) -> float:
    """In evaluations of the main network; a backward through it counts as two forwards (and there is one more)."""
    sizes = [patcher.model_size() for patcher in guides_of(model).values()]
    share = sum(sizes) / len(sizes) / model.model_size() if sizes else 0.0
    request = plan_of(model).gradients
    through = sum(a.objective.at == THROUGH for a in request) / len(request) if request else 0.0
    return sum(main) + share * sum(guides) + 3 * through * sum(gradients)
