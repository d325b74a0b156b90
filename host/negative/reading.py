"""Which networks can have a negative prompt in their attention, and which prompts can be it; refusals in words."""

from __future__ import annotations

from comfy.model_patcher import ModelPatcher

from ..degrade.layers import PROMPTED, Layout, layout_of

PARTIAL = ("area", "mask", "start_percent", "end_percent", "hooks")  # of a prompt: for a part of the picture or the run


def prompted_layout(model: ModelPatcher) -> Layout:
    """The layers in which a MODEL's picture asks its prompt. Raises ValueError if they cannot be reached."""
    layout = layout_of(model)
    if not (layout.prompted and layout.attention):
        name = type(model.get_model_object("diffusion_model")).__name__
        raise ValueError(
            f"Negative in Attention cannot be used with this model ({name}): ComfyUI offers no place in it where the "
            f"attention to a prompt could be changed. It works with {PROMPTED}. For other models use CFG (cfg above 1)."
        )
    return layout


def check_prompt(conds: list[dict] | None) -> dict:
    """The one entry of the negative prompt. Raises ValueError if there is none, or if it is for a part alone."""
    if not conds:
        raise ValueError(
            "Negative in Attention needs a negative prompt, and this sampler's guider takes none. Connect a prompt to "
            "its input negative."
        )
    if len(conds) > 1 or any(name in conds[0] for name in PARTIAL):
        raise ValueError(
            f"Negative in Attention takes one prompt for the whole picture and the whole run, and its negative has "
            f"{len(conds)} part(s) with areas, masks, hooks or times of their own. Connect one plain prompt to its "
            f"input negative; for times use start and end."
        )
    if conds[0].get("cross_attn") is None:
        raise ValueError("Negative in Attention needs the text of a prompt, and the negative has none.")
    return conds[0]
