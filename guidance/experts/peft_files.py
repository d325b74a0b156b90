"""The experts of a bank as adapters in the format of Hugging Face's peft, one folder each.

In a folder `adapter_config.json` and `adapter_model.safetensors` hold the low-rank changes, which peft loads over the
plain base. What an expert has besides (biases, norms, BatchNorm's statistics) peft cannot switch with an adapter, so it
lies beside as `whole.safetensors`: a partial state dict, to be loaded into the base before the adapter.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..checkpoints.atomic import atomic_save
from .bank import ExpertBank, LowRank

CONFIG, ADAPTER, WHOLE = "adapter_config.json", "adapter_model.safetensors", "whole.safetensors"
_WRAPPER = "network."  # where the pack's families keep the library's own network


def write_adapter(folder: Path, bank: ExpertBank, expert: int) -> None:
    """Write one expert into a new folder.

    Raises:
        ValueError: it has no low-rank change, in words.
        OSError: it cannot be written.
    """
    adapter, cut = bank.adapters[expert], _cut(bank)
    if not adapter.low_rank:
        raise ValueError(
            f"Expert {expert + 1} is trained whole, without LoRA, so there is nothing of it that peft could load."
        )
    weights = bank.base.state_dict()
    changes = {
        name[cut:].removesuffix(".weight"): _in_peft_layout(change, weights[name])
        for name, change in adapter.low_rank.items()
    }
    tensors = {}
    for layer, change in changes.items():
        tensors[f"base_model.model.{layer}.lora_A.weight"] = change.down
        tensors[f"base_model.model.{layer}.lora_B.weight"] = change.up
    folder.mkdir(parents=True)
    (folder / CONFIG).write_text(json.dumps(_config(changes), indent=2, sort_keys=True) + "\n", "utf-8")
    atomic_save(folder / ADAPTER, _own(tensors), {"format": "pt"})
    if adapter.whole:
        atomic_save(folder / WHOLE, _own({name[cut:]: t for name, t in adapter.whole.items()}), {"format": "pt"})


def as_convolutions(change: LowRank, kernel: int) -> LowRank:
    """loralib's change of a convolution of kernel k as two convolutions, exactly: rank r k becomes r k^2.

    The product's rows o k + p, in pieces of in k, are the change of output o, so it is the sum over p of rows p of the
    first factor times the second, moved to place p: [out, p, r k] times a block-diagonal of k copies.
    """
    inner, width = change.down.shape
    channels = width // kernel
    down = change.down.new_zeros(kernel, inner, kernel, width)
    for place in range(kernel):
        down[place, :, place] = change.down
    up = change.up.view(-1, kernel * inner, 1, 1)
    return LowRank(down.view(kernel * inner, channels, kernel, kernel), up, change.scale)


def _cut(bank: ExpertBank) -> int:
    """How much of the base's names is the pack's wrapper around the library's own network."""
    return len(_WRAPPER) if all(name.startswith(_WRAPPER) for name in bank.base.state_dict()) else 0


def _in_peft_layout(change: LowRank, weight: Tensor) -> LowRank:
    return as_convolutions(change, weight.shape[-1]) if change.down.ndim < weight.ndim else change


def _config(changes: Mapping[str, LowRank]) -> dict[str, Any]:
    """What peft must be told: which layers, and the rank and alpha of each."""
    ranks = {layer: change.down.shape[0] for layer, change in changes.items()}
    alphas = {layer: ranks[layer] * change.scale for layer, change in changes.items()}
    first = next(iter(changes))
    rank, alpha = ranks[first], alphas[first]
    return {
        "peft_type": "LORA", "task_type": None, "base_model_name_or_path": None, "inference_mode": True,
        "r": rank, "lora_alpha": alpha, "lora_dropout": 0.0, "bias": "none", "fan_in_fan_out": False,
        # Whole names: peft's lists and patterns match endings, and a stem called conv1 would match every conv1.
        "target_modules": "|".join(map(re.escape, changes)),
        "rank_pattern": {f"^{re.escape(layer)}": own for layer, own in ranks.items() if own != rank},
        "alpha_pattern": {f"^{re.escape(layer)}": own for layer, own in alphas.items() if own != alpha},
    }


def _own(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Copies that share no memory, which safetensors asks for."""
    kept = torch.contiguous_format
    return {name: tensor.detach().cpu().clone(memory_format=kept) for name, tensor in tensors.items()}
