"""A guide that is the main network with a perturbation: evaluated in the host's own call, as one entry more of it.

The host puts the prompts of one call into one batch as far as memory allows (comfy/samplers.py, _calc_cond_batch), and
the perturbation acts on the rows of the guide's entry alone: one call of the network instead of two. Where anything
else stands between main model and guide, or around the network, the guide is evaluated by itself, after the host.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from comfy.ldm.minimax.model import MiniMaxH3Model
from comfy.model_patcher import ModelPatcher
from comfy.patcher_extension import WrappersMP
from comfy.samplers import CFGGuider

from ...guidance.branch import MAIN, Branch
from ..common.keys import DEGRADED, KEY
from ..common.model_options import alike, changed_calls
from ..degrade.degrade import Perturbation
from ..degrade.entries import PerturbedEntries, fits_beside, perturbation_of
from ..lora.sharing import conflict
from .guide_model import GuideModel

# These take one latent alone. The host keeps their prompts apart because no two are equal; a prompt is equal to itself.
ONE_AT_A_TIME = (MiniMaxH3Model,)


@dataclass(frozen=True)
class Rider:
    """A guide's branch in the host's call: what it is asked for, and what it is beside the main network."""

    branch: Branch
    conds: list[dict]
    perturbation: Perturbation


def riders_of(
    guides: Mapping[str, GuideModel], guider: CFGGuider, branches: Iterable[Branch]
) -> tuple[Rider, ...]:
    """Those of the branches that can be evaluated in the host's call of this step."""
    found = []
    for branch in sorted((b for b in branches if b.network != MAIN), key=lambda b: b.network):
        guide = guides[branch.network]
        perturbation = beside_main(guider.model_patcher, guide.patcher)
        if perturbation is not None:
            conds = guider.conds if guide.follows(guider) else guide.conds
            found.append(Rider(branch, conds[branch.condition], perturbation))
    return tuple(found)


def beside_main(main: ModelPatcher, guide: ModelPatcher) -> Perturbation | None:
    """All that makes the guide another network than the main one; None if there is more, or may be."""
    perturbation = perturbation_of(guide)
    if perturbation is None or not fits_beside(perturbation) or perturbation_of(main) is not None:
        return None
    if guide.model is not main.model or conflict(main, guide):
        return None
    if isinstance(main.get_model_object("diffusion_model"), ONE_AT_A_TIME):
        return None
    same = alike(_without_perturbation(main.model_options), _without_perturbation(guide.model_options))
    return perturbation if same else None


def ride_along(riders: tuple[Rider, ...], conds: list, model_options: dict) -> tuple[list, dict]:
    """The conds of the host's call with the riders' behind them, and its options."""
    first = len(conds)
    perturbed = PerturbedEntries({first + index: rider.perturbation for index, rider in enumerate(riders)})
    transformer = {**model_options.get("transformer_options", {})}
    transformer["wrappers"] = {**transformer.get("wrappers", {}), WrappersMP.APPLY_MODEL: {DEGRADED: [perturbed]}}
    return [*conds, *(rider.conds for rider in riders)], {**model_options, "transformer_options": transformer}


def may_ride(conds: Iterable, riders: tuple[Rider, ...], model_options: dict) -> bool:
    """Whether this call of the host is one that riders can be put into."""
    entries = [cond for each in (*conds, *(rider.conds for rider in riders)) for cond in each or ()]
    return not changed_calls(model_options, frozenset({KEY})) and not any("hooks" in cond for cond in entries)


def _without_perturbation(model_options: dict) -> dict:
    """What of a MODEL's options acts in a guide's evaluation."""
    transformer = model_options.get("transformer_options", {})
    wrappers = {
        kind: {key: found for key, found in keyed.items() if key not in (DEGRADED, KEY) and found}
        for kind, keyed in transformer.get("wrappers", {}).items()
    }
    kept = {name: value for name, value in transformer.items() if name not in ("wrappers", "callbacks")}
    return {"options": kept, "wrappers": {kind: keyed for kind, keyed in wrappers.items() if keyed}}
