"""Two MODELs over one network: when they may be evaluated side by side, and what to do when they may not.

ComfyUI's clones share one torch module; only the weights loaded last are in it (comfy/model_patcher.py, clone and
partially_load). Two clones that differ in LoRAs would silently be one model, and their difference, the guidance, zero.
So the guide's difference is switched on around its evaluations (adapter_switch.py); where that is impossible, the guide
gets a copy of the network.
"""

from __future__ import annotations

import logging

from comfy.model_patcher import ModelPatcher

from ..common.noise_levels import prediction, read_alike
from . import adapter_switch as adapter_switch

log = logging.getLogger(__name__)


COPIED = "guidance-components/copied"


def conflict(first: ModelPatcher, second: ModelPatcher) -> bool:
    """Whether the two share a network but want different weights or object patches in it."""
    return first.model is second.model and not _same_weights(first, second)


def resident_guide(guide: ModelPatcher, residents: list[ModelPatcher]) -> ModelPatcher:
    """The guide as it can be evaluated beside MODELs that are resident: the one place that decides how.

    A network of its own: as it is. A network that one of them has: over that network, with the difference of the
    weights switched on around its evaluations. Where a difference cannot be switched: an independent copy.
    """
    resident = next((model for model in residents if model.model is guide.model), None)
    if resident is None:
        return guide
    reason = adapter_switch.unsupported_reason(resident, guide)
    if reason:
        return independent(guide, reason)
    if conflict(resident, guide):
        log.info("Guidance Components: model and guide_model share one network, which stays loaded once; switched "
                 "around the guide's evaluations: %s.", adapter_switch.words(resident, guide))
    return adapter_switch.switch_over(resident, guide)


def independent(guide: ModelPatcher, reason: str) -> ModelPatcher:
    """A copy of the guide with a network of its own, loaded again from its file, its LoRAs kept.

    `reason`: why it cannot share the network, in words. Raises ValueError where a copy is impossible: the loader left
    no way to load it again, or a bypass LoRA is bound to the shared network.
    """
    if guide.injections:
        raise ValueError(
            f"model and guide_model share one network and differ in {reason}, so the guide needs a copy; but it "
            "carries a bypass LoRA, which cannot move to a copy. Load the checkpoint of guide_model with a second "
            "loader node, or use an ordinary LoRA loader."
        )
    if guide.cached_patcher_init is None:
        raise ValueError(
            f"model and guide_model share one network and differ in {reason}, so the guide needs a copy; but the "
            "loader that made them offers no second one. Load the guide with another loader node (for instance Load "
            "Diffusion Model for one and Load Checkpoint for the other), or save the guide as a checkpoint of its own."
        )
    log.info("Guidance Components: model and guide_model share one network but differ in %s, which cannot be switched "
             "on and off; loading an independent copy of the guide (%.0f MB).", reason, guide.model_size() / 2**20)
    out = guide.clone(force_deepcopy=True)
    out.set_attachments(COPIED, reason)
    return out


def describe_sharing(model: ModelPatcher, guide: ModelPatcher) -> str:
    """How a guide of this MODEL gets its network, for the report; empty if it has one of its own."""
    reason = guide.get_attachment(COPIED)
    if reason:
        return f", an independent copy because it differs in {reason}"
    if not adapter_switch.is_switched(guide) or model.model is not guide.model:
        return ""
    return f", over the MODEL's own network, not loaded twice; switched: {adapter_switch.words(model, guide)}"


def check_reading(model: ModelPatcher, guide: ModelPatcher) -> bool:
    """Whether MODEL and guide read their network as one prediction type; two networks may differ as they like.

    Raises ValueError where one network with one set of weights is read as two: one of them must be wrong.
    """
    if guide.model is not model.model or read_alike(*map(_sampling, (model, guide))):
        return True
    if adapter_switch.same_weights(model, guide):
        raise ValueError(
            f"model and guide_model are one network with the same weights, but model is read as "
            f"{prediction(_sampling(model))} and guide_model as {prediction(_sampling(guide))} (ModelSamplingDiscrete "
            f"and the like). Move that node before both, so that model and guide_model come from it."
        )
    return False


def follow_reading(model: ModelPatcher, guide: ModelPatcher, alike: bool) -> None:
    """A ModelSampling node behind Autoguidance is meant for the guide too, where both were read alike before it.

    alike: what `check_reading` said then. Raises ValueError where the guide cannot follow.
    """
    sampling = _sampling(model)
    copied = guide.get_attachment(COPIED) is not None
    if not alike or not (copied or guide.model is model.model) or read_alike(sampling, _sampling(guide)):
        return
    if copied:
        raise ValueError(
            f"A node behind Autoguidance made the MODEL's network be read as {prediction(sampling)}, and the guide, an "
            f"independent copy of it, is read as {prediction(_sampling(guide))}. Move that node (ModelSamplingDiscrete "
            f"and the like) before both."
        )
    guide.add_object_patch("model_sampling", sampling)


def _sampling(model: ModelPatcher):
    return model.get_model_object("model_sampling")


def check_at_run(
    main: ModelPatcher, guides: dict[str, ModelPatcher], others: list[ModelPatcher]
) -> dict[str, ModelPatcher]:
    """The MODELs over whose networks guides are evaluated, by the guide's name; those guides follow their weights.

    Raises ValueError if networks that will be evaluated in this run exclude each other.
    """
    switched_over: dict[str, ModelPatcher] = {}
    seen = {"the MODEL": main}
    for name, guide in guides.items():
        followed = adapter_switch.sync_weights(guide, seen.values()) if adapter_switch.is_switched(guide) else None
        for other, patcher in [*seen.items(), *(("the guider's second model", o) for o in others)]:
            if patcher is followed:
                reason = adapter_switch.unsupported_reason(patcher, guide)
            else:
                reason = "" if not conflict(patcher, followed or guide) else "their weights"
            if reason:
                raise ValueError(
                    f"{name} and {other} share one network but differ in {reason} (a LoRA or a model patch was added "
                    f"after Autoguidance), so they cannot be evaluated side by side. Move the LoRA or patch before "
                    f"Autoguidance, or load the guide with a loader node of its own."
                )
        if followed is None:
            seen[name] = guide
        else:
            switched_over[name] = followed
    return switched_over


def _same_weights(first: ModelPatcher, second: ModelPatcher) -> bool:
    return (
        adapter_switch.same_weights(first, second)
        and first.object_patches.keys() == second.object_patches.keys()
        and all(value is second.object_patches[name] for name, value in first.object_patches.items())
        and adapter_switch.same_lists(first.weight_wrapper_patches, second.weight_wrapper_patches)
        and first.forced_hooks == second.forced_hooks
    )
