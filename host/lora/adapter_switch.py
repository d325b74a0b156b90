"""A guide over a network that is resident anyway: its weights are switched on around its evaluations.

The resident MODEL (the main one, as a rule) stays loaded as the host loads it, its LoRAs merged into the weights, and
predicts bit for bit what it predicts without a guide. While the guide is evaluated, the layers whose patches differ
compute the difference beside themselves: minus the resident's LoRAs, plus the guide's. So no weight is moved, restored
or kept twice, and it is all the same whether the network is quantised, offloaded or dynamically loaded. Bypass LoRAs
(the host's injections) and object patches (such as ModelSamplingSD3) are exchanged in the same moment.

The host's own hooks for such LoRAs (comfy/weight_adapter/bypass.py) cannot do it: they write the strength and the kind
of layer onto the adapter, which both MODELs and every guide share; they know no changes of biases and norms, no plain
differences and no parts of joint layers; and they assign to modules, which takes ten times as long at every switch.
"""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any
from uuid import UUID

import comfy.utils
import torch
from comfy.model_patcher import ModelPatcher
from comfy.patcher_extension import WrappersMP

from ...guidance.networks.layer_changes import LayerChange, apply_change
from ..common.keys import WEIGHTS
from ..common.step_cache import PromptCache
from .difference import Patches, bytes_of, difference, layer_changes, obstacle

COMPILED = "torch.compile"  # comfy_api/torch_helpers/torch_compile.py


@dataclass(frozen=True, eq=False)
class Weights:
    """The weights that a guide shall have; its ModelPatcher carries the resident's, for the host to load once."""

    patches: Patches
    uuid: UUID
    injections: dict[str, list]


def weights_of(model: ModelPatcher) -> Weights:
    """The weights that a MODEL shall have when it is evaluated, a switched guide's or any other's."""
    return model.get_attachment(WEIGHTS) or Weights(model.patches, model.patches_uuid, model.injections)


def is_switched(model: ModelPatcher) -> bool:
    """Whether this is a guide over another MODEL's resident network."""
    return model.get_attachment(WEIGHTS) is not None


def weight_patches(resident: ModelPatcher, guide: ModelPatcher) -> Patches:
    """What a guide's weights have that the resident's have not, and the reverse; empty if they are equal."""
    first, second = weights_of(resident), weights_of(guide)
    return {} if first.uuid == second.uuid else difference(first.patches, second.patches)


def same_weights(first: ModelPatcher, second: ModelPatcher) -> bool:
    """Whether two MODELs over one network shall have the same weights, bypass LoRAs included."""
    injected = same_lists(*(weights_of(model).injections for model in (first, second)))
    return injected and not weight_patches(first, second)


def unsupported_reason(resident: ModelPatcher, guide: ModelPatcher) -> str:
    """Why a guide cannot be evaluated over the resident's network, in words; empty if it can."""
    names = {**resident.object_patches, **guide.object_patches}
    replaced = [n for n in names if resident.object_patches.get(n) is not guide.object_patches.get(n)]
    for name in replaced:
        if name == "manual_cast_dtype" or name.startswith("diffusion_model"):
            return f"a replaced {name}"
    if resident.forced_hooks != guide.forced_hooks or not same_lists(
        resident.weight_wrapper_patches, guide.weight_wrapper_patches
    ):
        return "hooks on the weights"
    return obstacle(resident, weight_patches(resident, guide))


def switch_over(resident: ModelPatcher, guide: ModelPatcher) -> ModelPatcher:
    """A clone of the guide that the host loads with the resident's weights; `AdapterSwitch` gives it its own."""
    out = guide.clone()
    out.set_attachments(WEIGHTS, weights_of(guide))
    sync_weights(out, [resident])
    return out


def sync_weights(guide: ModelPatcher, residents: Iterable[ModelPatcher]) -> ModelPatcher | None:
    """Give a switched guide the weights of the first MODEL over its network, and return that MODEL.

    Without one (the main MODEL was moved to another device, say) the guide gets its own and is loaded for itself.
    """
    own = weights_of(guide)
    resident = next((model for model in residents if model.model is guide.model and not is_switched(model)), None)
    loaded = weights_of(resident) if resident is not None else own
    guide.patches = {key: patches[:] for key, patches in loaded.patches.items()}
    guide.patches_uuid = loaded.uuid
    guide.injections = {} if resident is not None else {key: list(found) for key, found in own.injections.items()}
    if resident is not None:
        guide.force_cast_weights = resident.force_cast_weights
        if not same_weights(resident, guide):
            # A compiled network does not see that its layers have been changed: the guide runs uncompiled.
            guide.remove_wrappers_with_key(WrappersMP.APPLY_MODEL, COMPILED)
    return resident


def words(resident: ModelPatcher, guide: ModelPatcher) -> str:
    """What is switched between the two, in words."""
    patches = weight_patches(resident, guide)
    count = len({key.rpartition(".")[0] for key in patches})
    parts = [f"LoRA weights of {count} layers, {bytes_of(patches) / 2**20:.1f} MB"] if count else []
    if not same_lists(weights_of(resident).injections, weights_of(guide).injections):
        parts.append("bypass LoRAs")
    if resident.object_patches != guide.object_patches:
        parts.append("model patches")
    return ", ".join(parts) or "nothing: equal weights"


def same_lists(first: dict, second: dict) -> bool:
    """Equal keys, and under each key the very same objects in the same order."""
    return first.keys() == second.keys() and all(
        len(first[key]) == len(second[key]) and all(a is b for a, b in zip(first[key], second[key], strict=True))
        for key in first
    )


