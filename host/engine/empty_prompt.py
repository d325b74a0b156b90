"""The empty prompt of rules that compare both prompts with one: prepared by the host like the sampler's own."""

from __future__ import annotations

import comfy.samplers
from comfy.sampler_helpers import convert_cond
from comfy.samplers import CFGGuider

from ...guidance.branch import EMPTY
from ...guidance.compose import needs_of
from .guider_checks import is_plain
from .plan import plan_of
from .run import Run


def put_empty(run: Run, guider: CFGGuider) -> None:
    """Put the empty prompt among the guider's prompts of this run, if a rule asks for it at some noise level.

    Raises ValueError for a guider with a step of its own, and for hooks that the other prompts have not.
    """
    if EMPTY not in needs_of(run.may_act):
        return
    (rule,) = {one.rule.title for one in run.may_act if EMPTY in one.needs}
    if not is_plain(guider):
        raise ValueError(
            f"{rule} needs a third prompt, and {type(guider).__name__} has a step of its own. Use KSampler or "
            f"CFGGuider, or remove this component."
        )
    empty = convert_cond(plan_of(guider.model_patcher).empty)
    hooked = sum("hooks" in cond for cond in empty)
    comfy.samplers.filter_registered_hooks_on_conds({EMPTY.condition: empty}, guider.model_options)
    if sum("hooks" in cond for cond in empty) < hooked:
        raise ValueError(
            f"The empty prompt of {rule} carries hooks (a LoRA of its own, for instance) that neither positive nor "
            f"negative has. Connect it as it was before them."
        )
    # As the host's own Perp-Neg Guider has it: some models read which kind of prompt it is.
    guider.conds[EMPTY.condition] = [{**cond, "prompt_type": "negative"} for cond in empty]
