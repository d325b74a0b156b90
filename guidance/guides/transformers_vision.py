"""Transformers folders that classify a picture, or map its depth or its things."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from ..checkpoints.guide_source import GuideSource
from ..guide import GuideFamily, GuideSpec, Task, family
from ..preprocessing import resize
from .folder import check_run, labels_of, load_pretrained, preprocessing_of

_TASKS: dict[str, tuple[Task, str]] = {
    "ForImageClassification": ("classification", "AutoModelForImageClassification"),
    "ForDepthEstimation": ("depth", "AutoModelForDepthEstimation"),
    "ForSemanticSegmentation": ("segmentation", "AutoModelForSemanticSegmentation"),
}
_STRIDE = 32  # the deepest features of most networks are this much smaller than the picture


class VisionNetwork(nn.Module):
    """One of transformers' vision networks that gives a plain tensor; maps at the size of its input."""

    def __init__(self, network: nn.Module, task: Task, swap_colours: bool = False) -> None:
        super().__init__()
        self.network = network
        self.task = task
        self.swap_colours = swap_colours

    def forward(self, input: Tensor, timestep: Tensor | None = None) -> Tensor:
        """[B, 3, h, w] -> logits [B, K]; depth [B, 1, h, w]; segmentation [B, K, h, w]."""
        found = self.network(input.flip(1) if self.swap_colours else input, return_dict=True)
        if self.task == "classification":
            return found.logits
        output = found.predicted_depth[:, None] if self.task == "depth" else found.logits
        size = (input.shape[-2], input.shape[-1])
        return output if output.shape[-2:] == size else resize(output, size, "bilinear", antialias=False)


@family("transformers")
@dataclass(frozen=True)
class TransformersVision(GuideFamily):
    """Image classification, depth estimation and semantic segmentation, whatever the Auto classes take.

    The first of "architectures" in config.json decides the task. ResNet, ViT, DeiT, ConvNeXt, Swin, ...; DPT, MiDaS,
    Depth Anything, GLPN, ...; SegFormer, MobileNetV2 with DeepLabV3+, UperNet, ...
    """

    title = "a transformers folder (image classification, depth estimation or semantic segmentation)"

    def recognises(self, source: GuideSource) -> bool:
        return source.is_folder and any(words in source.architecture for words in _TASKS)

    def load(self, source: GuideSource) -> tuple[nn.Module, GuideSpec]:
        task, auto = next(kind for words, kind in _TASKS.items() if words in source.architecture)
        preprocessing = preprocessing_of(source, 1 if task == "classification" else _STRIDE)
        network = load_pretrained(source, auto)
        if task != "classification":
            preprocessing = replace(preprocessing, whole=_takes_any_shape(network, preprocessing.multiple))
        labels = () if task == "depth" else labels_of(source, int(network.config.num_labels))
        swap = bool((source.preprocessor or {}).get("do_flip_channel_order", False))
        spec = GuideSpec(source.name, task, preprocessing=preprocessing, labels=labels)
        seen = VisionNetwork(network, task, swap).eval()
        check_run(source, seen, preprocessing)
        return seen, spec


@torch.no_grad()
def _takes_any_shape(network: nn.Module, multiple: int) -> bool:
    """Whether it maps a picture that is not square. Nothing in config.json says so: some plain ViTs refuse it."""
    try:
        network(torch.zeros(1, 3, 4 * multiple, 6 * multiple), return_dict=True)
    except (RuntimeError, ValueError):
        return False
    return True
