"""How the weights of two MODELs over one network differ: which patches only one of them has, and what that changes.

A patch that adds to a weight can be computed beside its layer (LoRA, LoHa, LoKr, plain differences of weights and
biases). One that multiplies or replaces the weight cannot (DoRA, OFT, GLoRA, merged checkpoints, resized layers),
unless both MODELs have it, at the beginning of what is applied to that weight.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import comfy.lora
import torch
from comfy.model_patcher import ModelPatcher
from comfy.utils import get_attr
from comfy.weight_adapter import LoHaAdapter, LoKrAdapter, LoRAAdapter, WeightAdapterBase

from ...guidance.networks.layer_changes import LayerChange, LowRankChange, can_change, convolution, is_linear

Patch = tuple[float, Any, float, Any, Any]  # the host's: strength, data, strength_model, offset, function
Patches = dict[str, list[Patch]]
DORA = {LoRAAdapter: 4, LoHaAdapter: 7, LoKrAdapter: 8}  # where an adapter's `weights` hold the DoRA scale
FLOATS = (torch.float32, torch.float16, torch.bfloat16)


def difference(first: Patches, second: Patches) -> Patches:
    """What must be patched on top of `first` to have the weights of `second`, by key; equal keys are left out.

    Patches of `first` come with their strength negated. A key whose patches do not just add keeps them as they are,
    for `obstacle` to name.
    """
    found = {key: _remaining(first.get(key, []), second.get(key, [])) for key in {**first, **second}}
    return {key: patches for key, patches in found.items() if patches}


def obstacle(model: ModelPatcher, patches: Patches) -> str:
    """Why a difference cannot be computed beside the layers of a MODEL, in words; empty if it can."""
    for key, found in patches.items():
        path, _, parameter = key.rpartition(".")
        others = [words for words in map(_obstacle_of, found) if words]
        if others:
            return f"{others[0]} on {key}"
        if parameter not in ("weight", "bias") or not can_change(get_attr(model.model, path)):
            return f"a change of {key}, which is no weight of a plain layer"
    return ""


def layer_changes(model: ModelPatcher, patches: Patches) -> list[tuple[torch.nn.Module, LayerChange]]:
    """The layers of a MODEL that a difference changes, and how; its tensors are moved to the MODEL's device."""
    layers: dict[str, dict[str, list[Patch]]] = {}
    for key, found in patches.items():
        path, _, parameter = key.rpartition(".")
        layers.setdefault(path, {})[parameter] = found
    return [(layer := get_attr(model.model, path), _change(layer, path, found, model.load_device))
            for path, found in layers.items()]


def _remaining(first: list[Patch], second: list[Patch]) -> list[Patch]:
    """The patches of one key that differ: those of `first` negated, those of `second` as they are, equal ones added."""
    common = 0
    while common < min(len(first), len(second)) and _equal(first[common], second[common]):
        common += 1
    first, second = first[common:], second[common:]
    if any(map(_obstacle_of, [*first, *second])):
        return [*first, *second]
    total: dict[tuple, Patch] = {}
    for sign, (strength, data, _, offset, function) in [*((-1.0, p) for p in first), *((1.0, p) for p in second)]:
        key = (id(data), offset, id(function))
        before = total[key][0] if key in total else 0.0
        total[key] = (before + sign * strength, data, 1.0, offset, function)
    return [patch for patch in total.values() if patch[0] != 0.0]


def _equal(first: Patch, second: Patch) -> bool:
    same = first[0] == second[0] and first[2] == second[2] and first[3] == second[3]
    return first is second or (same and first[1] is second[1] and first[4] is second[4])


def _obstacle_of(patch: Patch) -> str:
    """What a patch does to a weight other than to add to it; empty if it just adds."""
    data = patch[1]
    if patch[2] != 1.0 or isinstance(data, list):
        return "a merged checkpoint"
    if isinstance(data, WeightAdapterBase):
        kind = next((kind for kind in DORA if type(data) is kind), None)
        if kind is None or data.weights[DORA[kind]] is not None:
            return f"a {data.name.upper() if kind is None else 'DoRA'}, which does more than add to a weight,"
        return "a LoRA that resizes a layer" if data.calculate_shape("") is not None else ""
    if len(data) == 2 and data[0] != "diff":
        return f"a patch of the kind {data[0]!r}"
    values = data if len(data) == 1 else data[1]
    return "a patch that resizes a layer" if len(values) > 1 and values[1].get("pad_weight") else ""


def _change(layer: Any, path: str, found: Patches, device: torch.device) -> LayerChange:
    dtype = layer.weight.dtype if layer.weight.dtype in FLOATS else None
    weights = found.get("weight", [])
    low = {id(patch): _low_rank(layer, patch, device, dtype) for patch in weights}
    whole = [patch for patch in weights if low[id(patch)] is None]
    return LayerChange(
        tuple(part for part in low.values() if part is not None),
        _whole(f"{path}.weight", whole, layer.weight.shape, device),
        _whole(f"{path}.bias", found["bias"], layer.bias.shape, device) if "bias" in found else None,
    )


def _low_rank(layer: Any, patch: Patch, device: torch.device, dtype: torch.dtype | None) -> LowRankChange | None:
    """The patch as a low-rank change, where it is a LoRA of whole rows of a linear layer's or convolution's weight."""
    strength, data, _, offset, function = patch
    if type(data) is not LoRAAdapter or function is not None or getattr(layer, "groups", 1) != 1:
        return None
    if not (convolution(layer) or is_linear(layer)):
        return None
    up, down, alpha, middle = data.weights[:4]
    start, rows = (0, layer.weight.shape[0]) if offset is None else tuple(offset[1:3])
    shape = (down.shape[0], *layer.weight.shape[1:])
    fits = up.flatten(1).shape == (rows, shape[0]) and down[0].numel() == layer.weight[0].numel()
    if middle is not None or not fits or (offset is not None and offset[0] != 0):
        return None
    scale = strength * (1.0 if alpha is None else alpha / shape[0])
    return LowRankChange(up.flatten(1).to(device, dtype), down.reshape(shape).to(device, dtype), scale, start)


def _whole(key: str, patches: list[Patch], shape: torch.Size, device: torch.device):
    """A function that gives the whole change of a parameter like a tensor's dtype and device; None without patches."""
    if not patches:
        return None
    moved = [(p[0], to_device(p[1], device), p[2], p[3], p[4]) for p in patches]
    return partial(_sum, key, moved, shape)


def _sum(key: str, patches: list[Patch], shape: torch.Size, like: torch.Tensor) -> torch.Tensor:
    zeros = torch.zeros(shape, dtype=like.dtype, device=like.device)
    return comfy.lora.calculate_weight(patches, zeros, key, intermediate_dtype=like.dtype)


def to_device(data: Any, device: torch.device) -> Any:
    """A patch's data with its tensors on a device; the data itself stays as it is."""
    if isinstance(data, torch.Tensor):
        return data.to(device)
    if isinstance(data, WeightAdapterBase):
        return type(data)(data.loaded_keys, to_device(data.weights, device))
    return type(data)(to_device(item, device) for item in data) if isinstance(data, tuple | list) else data


def bytes_of(patches: Patches) -> int:
    """What the tensors of patches take."""
    return sum(_bytes(patch[1]) for found in patches.values() for patch in found)


def _bytes(data: Any) -> int:
    if isinstance(data, torch.Tensor):
        return data.nbytes
    if isinstance(data, WeightAdapterBase):
        return _bytes(data.weights)
    return sum(map(_bytes, data)) if isinstance(data, tuple | list) else 0
