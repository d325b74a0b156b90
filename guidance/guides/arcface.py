"""ArcFace networks (iresnet18 to iresnet200): whose face it is, as a vector."""

from __future__ import annotations

import re
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ..checkpoints.guide_source import GuideFileError, GuideSource
from ..checkpoints.weights import Shapes, misfit, shapes_of
from ..guide import GuideFamily, GuideSpec, family
from ..preprocessing import Preprocessing

SIDE = 112  # pixels of an aligned face
_LAST = SIDE // 16  # four stages halve it
_BLOCK = re.compile(r"layer([1-4])\.([0-9]{1,3})\..+")
_MOST = 200  # blocks of a stage


class FaceBlock(nn.Module):
    """out = bn3(conv2(prelu(bn2(conv1(bn1(x)))))) + shortcut(x)      1801.07698, "improved residual unit" """

    def __init__(self, given: int, made: int, stride: int) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(given)
        self.conv1 = nn.Conv2d(given, made, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(made)
        self.prelu = nn.PReLU(made)
        self.conv2 = nn.Conv2d(made, made, 3, stride, padding=1, bias=False)
        self.bn3 = nn.BatchNorm2d(made)
        self.downsample = None
        if stride > 1:
            shortcut = nn.Conv2d(given, made, 1, stride, bias=False)
            self.downsample = nn.Sequential(shortcut, nn.BatchNorm2d(made))

    def forward(self, x: Tensor) -> Tensor:
        out = self.prelu(self.bn2(self.conv1(self.bn1(x))))
        return self.bn3(self.conv2(out)) + (x if self.downsample is None else self.downsample(x))


class FaceNetwork(nn.Module):
    """Four stages of `blocks` units of `widths` channels, then one linear layer over all of the last map.

    stem: channels before the first stage. features: numbers that come out.
    """

    def __init__(self, stem: int, blocks: tuple[int, ...], widths: tuple[int, ...], features: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, stem, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(stem)
        self.prelu = nn.PReLU(stem)
        for number, (count, given, made) in enumerate(zip(blocks, (stem, *widths), widths, strict=False), 1):
            units = [FaceBlock(given, made, 2), *(FaceBlock(made, made, 1) for _ in range(count - 1))]
            self.add_module(f"layer{number}", nn.Sequential(*units))
        self.bn2 = nn.BatchNorm2d(widths[-1])
        self.fc = nn.Linear(widths[-1] * _LAST**2, features)
        self.features = nn.BatchNorm1d(features)

    def forward(self, input: Tensor, timestep: Tensor | None = None) -> Tensor:
        """[B, 3, 112, 112] -> [B, features], not normalised."""
        x = self.prelu(self.bn1(self.conv1(input)))
        for number in range(1, 5):
            x = self.get_submodule(f"layer{number}")(x)
        return self.features(self.fc(self.bn2(x).flatten(1)))


@family("arcface")
@dataclass(frozen=True)
class ArcFaceFile(GuideFamily):
    """The backbones of insightface's arcface_torch as they are published (`backbone.pth`; iresnet18, 34, 50, 100, 200).

    It sees the square middle of a picture at 112 x 112 pixels in [-1, 1], and was trained on faces aligned to fill it.
    insightface's code is MIT; its trained networks are for non-commercial research only.
    """

    title = "an ArcFace network for faces (iresnet50, iresnet100 and others), such as insightface's backbone.pth"

    def recognises(self, source: GuideSource) -> bool:
        signs = ("features.weight", "fc.weight", "layer1.0.prelu.weight", "layer4.0.downsample.0.weight")
        return not source.is_folder and all(sign in source.shapes for sign in signs)

    def load(self, source: GuideSource) -> tuple[nn.Module, GuideSpec]:
        network = _network(source.shapes)
        problem = misfit(shapes_of(network.state_dict()), source.shapes) if network else "its stages are no iresnet's"
        if network is None or problem:
            raise GuideFileError(f"{source.name} is no ArcFace network that can be read: {problem}. Get it again.")
        weights = source.weights(network.state_dict())
        network.load_state_dict(
            {key: value.float() if value.is_floating_point() else value.clone() for key, value in weights.items()},
            assign=True,
        )
        spec = GuideSpec(source.name, "embedding", preprocessing=Preprocessing((SIDE, SIDE), black=-1.0, white=1.0))
        return network.eval().requires_grad_(False), spec


def _network(shapes: Shapes) -> FaceNetwork | None:
    """On the meta device, with the sizes that the shapes tell; None if they tell none."""
    found = [match for match in map(_BLOCK.fullmatch, shapes) if match]
    blocks = tuple(len({int(m[2]) for m in found if m[1] == str(stage)}) for stage in range(1, 5))
    first = [shapes.get(name, ()) for name in ("conv1.weight", *(f"layer{n}.0.conv1.weight" for n in range(1, 5)))]
    if not all(0 < count <= _MOST for count in blocks) or any(len(shape) != 4 for shape in first):
        return None
    stem, *widths = (shape[0] for shape in first)
    with torch.device("meta"):
        return FaceNetwork(stem, blocks, tuple(widths), shapes["fc.weight"][0])
