"""Settings from a diffusers guider (its guider_config.json), as far as both mean the same.

Both combine as D_uncond + w (D_cond - D_uncond), which is the same for noise, velocity and denoised predictions; with
`use_original_formulation` it is D_cond + w (...), our w + 1. The rest is read off huggingface/diffusers,
src/diffusers/guiders: `start` and `stop` are shares of the sampler's steps there; rescaling and projection work on the
network's own prediction (noise or velocity), ours on the denoised estimate, so their numbers do not mean the same.
"""

from __future__ import annotations

from typing import Any

from .recipe import Component, Recipe

CLASS = "_class_name"
AUTO = "AutoGuidance"
KNOWN = (
    "ClassifierFreeGuidance", AUTO, "AdaptiveProjectedGuidance", "ClassifierFreeZeroStarGuidance",
    "TangentialClassifierFreeGuidance", "PerturbedAttentionGuidance", "SkipLayerGuidance", "SmoothedEnergyGuidance",
    "MagnitudeAwareGuidance",
)  # fmt: skip
SAME = {  # settings that are at rest at this value; anything else is told
    "guidance_rescale": 0.0, "start": 0.0, "stop": 1.0, "enabled": True, "distilled_guidance_scale": None,
}  # fmt: skip
AT_REST = {  # what makes one of the other guiders plain CFG
    "AdaptiveProjectedGuidance": {
        "adaptive_projected_guidance_momentum": None, "adaptive_projected_guidance_rescale": 0.0, "eta": 1.0,
    },
}  # fmt: skip
USUAL = {  # of diffusers, where the file leaves one out
    "guidance_scale": 7.5, "adaptive_projected_guidance_rescale": 15.0, "use_original_formulation": False,
}  # fmt: skip
WHY = {
    "guidance_rescale": "it rescales the network's own prediction; Guidance Rescale works on the denoised estimate",
    "start": "it counts the sampler's steps; an interval here counts noise levels",
    "stop": "it counts the sampler's steps; an interval here counts noise levels",
    "distilled_guidance_scale": "it is the number that a distilled model is told; set it on the node of that model",
    "adaptive_projected_guidance_momentum": "APG works on the denoised estimate here",
    "adaptive_projected_guidance_rescale": "its norm is that of another prediction; APG works on the denoised estimate",
    "eta": "APG works on the denoised estimate here",
}


def is_guider_config(found: dict[str, Any]) -> bool:
    """Whether a JSON object is a diffusers configuration."""
    return CLASS in found


def read_guider_config(found: dict[str, Any]) -> Recipe:
    """The recipe of a guider, with what it cannot carry over in `notes`.

    Raises:
        ValueError: a guider that has nothing in common with a component here, or a damaged file, in words.
    """
    name = found[CLASS]
    if name not in KNOWN:
        raise ValueError(f"The guider is {str(name)[:80]!r}; what can be read of diffusers is {', '.join(KNOWN)}.")
    scale, original = (found.get(key, USUAL[key]) for key in ("guidance_scale", "use_original_formulation"))
    if isinstance(scale, bool) or not isinstance(scale, int | float) or not isinstance(original, bool):
        raise ValueError(f"The guider's guidance_scale is {str(scale)[:80]!r}; it must be a number.")
    weight = float(scale) + original
    if found.get("enabled", True) is False:
        weight = 1.0
    kind = "autoguidance" if name == AUTO else "cfg"
    made = {"from": f"diffusers {name}"}
    return Recipe((Component(kind, {"weight": weight}),), made=made, notes=tuple(_left_out(name, found)))


def _left_out(name: str, found: dict[str, Any]) -> list[str]:
    rest = {**SAME, **AT_REST.get(name, {})}
    said = [
        f"{key} {value!r} is not carried over: {WHY[key]}."
        for key, at_rest in rest.items()
        if (value := found.get(key, USUAL.get(key, at_rest))) != at_rest and key in WHY
    ]
    if name == AUTO:
        said.append(
            "Which layers are dropped is not carried over: Degraded Model makes the weaker network here. There it sees "
            "the negative prompt, where there is one; connect that to guide_positive for the same."
        )
    elif name not in ("ClassifierFreeGuidance", "AdaptiveProjectedGuidance"):
        said.append(f"Only the weight of CFG is carried over; what else {name} does has to be set by hand.")
    return said
