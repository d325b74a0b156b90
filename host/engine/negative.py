"""The negative prompt of Negative in Attention: found and checked before a run, prepared by the host when it begins."""

from __future__ import annotations

import comfy.samplers
from comfy.sampler_helpers import convert_cond
from comfy.samplers import CFGGuider

from ...guidance.branch import EMPTY
from ...guidance.compose import Guidance
from ...guidance.negative_attention import NegativeAttention
from ..negative.reading import check_prompt, prompted_layout
from ..negative.run import NegativeInAttention
from .plan import Plan, plan_of


def check_negative(guider: CFGGuider, plan: Plan) -> None:
    """Raise ValueError if the plan has a negative in attention, and there is no prompt for it."""
    if any(isinstance(rule, NegativeAttention) for rule in plan.guidance.rules) and plan.negative is None:
        check_prompt(guider.original_conds.get("negative"))


def put_negative(
    guidance: Guidance, guider: CFGGuider, extra_args: dict, noise, latent_image, denoise_mask, latent_shapes
) -> None:
    """Put the negative in attention into the options of this run, if its plan has one; networks are loaded by now.

    guidance: the run's, in VE sigma.
    """
    rule = next((rule for rule in guidance.rules if isinstance(rule, NegativeAttention)), None)
    if rule is None:
        return
    model, prompts = guider.model_patcher, dict(guider.conds)
    own = plan_of(model).negative
    others = tuple(prompts[name] for name in ("negative", EMPTY.condition) if prompts.get(name))
    if own is not None:
        prompts = comfy.samplers.process_conds(
            guider.inner_model, noise, {"negative": convert_cond(own)}, model.load_device, latent_image, denoise_mask,
            extra_args.get("seed"), latent_shapes=latent_shapes,
        )
    # The first: behind it the host has put one for every area of the positive prompt.
    found = NegativeInAttention(rule, prompted_layout(model), prompts["negative"][0]["model_conds"], others)
    found.put_on(extra_args["model_options"])
