"""MobileNetV2 as Keras and TensorFlow.js have it, for what `tools/convert_nsfwjs.py` writes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..checkpoints.guide_source import GuideFileError, GuideSource
from ..checkpoints.json_text import parse_json
from ..checkpoints.weights import misfit, shapes_of
from ..guide import GuideFamily, GuideSpec, family
from ..networks.midas import BLOCK_EPS, MidasBlock, SameConv
from ..preprocessing import Preprocessing

FORMAT = "guidance-components/keras-mobilenet-v2/1"
_SIDE = 224
_MOST = 4096  # channels; and blocks at most _BLOCKS
_BLOCKS = 64


class KerasMobileNet(nn.Module):
    """Sandler et al. 2018, 1801.04381, with TensorFlow's padding and epsilon, and dense layers with ReLU between.

    stem: channels of the first convolution. blocks: (channels inside, channels that come out, stride) of each; the
    first is depthwise separable. features: channels before the mean. head: widths of the dense layers.
    """

    def __init__(self, stem: int, blocks: Sequence[Sequence[int]], features: int, head: Sequence[int]) -> None:
        super().__init__()
        self.stem, self.stem_norm = SameConv(3, stem, 3, 2, bias=False), nn.BatchNorm2d(stem, eps=BLOCK_EPS)
        given, made = stem, []
        for number, (inner, out, stride) in enumerate(blocks):
            made.append(MidasBlock(given, inner, out, 3, stride, separable=number == 0))
            given = out
        self.blocks = nn.Sequential(*made)
        self.last, self.last_norm = nn.Conv2d(given, features, 1, bias=False), nn.BatchNorm2d(features, eps=BLOCK_EPS)
        self.head = nn.ModuleList(nn.Linear(a, b) for a, b in zip((features, *head), head, strict=False))

    def forward(self, input: Tensor, timestep: Tensor | None = None) -> Tensor:
        """[B, 3, h, w] -> logits [B, K]"""
        x = self.blocks(F.relu6(self.stem_norm(self.stem(input))))
        x = F.relu6(self.last_norm(self.last(x))).mean((2, 3))
        for number, layer in enumerate(self.head):
            x = layer(x.relu() if number else x)
        return x


@family("keras mobilenet")
@dataclass(frozen=True)
class KerasMobileNetFile(GuideFamily):
    """One safetensors file whose header has "format", "config" (the network's arguments) and "labels" as JSON."""

    title = "a MobileNetV2 that tools/convert_nsfwjs.py wrote"

    def recognises(self, source: GuideSource) -> bool:
        return source.metadata.get("format") == FORMAT

    def load(self, source: GuideSource) -> tuple[nn.Module, GuideSpec]:
        try:
            config = parse_json(source.metadata.get("config", ""), dict)
            labels = parse_json(source.metadata.get("labels", ""), list)
            _check(config)
            with torch.device("meta"):
                network = KerasMobileNet(**config)
            spec = GuideSpec(
                source.name, "classification", preprocessing=Preprocessing((_SIDE, _SIDE)), labels=tuple(labels)
            )
        except (ValueError, TypeError) as error:  # arguments that are missing, unknown or of another kind
            raise GuideFileError(f"{source.name}: its header cannot be right ({error}); convert it again.") from None
        problem = misfit(shapes_of(network.state_dict()), source.shapes)
        if problem or len(labels) != config["head"][-1]:
            raise GuideFileError(f"{source.name} does not fit its own header: {problem or 'labels'}. Convert it again.")
        weights = source.weights(network.state_dict())
        network.load_state_dict({key: value.clone() for key, value in weights.items()}, assign=True)
        return network.float().eval().requires_grad_(False), spec


def _check(config: Mapping[str, Any]) -> None:
    """Raise ValueError for numbers that no such network has, before anything is built."""
    blocks, head = config.get("blocks"), config.get("head")
    if not isinstance(blocks, list) or not isinstance(head, list) or not head or not 0 < len(blocks) <= _BLOCKS:
        raise ValueError("blocks and head must be lists")
    numbers = [config.get("stem"), config.get("features"), *head, *(n for block in blocks for n in list(block))]
    if len(head) > _BLOCKS or not all(type(n) is int and 0 < n <= _MOST for n in numbers):
        raise ValueError(f"its sizes must be whole numbers from 1 to {_MOST}")
