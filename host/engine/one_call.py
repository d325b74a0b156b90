"""What is evaluated in the host's own call, as one entry more of it: a guide that is the main network with a
perturbation or with other LoRAs, and an empty prompt.

The host puts the prompts of one call into one batch as far as memory allows (comfy/samplers.py, _calc_cond_batch), and
the perturbation acts on the rows of the guide's entry alone: one call of the network instead of two. Where anything
else stands between main model and guide, or around the network, the guide is evaluated by itself, after the host.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

from comfy.model_patcher import ModelPatcher
from comfy.patcher_extension import WrappersMP
from comfy.samplers import CFGGuider

from ...guidance.branch import EMPTY, MAIN, Branch
from ..common.keys import DEGRADED, KEY
from ..common.model_options import alike, without_wrappers, wrapping
from ..degrade.degrade import INPUT_NOISE, perturbations_in
from ..lora.adapter_switch import SwitchedRows, same_weights
from ..lora.sharing import conflict
from .entries import Change, ChangedEntries
from .guide_model import GuideModel

# These take one latent alone. The host keeps their prompts apart because no two are equal; a prompt is equal to itself.
ONE_AT_A_TIME = ("minimax_h3",)  # the host's names of these networks
AROUND = (WrappersMP.CALC_COND_BATCH, WrappersMP.APPLY_MODEL, WrappersMP.DIFFUSION_MODEL)
NAMED = ("model_function_wrapper", "context_handler", "multigpu_clones")
# The host's classes (comfy/supported_models.py) whose layers all have the rows of the batch first: each was tried with
# a LoRA over all layers, in one call and by itself. SVD, PixArt, HunyuanDiT, HiDream, Cosmos 1 and others have not.
BY_ROWS = frozenset([
    "SD15", "SD15_instructpix2pix", "SD20", "SD21UnclipL", "SDXL", "SDXLRefiner", "SDXL_instructpix2pix",
    "SD_X4Upscaler", "LotusD", "Stable_Zero123", "Stable_Cascade_B", "Stable_Cascade_C", "SD3", "AuraFlow", "Flux",
    "FluxInpaint", "FluxSchnell", "Flux2", "LongCatImage", "Chroma", "ChromaRadiance", "Lens", "Lumina2", "ZImage",
    "ZImagePixelSpace", "QwenImage", "Omnigen2", "Boogu", "Krea2", "MageFlow", "JoyImage", "ErnieImage", "Kandinsky5",
    "Kandinsky5Image", "CosmosT2IPredict2", "CosmosI2VPredict2", "LTXV", "LTXAV", "HunyuanVideo", "HunyuanVideoI2V",
    "HunyuanVideo15", "HunyuanVideo15_SR_Distilled", "HunyuanVideoSkyreelsI2V", "Hunyuan3Dv2", "TripoSplat",
    "StableAudio", "StableAudio3", "WAN21_T2V", "WAN21_I2V", "WAN21_FunControl2V", "WAN21_CausalAR_T2V",
    "WAN21_Camera", "WAN21_Vace", "WAN21_HuMo", "WAN21_FlowRVS", "WAN21_SCAIL", "WAN21_SCAIL2", "WAN22_T2V",
    "WAN22_Camera", "WAN22_S2V", "WAN22_Animate", "WAN22_WanDancer",
])  # fmt: skip


@dataclass(frozen=True)
class Rider:
    """A branch that is put into the host's call: what it is asked for, and what it is beside the main network."""

    branch: Branch
    conds: list[dict]
    changes: Sequence[Change]


def riders_of(
    guides: Mapping[str, GuideModel], guider: CFGGuider, branches: Collection[Branch]
) -> tuple[Rider, ...]:
    """Those of the branches that can be evaluated in the host's call of this step."""
    found = [Rider(EMPTY, guider.conds[EMPTY.condition], ())] if EMPTY in branches else []
    for branch in sorted((b for b in branches if b.network != MAIN), key=lambda b: b.network):
        guide = guides[branch.network]
        if guide.changes is not None:
            conds = guider.conds if guide.follows(guider) and guide.reads_alike else guide.conds
            found.append(Rider(branch, conds[branch.condition], guide.changes))
    return tuple(found)


def beside_main(main: ModelPatcher, guide: GuideModel) -> Sequence[Change] | None:
    """All that makes the guide another network than the main one; None if there is more, or may be."""
    perturbations = perturbations_in(guide.patcher.model_options)
    if guide.patcher.model is not main.model or perturbations_in(main.model_options):
        return None
    if any(each.kind == INPUT_NOISE for each in perturbations):  # outside the network
        return None
    config = main.model.model_config
    if config.unet_config.get("image_model") in ONE_AT_A_TIME:
        return None
    if not alike(*map(_acting_options, (main, guide.patcher))):
        return None
    if not conflict(main, guide.patcher):
        return perturbations
    switch = guide.toggle
    if switch is None or not switch.by_rows or not same_weights(main, switch.resident):
        return None
    if type(config).__name__ not in BY_ROWS:
        return None
    return [*perturbations, SwitchedRows(switch)]


def ride_along(riders: tuple[Rider, ...], conds: list, model_options: dict) -> tuple[list, dict]:
    """The conds of the host's call with the riders' behind them, and its options."""
    first = len(conds)
    changed = {first + index: rider.changes for index, rider in enumerate(riders) if rider.branch != EMPTY}
    wrapper = ChangedEntries(changed)
    transformer = {**model_options.get("transformer_options", {})}
    transformer["wrappers"] = {**transformer.get("wrappers", {}), WrappersMP.APPLY_MODEL: {DEGRADED: [wrapper]}}
    return [*conds, *(rider.conds for rider in riders)], {**model_options, "transformer_options": transformer}


def may_ride(conds: Iterable, riders: tuple[Rider, ...], model_options: dict) -> bool:
    """Whether this call of the host is one that riders can be put into: nobody else changes, divides or keeps it."""
    entries = [cond for each in (*conds, *(rider.conds for rider in riders)) for cond in each or ()]
    others = {key for kind in AROUND for key in wrapping(model_options, kind)} - {KEY}
    return not others and not any(name in model_options for name in NAMED) and not any("hooks" in c for c in entries)


def _acting_options(model: ModelPatcher) -> dict:
    """What of a MODEL's options, but for its perturbations, acts in a guide's evaluation."""
    transformer = without_wrappers(model.model_options, DEGRADED, KEY)["transformer_options"]
    return {name: value for name, value in transformer.items() if name != "callbacks"}
