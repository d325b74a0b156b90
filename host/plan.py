"""The plan of one patched MODEL: which rules, with which guides. Kept on the ModelPatcher, so that clones carry it.

A plan is a frozen value under one attachment key. Adding a component to a MODEL makes a clone with a longer plan; the
MODEL it came from, and every other branch of the graph that uses it, stay as they were.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from comfy.model_patcher import ModelPatcher

from ..guidance.compose import Guidance, overlap
from ..guidance.gradient import Objective
from ..guidance.rule import Rule
from ..guidance.rules.autoguidance import Autoguidance
from ..guidance.rules.cfg import CFG
from ..guidance.schedule import ALWAYS, Interval, Product, Schedule
from . import sharing
from .compatibility import check_pair
from .decoders import Decoder
from .guides import LoadedGuide
from .noise_levels import ModelPositions
from .targets import Target

KEY = "guidance-components"


@dataclass(frozen=True, eq=False)
class Guide:
    """A second network of the plan. Its ModelPatcher is held by the host under `key` and looked up at run time."""

    name: str
    positive: list | None = None  # CONDITIONING of its own; None = the sampler's positive
    source: tuple = ()  # what it was made from, to recognise the same guide connected twice

    @property
    def key(self) -> str:
        return f"{KEY}/{self.name}"


@dataclass(frozen=True, eq=False)
class Asked:
    """A gradient of the plan: what is asked of which networks. The host holds these; they are looked up at run time."""

    objective: Objective
    target: Target
    decoder: Decoder
    key: str = ""  # where the guide's ModelPatchers are held; empty without a guide
    guide: LoadedGuide | None = None  # what it was made from, to recognise the same guide connected twice


@dataclass(frozen=True, eq=False)
class Plan:
    """What the engine of a MODEL does, in chain order."""

    guidance: Guidance = field(default_factory=Guidance)
    guides: tuple[Guide, ...] = ()
    asked: tuple[Asked, ...] = ()


def plan_of(model: ModelPatcher) -> Plan:
    """The plan of a MODEL; an empty one if it carries no component."""
    return model.get_attachment(KEY) or Plan()


def with_rule(model: ModelPatcher, rule: Rule) -> ModelPatcher:
    """A clone of the MODEL with one more rule. Raises ValueError where CFG rules would overlap."""
    plan = plan_of(model)
    if isinstance(rule, CFG):
        _check_overlap(model, plan, rule)
    return extended(model, replace(plan, guidance=Guidance((*plan.guidance.rules, rule))))


def with_autoguidance(
    model: ModelPatcher, guide: ModelPatcher, rule: Autoguidance, positive: list | None = None
) -> ModelPatcher:
    """A clone of the MODEL that is steered away from a weaker network. Raises ValueError for a pair that cannot be.

    A guide that shares the MODEL's network with other weights is made ready to be evaluated beside it (sharing.py).
    """
    if plan_of(guide).guidance.rules:
        raise ValueError(
            "guide_model carries guidance components of its own, but a guide is evaluated bare. Connect the MODEL as "
            "it was before those components to guide_model."
        )
    check_pair(model, guide)
    if positive is None and _same_model(model, guide):
        raise ValueError(
            "model and guide_model are one and the same model with the same weights, so the guidance would be zero. "
            "Connect a weaker version to guide_model: a smaller or less trained checkpoint, or the model without its "
            "LoRA. Or connect another prompt to guide_positive."
        )
    plan = plan_of(model)
    source = (guide.model, guide.patches_uuid, guide.model_options, positive)
    known = next((g for g in plan.guides if _same(g.source, source)), None)
    if known is not None:
        return with_rule(model, replace(rule, guide=known.name))
    residents = [model, *(model.get_additional_models_with_key(g.key)[0] for g in plan.guides)]
    guide = sharing.resident_guide(guide, residents)
    added = Guide(f"guide {len(plan.guides) + 1}", positive, source)
    rules = Guidance((*plan.guidance.rules, replace(rule, guide=added.name)))
    out = extended(model, replace(plan, guidance=rules, guides=(*plan.guides, added)))
    out.set_additional_models(added.key, [guide])
    return out


def guides_of(model: ModelPatcher) -> dict[Guide, ModelPatcher]:
    """The plan's guides and their ModelPatchers, as this MODEL (perhaps a clone) holds them now."""
    return {guide: model.get_additional_models_with_key(guide.key)[0] for guide in plan_of(model).guides}


def extended(model: ModelPatcher, plan: Plan) -> ModelPatcher:
    from .engine import install

    out = model.clone()
    out.set_attachments(KEY, plan)
    install(out)
    return out


def _check_overlap(model: ModelPatcher, plan: Plan, rule: CFG) -> None:
    positions = ModelPositions(model.get_model_object("model_sampling"))
    check_combines((*plan.guidance.combines, rule), positions)


def check_combines(combines: tuple[CFG, ...], positions: ModelPositions) -> None:
    """Raise ValueError if two CFG rules act at the same noise level."""
    spans = [_span(rule.schedule.resolve(positions)) for rule in combines]
    for index, span in enumerate(spans):
        if any(overlap(span, other) for other in spans[:index]):
            raise ValueError(
                "Two CFG Combine (or CFG + Autoguidance) nodes on this MODEL act at the same noise levels, so it is "
                "unclear which weight is meant. Give them intervals that do not overlap, or remove one."
            )


def _span(schedule: Schedule) -> tuple[float, float]:
    """The widest interval (start, end) in VE sigma outside which a resolved schedule is off."""
    if isinstance(schedule, Interval):
        return schedule.start, schedule.end
    parts = [_span(part) for part in schedule.parts] if isinstance(schedule, Product) else []
    return min((s for s, _ in parts), default=float("inf")), max((e for _, e in parts), default=0.0)


def _same_model(first: ModelPatcher, second: ModelPatcher) -> bool:
    """Whether two MODELs predict the same for the same conditioning."""
    if first.model is not second.model or sharing.conflict(first, second):
        return False
    return _alike(first.model_options, second.model_options)


def _same(first: tuple, second: tuple) -> bool:
    """Whether two guides were made from the same network, weights, options and conditioning."""
    return first[0] is second[0] and first[1] == second[1] and _alike(first[2], second[2]) and first[3] is second[3]


def _alike(first, second) -> bool:
    """Equal nesting with the very same leaves: options are copied on every clone, the functions in them are not."""
    if isinstance(first, dict) and isinstance(second, dict):
        return first.keys() == second.keys() and all(_alike(first[key], second[key]) for key in first)
    if isinstance(first, (list, tuple)) and type(first) is type(second):
        return len(first) == len(second) and all(map(_alike, first, second))
    return first is second


def scheduled(schedule: Schedule | None, interval: Interval) -> Schedule:
    """The schedule of a node: its SCHEDULE input, if connected, inside its interval."""
    inside = ALWAYS if interval.everywhere else interval
    if schedule is None:
        return inside
    return schedule if inside is ALWAYS else schedule * inside