class AdapterSwitch:
    """Gives a guide its own weights in the resident's network, for as long as `on` is entered."""

    def __init__(self, resident: ModelPatcher, guide: ModelPatcher):
        """The networks are on their devices. What the guide's changes take is held until the switch is let go."""
        changes = layer_changes(resident, weight_patches(resident, guide))
        self.resident, self.guide = resident, guide
        self.layers = [ChangedLayer(layer, change) for layer, change in changes]
        own = weights_of(guide).injections
        self.injections = None if same_lists(resident.injections, own) else [i for found in own.values() for i in found]
        names = {**resident.object_patches, **guide.object_patches}
        values = {name: guide.get_model_object(name) for name in names}
        self.objects = {n: v for n, v in values.items() if v is not resident.get_model_object(n)}
        self.prompts = PromptCache(guide.model.diffusion_model)

    @property
    def by_rows(self) -> bool:
        """Whether some rows of a batch can have the guide's weights, and the others the resident's."""
        return self.injections is None and not self.objects

    @contextmanager
    def on(self, rows: torch.Tensor | None = None):
        """While inside, the network answers with the guide's weights. It is left as it was in every case.

        rows: bool [rows], those of the network's batch that it is for (`by_rows`); None for all.
        """
        blocks = None if rows is None else blocks_of(rows)
        with ExitStack() as stack:
            stack.enter_context(self.prompts.swapped())
            if self.injections is not None:
                stack.enter_context(self._injected(self.injections))
            for name, value in self.objects.items():
                before = comfy.utils.set_attr(self.guide.model, name, value)
                stack.callback(comfy.utils.set_attr, self.guide.model, name, before)
            stack.callback(self._restore)
            for layer in self.layers:
                layer.enter(blocks)
            yield

    def _restore(self) -> None:
        for layer in reversed(self.layers):  # a layer may stand at two places of the network
            layer.leave()

    @contextmanager
    def _injected(self, injections: list):
        """The guide's injections in place of the resident's, such as bypass LoRAs."""
        with ExitStack() as stack:
            stack.callback(inject_whole, self.resident)
            self.resident.eject_model()
            for injection in injections:
                stack.callback(partial(injection.eject, self.guide))
                injection.inject(self.guide)
            yield


def inject_whole(model: ModelPatcher) -> None:
    """Put a MODEL's injections back in, all or none: what they move may not fit, or be interrupted on the way.

    The host would take half of them for none (comfy/model_patcher.py, eject_model); loading the MODEL injects again.
    """
    with ExitStack() as undo:
        undo.callback(setattr, model, "is_injected", False)
        for injection in (injection for found in model.injections.values() for injection in found):
            undo.callback(injection.eject, model)
        model.inject_model()
        undo.pop_all()


@dataclass(frozen=True, eq=False)
class SwitchedRows:
    """An APPLY_MODEL wrapper: the guide's weights in some rows (bool [rows]) of a call; None for all of them."""

    switch: AdapterSwitch
    rows: torch.Tensor | None = None

    def __call__(self, executor, x, t, *more, **named):
        with self.switch.on(self.rows):
            return executor(x, t, *more, **named)


@dataclass(frozen=True)
class RowBlocks:
    """Rows of a batch of `count`, as slices."""

    slices: tuple[tuple[int, int], ...]
    count: int


def blocks_of(rows: torch.Tensor) -> RowBlocks:
    """bool [rows] -> the same as slices."""
    chosen, slices = rows.tolist(), []
    for index, mine in enumerate(chosen):
        if mine and slices and slices[-1][1] == index:
            slices[-1] = slices[-1][0], index + 1
        elif mine:
            slices.append((index, index + 1))
    return RowBlocks(tuple(slices), len(chosen))


class ChangedLayer:
    """A layer and its change; between `enter` and `leave` the layer's forward is this object."""

    def __init__(self, layer: torch.nn.Module, change: LayerChange):
        self.layer, self.change = layer, change
        self.forward: Any = None  # the layer's forward without the change, while entered
        self.before: Any = None  # what the instance had in place of its class's forward
        self.blocks: RowBlocks | None = None  # the rows of the network's batch that are changed; None = all

    def enter(self, blocks: RowBlocks | None = None) -> None:
        self.blocks = blocks
        # Written to the instance's dictionary: nn.Module's own attribute assignment takes ten times as long.
        own = self.layer.__dict__
        self.forward, self.before = self.layer.forward, own.get("forward")
        own["forward"] = self

    def leave(self) -> None:
        own = self.layer.__dict__
        if own.get("forward") is not self:
            return
        if self.before is None:
            del own["forward"]
        else:
            own["forward"] = self.before
        self.forward = self.before = self.blocks = None

    def __call__(self, x: torch.Tensor, *more, **named) -> torch.Tensor:
        if more or named:
            raise ValueError(
                f"This model calls a {type(self.layer).__name__} that the LoRA changes with options of its own, so the "
                "LoRA cannot be switched on and off. Load guide_model with a loader node of its own."
            )
        out = self.forward(x)
        if self.blocks is None:
            return apply_change(self.layer, self.change, x, out)
        each, rest = divmod(len(x), self.blocks.count)  # frames or places of one row lie one behind the other
        if rest:
            raise ValueError(
                f"Something calls a {type(self.layer).__name__} that the LoRA changes with {len(x)} rows, where the "
                f"network was given {self.blocks.count}, so the guide's rows cannot be told. Load guide_model with a "
                f"loader node of its own."
            )
        out = out.clone()
        for first, end in self.blocks.slices:
            mine = slice(first * each, end * each)
            out[mine] = apply_change(self.layer, self.change, x[mine], out[mine])
        return out
