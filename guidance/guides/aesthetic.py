"""Aesthetic heads: how much people like a picture, in one number, from the features that a CLIP sees in it."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..checkpoints.guide_source import GuideFileError, GuideSource
from ..checkpoints.weights import Shapes, shapes_of
from ..guide import GuideFamily, GuideSpec, family
from .image_text import ImageText, ImageTextNetwork

# The places of the linear layers in the published heads, and whether there is a ReLU before every one but the first.
# Between them lies dropout, which does nothing when pictures are judged.
_LAYOUTS: dict[tuple[int, ...], bool] = {(0, 2, 4, 6, 7): False, (0, 3, 6, 9, 11): True}
_LAYER = re.compile(r"layers\.([0-9]{1,2})\.weight")


class AestheticNetwork(nn.Module):
    """score = head(e / |e|), of the vector e that CLIP gives for the picture."""

    def __init__(self, clip: ImageTextNetwork, head: nn.Module) -> None:
        super().__init__()
        self.clip = clip
        self.head = head

    def forward(self, input: Tensor, timestep: Tensor | None = None) -> Tensor:
        """[B, 3, h, w] -> [B, 1], more is better; the heads were trained on votes from 1 to 10."""
        return self.head(F.normalize(self.clip(input)))


class LayeredHead(nn.Module):
    """Linear layers under the published names, with or without a ReLU between them.

    widths: of the features, and of what each layer gives; places: of the layers, by which their weights are named.
    """

    def __init__(self, widths: tuple[int, ...], places: tuple[int, ...], relu: bool) -> None:
        super().__init__()
        pairs = zip(places, widths[:-1], widths[1:], strict=True)
        self.layers = nn.ModuleDict({str(place): nn.Linear(given, made) for place, given, made in pairs})
        self.relu = relu

    def forward(self, features: Tensor) -> Tensor:
        for number, layer in enumerate(self.layers.values()):
            features = layer(features.relu() if number and self.relu else features)
        return features


@family("aesthetic")
@dataclass(frozen=True)
class AestheticHead(GuideFamily):
    """LAION's heads over OpenAI's CLIP ViT-L/14: the predictor of christophschuhmann/improved-aesthetic-predictor
    (`layers.0.weight`, ...; Apache-2.0) and the older single layer of LAION-AI/aesthetic-predictor (`weight`, `bias`;
    MIT); and others of their kind. The CLIP must be the one that the head was trained on.
    """

    title = "an aesthetic head over CLIP's features, such as sac+logos+ava1-l14-linearMSE.pth"
    is_head = True

    def recognises(self, source: GuideSource) -> bool:
        return not source.is_folder and _head(source.shapes) is not None

    def load(self, source: GuideSource) -> tuple[nn.Module, GuideSpec]:
        head = _head(source.shapes)
        width = next(shape[1] for shape in source.shapes.values() if len(shape) == 2)
        if head is None:
            raise GuideFileError(f"{source.name} is {self.title} no more; get the file again.")
        clip, spec = _clip(source, width)
        weights = source.weights(head.state_dict())
        head.load_state_dict({key: tensor.to(torch.float32, copy=True) for key, tensor in weights.items()}, assign=True)
        return AestheticNetwork(clip, head).eval().requires_grad_(False), replace(
            spec, name=source.name, task="score", reads_text=False
        )


def _head(shapes: Shapes) -> nn.Module | None:
    """The published head that has exactly tensors of these shapes, on the meta device; None if there is none."""
    places = tuple(sorted(int(match[1]) for match in map(_LAYER.fullmatch, shapes) if match))
    weights = [shapes[name] for name in (*(f"layers.{place}.weight" for place in places), "weight") if name in shapes]
    if not weights or any(len(shape) != 2 for shape in weights) or places not in (*_LAYOUTS, ()):
        return None
    widths = (weights[0][1], *(shape[0] for shape in weights))
    with torch.device("meta"):
        head = LayeredHead(widths, places, _LAYOUTS[places]) if places else nn.Linear(widths[0], 1)
    return head if widths[-1] == 1 and shapes_of(head.state_dict()) == dict(shapes) else None


def _clip(source: GuideSource, width: int) -> tuple[ImageTextNetwork, GuideSpec]:
    """The CLIP behind a head, without what reads text. Raises GuideFileError if it is none, or another one."""
    backbone = source.backbone
    if backbone is None or backbone.config.get("model_type") != "clip" or not ImageText().recognises(backbone):
        came = f"{backbone.name} is none" if backbone else "none is chosen"
        raise GuideFileError(
            f"{source.name} is an aesthetic head: it reads the features of a CLIP, {width} numbers, and {came}. Put "
            f"the CLIP that it was trained on (LAION's heads of 768 numbers: the folder openai/clip-vit-large-patch14 "
            f"from the Hugging Face Hub) into models/guides, and choose it in clip."
        )
    network, spec = ImageText().read(backbone)
    own = int(network.network.config.projection_dim)
    if own != width:
        raise GuideFileError(
            f"{source.name} reads {width} features, and {backbone.name} gives {own}. Choose the CLIP that the head was "
            f"trained on in clip (768: openai/clip-vit-large-patch14; 512: openai/clip-vit-base-patch32 or -patch16)."
        )
    network.network.text_model = network.network.text_projection = None  # a head reads pictures alone
    return network, spec
