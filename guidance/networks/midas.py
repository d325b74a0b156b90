"""MiDaS v2.1 small: the inverse of depth from one picture, EfficientNet-Lite3 and a decoder of four fusions.

Ranftl et al. 2020, 1907.01341; the encoder after Tan and Le 2019, 1905.11946, without squeeze and excitation. Names and
shapes are those of the published file, midas_v21_small_256.pt.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

BLOCK_EPS = 1e-3  # of batch normalisation in TensorFlow, where the encoder was trained
_OUT = 32


@dataclass(frozen=True)
class EncoderStage:
    """One stage of the encoder: channels that come out, those inside of each block, and the kernel's side."""

    channels: int
    inner: tuple[int, ...]
    kernel: int


STRIDES = (1, 2, 2, 2, 1, 2, 1)
LAYERS = ((0, 1), (2,), (3, 4), (5, 6))  # which stages the published file keeps together
_PLACES = ("layer1.3", "layer1.4", "layer2.0", "layer3.0", "layer3.1", "layer4.0", "layer4.1")  # where each lies


class SameConv(nn.Conv2d):
    """A convolution that pads as TensorFlow does: as much as the stride needs, the odd pixel below and right."""

    def forward(self, input: Tensor) -> Tensor:
        kernel, stride = self.kernel_size[0], int(self.stride[0])
        sides = (input.shape[-1], input.shape[-2])
        lacks = [max((-(side // -stride) - 1) * stride + kernel - side, 0) for side in sides]
        padded = F.pad(input, [side for lack in lacks for side in (lack // 2, lack - lack // 2)])
        return self._conv_forward(padded, self.weight, self.bias)


class MidasBlock(nn.Module):
    """Depthwise separable (the first stage), or an inverted residual: 1x1 up, depthwise, 1x1 down."""

    def __init__(self, given: int, inner: int, made: int, kernel: int, stride: int, separable: bool) -> None:
        super().__init__()
        self.separable = separable
        self.residual = stride == 1 and given == made
        wide = given if separable else inner
        if not separable:
            self.conv_pw = nn.Conv2d(given, wide, 1, bias=False)
            self.bn1 = nn.BatchNorm2d(wide, eps=BLOCK_EPS)
        self.conv_dw = SameConv(wide, wide, kernel, stride, groups=wide, bias=False)
        last = nn.Conv2d(wide, made, 1, bias=False)
        if separable:
            self.bn1, self.conv_pw = nn.BatchNorm2d(wide, eps=BLOCK_EPS), last
            self.bn2 = nn.BatchNorm2d(made, eps=BLOCK_EPS)
            return
        self.bn2, self.conv_pwl = nn.BatchNorm2d(wide, eps=BLOCK_EPS), last
        self.bn3 = nn.BatchNorm2d(made, eps=BLOCK_EPS)

    def forward(self, x: Tensor) -> Tensor:
        if self.separable:
            out = self.bn2(self.conv_pw(F.relu6(self.bn1(self.conv_dw(x)))))
        else:
            out = F.relu6(self.bn1(self.conv_pw(x)))
            out = self.bn3(self.conv_pwl(F.relu6(self.bn2(self.conv_dw(out)))))
        return out + x if self.residual else out


class ResidualUnit(nn.Module):
    """x + conv2(relu(conv1(relu(x))))"""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv2(F.relu(self.conv1(F.relu(x))))


class Fusion(nn.Module):
    """Adds what a finer layer saw, and doubles the size."""

    def __init__(self, channels: int, made: int) -> None:
        super().__init__()
        self.out_conv = nn.Conv2d(channels, made, 1)
        self.resConfUnit1 = ResidualUnit(channels)
        self.resConfUnit2 = ResidualUnit(channels)

    def forward(self, x: Tensor, finer: Tensor | None = None) -> Tensor:
        whole = x if finer is None else x + self.resConfUnit1(finer)
        large = F.interpolate(self.resConfUnit2(whole), scale_factor=2, mode="bilinear", align_corners=True)
        return self.out_conv(large)


class MidasSmall(nn.Module):
    """Pictures whose sides are multiples of 32 to maps of the same size, large where it is near.

    stem: channels before the first stage. features: of the decoder's finest layer; each coarser one has twice as many.
    """

    def __init__(self, stem: int, stages: Sequence[EncoderStage], features: int) -> None:
        super().__init__()
        self.pretrained, self.scratch = nn.Module(), nn.Module()
        first = [SameConv(3, stem, 3, 2, bias=False), nn.BatchNorm2d(stem, eps=BLOCK_EPS), nn.ReLU6()]
        given = (stem, *(stage.channels for stage in stages))
        made = [_stage(number, given[number], stage) for number, stage in enumerate(stages)]
        for layer, places in enumerate(LAYERS, 1):
            parts = [*(first if layer == 1 else []), *(made[place] for place in places)]
            self.pretrained.add_module(f"layer{layer}", nn.Sequential(*parts))
            wide, seen = features * 2 ** (layer - 1), stages[places[-1]].channels
            self.scratch.add_module(f"layer{layer}_rn", nn.Conv2d(seen, wide, 3, padding=1, bias=False))
            self.scratch.add_module(f"refinenet{layer}", Fusion(wide, wide // (2 if layer > 1 else 1)))
        self.scratch.output_conv = nn.Sequential(
            nn.Conv2d(features, features // 2, 3, padding=1), nn.Upsample(scale_factor=2, mode="bilinear"),
            nn.Conv2d(features // 2, _OUT, 3, padding=1), nn.ReLU(), nn.Conv2d(_OUT, 1, 1), nn.ReLU(),
        )  # fmt: skip

    def forward(self, input: Tensor, timestep: Tensor | None = None) -> Tensor:
        """[B, 3, h, w] -> [B, 1, h, w], 0 or more."""
        seen = [input]
        for layer in range(1, 5):
            seen.append(self.pretrained.get_submodule(f"layer{layer}")(seen[-1]))
        path = None
        for layer in range(4, 0, -1):
            found = self.scratch.get_submodule(f"layer{layer}_rn")(seen[layer])
            fusion = self.scratch.get_submodule(f"refinenet{layer}")
            path = fusion(found) if path is None else fusion(path, found)
        return self.scratch.get_submodule("output_conv")(path)


def _stage(number: int, given: int, stage: EncoderStage) -> nn.Sequential:
    blocks, stride = [], STRIDES[number]
    for inner in stage.inner:
        blocks.append(MidasBlock(given, inner, stage.channels, stage.kernel, stride, separable=number == 0))
        given, stride = stage.channels, 1
    return nn.Sequential(*blocks)


def midas_of(shapes: dict[str, tuple[int, ...]]) -> MidasSmall | None:
    """The network that a file with these shapes holds, on the meta device; None if they are no MiDaS small's."""
    stages = [_stage_of(shapes, f"pretrained.{place}.", separable=place == _PLACES[0]) for place in _PLACES]
    stem, decoder = (shapes.get(name, ()) for name in ("pretrained.layer1.0.weight", "scratch.layer1_rn.weight"))
    known = [stage for stage in stages if stage is not None]
    if len(known) < len(stages) or len(stem) != 4 or len(decoder) != 4:
        return None
    with torch.device("meta"):
        return MidasSmall(stem[0], known, decoder[0])


def _stage_of(shapes: dict[str, tuple[int, ...]], prefix: str, separable: bool) -> EncoderStage | None:
    deep: list[tuple[int, ...]] = []
    while len(shape := shapes.get(f"{prefix}{len(deep)}.conv_dw.weight", ())) == 4:
        deep.append(shape)
    last = shapes.get(f"{prefix}0.{'conv_pw' if separable else 'conv_pwl'}.weight", ())
    if not deep or len(last) != 4:
        return None
    return EncoderStage(last[0], tuple(shape[0] for shape in deep), deep[0][-1])
