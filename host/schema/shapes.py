"""The rules of Shape CFG as a list whose choices bring inputs of their own, and the rules back from what was chosen."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from comfy_api.latest import io

from ...guidance.region import Region
from ...guidance.rules.cfg_norm import CFGNorm
from ...guidance.rules.cfg_pp import CFGPlusPlus
from ...guidance.rules.cfg_zero import CFGZero
from ...guidance.rules.fdg import FDG
from ...guidance.rules.higs import HiGS
from ...guidance.rules.mambo_g import MamboG
from ...guidance.rules.mimic import Mimic
from ...guidance.rules.momentum import Momentum
from ...guidance.rules.perp_neg import PerpNeg
from ...guidance.rules.pmc import PMC
from ...guidance.rules.renorm import Renorm
from ...guidance.rules.skim import Skim
from ...guidance.rules.tag import TAG
from ...guidance.rules.tcfg import TCFG
from ...guidance.rules.zero_init import ZeroInit
from ...guidance.schedule import Schedule
from ...guidance.shaping import Shape
from .inputs import inputs_of

Kinds = tuple[type[Shape], ...]
# By the name that workflows are saved with; the first is what a new node has.
CHOICES: dict[str, Kinds] = {
    kinds[0].title: kinds
    for kinds in [
        (FDG,), (PMC,), (Skim,), (Mimic,), (Renorm,), (CFGNorm,), (CFGZero, ZeroInit), (MamboG,), (TCFG,),
        (CFGPlusPlus,), (Momentum,), (TAG,), (HiGS,), (PerpNeg,),
    ]
}  # fmt: skip
COMMON = {f.name for f in fields(Shape)}


def shape_inputs() -> list[io.Input]:
    """The choice of a rule with that rule's own numbers, and the amount that all have."""
    options = [io.DynamicCombo.Option(name, _own(kinds)) for name, kinds in CHOICES.items()]
    chosen = io.DynamicCombo.Input(
        "rule", options=options,
        tooltip="How CFG is shaped; the help page says in a sentence each what they do and when. Chain several nodes "
        "to use several. None costs an evaluation, but CFG++ at cfg 1, and Perp-Neg one.",
    )
    return [chosen, *(entry for entry in inputs_of(Shape) if entry.id in COMMON)]


def shape_rules(
    chosen: Mapping[str, Any], amount: float, schedule: Schedule, region: Region | None = None
) -> list[Shape]:
    """The rules that the node's inputs describe. chosen: the name under `rule`, and the values of its own inputs."""
    kinds = CHOICES[chosen["rule"]]
    return [
        kind(amount=amount, schedule=schedule, region=region, **{entry.id: chosen[entry.id] for entry in _own((kind,))})
        for kind in kinds
    ]


def _own(kinds: Kinds) -> list[io.Input]:
    return [entry for kind in kinds for entry in inputs_of(kind) if entry.id not in COMMON]
