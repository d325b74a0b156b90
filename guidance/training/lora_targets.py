"""Which of a network's weights an expert changes: LoRA on matrices, whole biases and norms (PPAP, Section 4.2)."""

from __future__ import annotations

import re
from dataclasses import dataclass
from fnmatch import fnmatchcase

from torch import nn

AUTO = "auto"
# What the paper adapts. ResNet: the stem and the first two convolutions of every block; ViT: attention's projections.
_FAMILIES = tuple(
    re.compile(rf"(.*\.)?({pattern})")
    for pattern in (
        r"conv1|layer\d+\.\d+\.conv[12]",  # torchvision's ResNet
        r"embedder\.embedder\.convolution|stages\.\d+\.layers\.\d+\.layer\.[01]\.convolution",  # transformers' ResNet
        r"blocks\.\d+\.attn\.(qkv|proj)",  # timm's ViT and DeiT
        r"attention\.(attention\.)?(query|key|value|[qkvo]_proj)|attention\.output\.dense",  # transformers' ViT, DeiT
    )
)
_FEWEST = 4  # matches by which a family is recognised
_NORMS = (nn.modules.batchnorm._BatchNorm, nn.LayerNorm, nn.GroupNorm)


@dataclass(frozen=True)
class Adaptation:
    """What of a network an expert may change.

    Attributes:
        efficient: LoRA, biases and norms alone; otherwise every weight, and so a whole network per expert.
        rank, alpha: of LoRA; the change is alpha / rank times the product of its factors. PPAP: 16, 8.
        layers: names of the layers that get LoRA, with * and ?, separated by commas; "auto": the paper's for ResNet,
            ViT and DeiT, and in any other network all but the last where LoRA is smaller than the weight itself.

    Raises:
        ValueError: a rank or an alpha below 1.
    """

    efficient: bool = True
    rank: int = 16
    alpha: int = 8
    layers: str = AUTO

    def __post_init__(self) -> None:
        if self.rank < 1:
            raise ValueError(f"rank is {self.rank}; it must be 1 or more. PPAP: 16.")
        if self.alpha < 1:
            raise ValueError(f"alpha is {self.alpha}; it must be 1 or more. PPAP: 8 for rank 16.")

    @property
    def scale(self) -> float:
        return self.alpha / self.rank


def low_rank_layers(network: nn.Module, adaptation: Adaptation) -> list[str]:
    """The names of the layers that get LoRA, in the network's order.

    Raises:
        ValueError: a pattern that matches no layer which can have one, naming some that can.
    """
    able = _able(network)
    if adaptation.layers.strip() == AUTO:
        for family in _FAMILIES:
            chosen = [name for name in able if family.fullmatch(name)]
            if len(chosen) >= _FEWEST:
                return chosen
        return [name for name in list(able)[:-1] if _cost(able[name], adaptation.rank) < able[name].weight.numel()]
    patterns = [part.strip() for part in adaptation.layers.split(",") if part.strip()]
    for pattern in patterns:
        if not any(fnmatchcase(name, pattern) for name in able):
            some = ", ".join(list(able)[:4])
            raise ValueError(
                f"layers has {pattern!r}, which is the name of no convolution or linear layer of this network; they "
                f"are called {some}, ... Patterns such as *conv1 are allowed, or {AUTO}."
            )
    return [name for name in able if any(fnmatchcase(name, pattern) for pattern in patterns)]


def whole_tensors(network: nn.Module, adaptation: Adaptation) -> tuple[list[str], list[str]]:
    """The names of the parameters that are trained as they are, and of the buffers that training changes."""
    parameters, buffers = [], []
    for prefix, module in network.named_modules():
        dot = f"{prefix}." if prefix else ""
        for name, _ in module.named_parameters(recurse=False):
            if not adaptation.efficient or isinstance(module, _NORMS) or name.endswith("bias"):
                parameters.append(dot + name)
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            buffers += [dot + name for name, _ in module.named_buffers(recurse=False)]
    return parameters, buffers


def _able(network: nn.Module) -> dict[str, nn.Linear | nn.Conv2d]:
    """The layers that LoRA can change: those inside torch's own attention are read without being called."""
    inside = tuple(f"{n}." for n, module in network.named_modules() if isinstance(module, nn.MultiheadAttention))
    return {
        name: module
        for name, module in network.named_modules()
        if (isinstance(module, nn.Linear) or (isinstance(module, nn.Conv2d) and module.groups == 1))
        and not name.startswith(inside)
    }


def _cost(layer: nn.Linear | nn.Conv2d, rank: int) -> int:
    weight = layer.weight
    return rank * (weight[0].numel() + weight.shape[0])
