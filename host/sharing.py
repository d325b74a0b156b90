"""Two MODELs over one network: when they may be evaluated side by side, and what to do when they may not.

ComfyUI's clones share one torch module; only the weights loaded last are in it (comfy/model_patcher.py, clone and
partially_load). Two clones that differ in LoRAs would silently be one model, and their difference, the guidance, zero.
"""

from __future__ import annotations

import logging

from comfy.model_patcher import ModelPatcher

log = logging.getLogger(__name__)


def conflict(first: ModelPatcher, second: ModelPatcher) -> bool:
    """Whether the two share a network but want different weights or object patches in it."""
    return first.model is second.model and not _same_weights(first, second)


def independent(guide: ModelPatcher) -> ModelPatcher:
    """A copy of the guide with a network of its own, loaded again from its file, its LoRAs kept.

    Raises ValueError where that is impossible: the loader left no way to load it again, or a bypass LoRA is bound to
    the shared network.
    """
    if guide.injections:
        raise ValueError(
            "model and guide_model share one network, and guide_model carries a bypass LoRA, which cannot move to a "
            "copy. Load the checkpoint of guide_model with a second loader node, or use an ordinary LoRA loader."
        )
    if guide.cached_patcher_init is None:
        raise ValueError(
            "model and guide_model share one network with different weights, and the loader that made them offers no "
            "second copy. Load the guide with another loader node (for instance Load Diffusion Model for one and "
            "Load Checkpoint for the other), or save the guide as a checkpoint of its own."
        )
    log.info("Guidance Components: model and guide_model share one network with different weights; "
             "loading an independent copy of the guide (%.0f MB).", guide.model_size() / 2**20)
    return guide.clone(force_deepcopy=True)


def check_at_run(main: ModelPatcher, guides: dict[str, ModelPatcher], others: list[ModelPatcher]) -> None:
    """Raise ValueError if networks that will be evaluated in this run exclude each other."""
    seen = {"the MODEL": main}
    for name, guide in guides.items():
        for other, patcher in [*seen.items(), *(("the guider's second model", o) for o in others)]:
            if conflict(patcher, guide):
                raise ValueError(
                    f"{name} and {other} share one network but differ in their weights (a LoRA or a model patch was "
                    f"added after Autoguidance), so they cannot be evaluated side by side. Move the LoRA or patch "
                    f"before Autoguidance, or load the guide with a loader node of its own."
                )
        seen[name] = guide


def _same_weights(first: ModelPatcher, second: ModelPatcher) -> bool:
    patches = first.patches_uuid == second.patches_uuid or not (first.patches or second.patches)
    return (
        patches
        and _identical(first.object_patches, second.object_patches)
        and _identical(first.weight_wrapper_patches, second.weight_wrapper_patches)
        and _identical(first.injections, second.injections)
        and first.forced_hooks == second.forced_hooks
    )


def _identical(first: dict, second: dict) -> bool:
    """Equal keys, and under each key the very same objects."""
    if first.keys() != second.keys():
        return False
    pairs = ((first[key], second[key]) for key in first)
    return all(
        len(a) == len(b) and all(x is y for x, y in zip(a, b, strict=True)) if isinstance(a, list) else a is b
        for a, b in pairs
    )
