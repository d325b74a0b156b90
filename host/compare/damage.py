"""The Degraded Models that guide a MODEL, as settings that can be varied as those of components are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from comfy.model_patcher import ModelPatcher

from ..common.keys import DEGRADED
from ..common.model_options import without_wrappers
from ..degrade.degrade import degrade, perturbations_in
from ..engine.install import with_other_guide
from ..engine.plan import PlannedGuide, guides_of

KIND, STRENGTH, LAYERS = DAMAGES = ("degraded kind", "degraded strength", "degraded layers")


@dataclass(frozen=True)
class Damage:
    """What makes a guide a weaker model: the widgets of Degraded Model. guide: its name on the MODEL's plan."""

    guide: str
    kind: str
    strength: float
    layers: str
    seed: int
    blur: float
    pooling: int

    def __post_init__(self) -> None:
        """Raises ValueError for a strength that is none."""
        if not 0.0 < self.strength <= 1.0:
            raise ValueError(f"{STRENGTH} is {self.strength:g}; it can be above 0 (which guides by nothing), up to 1.")

    def words(self) -> str:
        """In words, as in the table of a comparison."""
        return f"degraded {self.kind} {self.strength:g}" + (f" in {self.layers}" if self.layers else "")


def damages_of(model: ModelPatcher) -> tuple[Damage, ...]:
    """Those of the MODEL's guides, in the order of its plan; a guide that is degraded twice is none of them."""
    return tuple(damage for _, _, damage in _degraded(model))


def with_damages(model: ModelPatcher, wanted: Sequence[Damage]) -> ModelPatcher:
    """A clone of the MODEL whose degraded guides are as wanted, by name; the MODEL itself if they are already.

    Raises:
        ValueError: what the guide's network does not offer, in the words of Degraded Model.
    """
    by_name = {damage.guide: damage for damage in wanted}
    for planned, patcher, damage in _degraded(model):
        new = by_name.get(damage.guide, damage)
        if new != damage:
            model = with_other_guide(model, planned, _degrade_again(patcher, new))
    return model


def set_damage(damages: tuple[Damage, ...], name: str, value: Any, which: int, socket: str) -> tuple[Damage, ...]:
    """One setting of the nth degraded guide changed. socket: the MODEL's, for words.

    Raises:
        ValueError: there is no such guide, or it cannot be so.
    """
    if which > len(damages):
        missing = f"only {len(damages)} Degraded Model" if damages else "no Degraded Model"
        raise ValueError(
            f"{name} is to be varied, and {socket} is guided by {missing}. Connect one to guide_model of Autoguidance."
        )
    setting = name.rpartition(" ")[2]
    changed = replace(damages[which - 1], **{setting: value})
    return (*damages[: which - 1], changed, *damages[which:])


def _degraded(model: ModelPatcher) -> list[tuple[PlannedGuide, ModelPatcher, Damage]]:
    found = []
    for planned, patcher in guides_of(model).items():
        made = perturbations_in(patcher.model_options)
        if len(made) == 1:
            one = made[0]
            damage = Damage(planned.name, one.kind, one.strength, one.text, one.seed, one.spread, one.factor)
            found.append((planned, patcher, damage))
    return found


def _degrade_again(patcher: ModelPatcher, damage: Damage) -> ModelPatcher:
    bare = patcher.clone()
    bare.model_options = without_wrappers(patcher.model_options, DEGRADED)
    widgets = asdict(damage)
    del widgets["guide"]
    return degrade(bare, **widgets)
