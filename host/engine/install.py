"""What puts components on a MODEL: each call gives a clone with a longer plan and the engine that follows it."""

from __future__ import annotations

from dataclasses import replace

from comfy.model_patcher import ModelPatcher
from comfy.sampler_helpers import convert_cond

from ...guidance.branch import EMPTY
from ...guidance.compose import Guidance
from ...guidance.negative_attention import NegativeAttention
from ...guidance.rule import GuideTerm, Rule
from ...guidance.rules.cfg import CFG
from ...guidance.shaping import Shape
from ..common.compatibility import check_pair
from ..common.keys import INSPECTIONS, KEY
from ..common.model_options import alike
from ..common.noise_levels import ModelPositions
from ..lora import adapter_switch, sharing
from ..negative.reading import check_prompt, prompted_layout
from ..recording.inspection import Inspection, inspections_of
from .plan import Plan, PlannedGuide, check_combines, plan_of
from .wrappers import WRAPPERS


def with_rule(model: ModelPatcher, rule: Rule) -> ModelPatcher:
    """A clone of the MODEL with one more rule. Raises ValueError where CFG rules would overlap."""
    plan = plan_of(model)
    if isinstance(rule, CFG):
        _check_overlap(model, plan, rule)
    return with_plan(model, replace(plan, guidance=Guidance((*plan.guidance.rules, rule))))


def with_autoguidance(
    model: ModelPatcher, guide: ModelPatcher, rule: GuideTerm, positive: list | None = None
) -> ModelPatcher:
    """A clone of the MODEL that is steered away from a weaker network. Raises ValueError for a pair that cannot be.

    A guide that shares the MODEL's network with other weights is made ready to be evaluated beside it (host/lora).
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
    alike = sharing.check_reading(model, guide)
    plan = plan_of(model)
    source = _source_of(guide, positive)
    known = next((g for g in plan.guides if _same(g.source, source)), None)
    if known is not None:
        return with_rule(model, _of_guide(rule, known))
    residents = [model, *(model.get_additional_models_with_key(g.key)[0] for g in plan.guides)]
    guide = sharing.resident_guide(guide, residents)
    added = PlannedGuide(f"guide {len(plan.guides) + 1}", positive, source, alike)
    rules = Guidance((*plan.guidance.rules, _of_guide(rule, added)))
    out = with_plan(model, replace(plan, guidance=rules, guides=(*plan.guides, added)))
    out.set_additional_models(added.key, [guide])
    return out


def with_other_guide(model: ModelPatcher, planned: PlannedGuide, guide: ModelPatcher) -> ModelPatcher:
    """A clone of the MODEL with another guide in the place of one that it has: of the same network and weights."""
    plan = plan_of(model)
    renewed = replace(planned, source=_source_of(guide, planned.positive))
    out = with_plan(model, replace(plan, guides=tuple(renewed if one is planned else one for one in plan.guides)))
    out.set_additional_models(planned.key, [guide])
    return out


def with_negative_attention(
    model: ModelPatcher, rule: NegativeAttention, negative: list | None = None
) -> ModelPatcher:
    """A clone of the MODEL with a negative prompt in its attention. negative: CONDITIONING; None = the sampler's.

    Raises ValueError for a network that does not offer it, a second one, and a prompt that is for a part alone.
    """
    plan = plan_of(model)
    if any(isinstance(known, NegativeAttention) for known in plan.guidance.rules):
        raise ValueError(
            "This MODEL has a Negative in Attention already, and attention has room for one. Write both negative "
            "prompts into one, or remove a node."
        )
    prompted_layout(model)
    if negative is not None:
        check_prompt(convert_cond(negative))
    out = with_rule(model, rule)
    return with_plan(out, replace(plan_of(out), negative=negative))


def with_shape(model: ModelPatcher, shape: Shape, empty: list | None = None) -> ModelPatcher:
    """A clone of the MODEL with one more shape of CFG. empty: CONDITIONING without words, for a shape that uses it.

    Raises ValueError where it is missing, or the MODEL has another one already.
    """
    if EMPTY not in shape.uses:
        return with_rule(model, shape)
    if empty is None:
        raise ValueError(
            f"{shape.title} compares both prompts with an empty one, and the input empty is open. Connect CLIP Text "
            f"Encode without text to it, or choose another rule."
        )
    known = plan_of(model).empty
    if known is not None and known is not empty:
        raise ValueError(
            f"This MODEL has {shape.title} with another empty prompt already. Connect the same one to empty, or remove "
            f"a node."
        )
    out = with_rule(model, shape)
    return with_plan(out, replace(plan_of(out), empty=empty))


def with_inspection(model: ModelPatcher, inspection: Inspection) -> ModelPatcher:
    """A clone of the MODEL whose runs are written down, beside whoever inspects it already."""
    out = with_plan(model, plan_of(model))
    out.set_attachments(INSPECTIONS, (*inspections_of(model), inspection))
    return out


def with_plan(model: ModelPatcher, plan: Plan) -> ModelPatcher:
    """A clone of the MODEL with this plan and the engine, which is on it once however often this is called."""
    out = model.clone()
    out.set_attachments(KEY, plan)
    for kind, wrapper in WRAPPERS.items():
        out.remove_wrappers_with_key(kind, KEY)
        out.add_wrapper_with_key(kind, KEY, wrapper)
    return out


def _source_of(guide: ModelPatcher, positive: list | None) -> tuple:
    """What a guide is made from, to recognise the same one connected twice."""
    weights = adapter_switch.weights_of(guide)
    return guide.model, weights.uuid, guide.model_options, positive, guide.object_patches, weights.injections


def _of_guide(rule: GuideTerm, guide: PlannedGuide) -> Rule:
    return replace(rule, **{"guide": guide.name})


def _check_overlap(model: ModelPatcher, plan: Plan, rule: CFG) -> None:
    positions = ModelPositions(model.get_model_object("model_sampling"))
    check_combines((*plan.guidance.combines, rule), positions)


def _same_model(first: ModelPatcher, second: ModelPatcher) -> bool:
    """Whether two MODELs predict the same for the same conditioning."""
    if first.model is not second.model or sharing.conflict(first, second):
        return False
    return alike(first.model_options, second.model_options)


def _same(first: tuple, second: tuple) -> bool:
    """Whether two guides were made from the same network, weights, options, conditioning and patches."""
    return first[1] == second[1] and all(map(alike, first[:1] + first[2:], second[:1] + second[2:]))
