"""MiDaS v2.1 small, the depth network of PPAP's experts for DeepFloyd IF."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from ..checkpoints.guide_source import GuideFileError, GuideSource
from ..checkpoints.weights import misfit, shapes_of
from ..guide import GuideFamily, GuideSpec, family
from ..networks.midas import midas_of
from ..preprocessing import Preprocessing

_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet
_SIDE, _MULTIPLE = 256, 32


@family("midas")
@dataclass(frozen=True)
class MidasSmallFile(GuideFamily):
    """midas_v21_small_256.pt as isl-org/MiDaS publishes it (MIT); the inverse of depth, up to scale and shift."""

    title = "MiDaS small as it is published, midas_v21_small_256.pt"

    def recognises(self, source: GuideSource) -> bool:
        signs = ("pretrained.layer1.0.weight", "scratch.refinenet1.out_conv.weight", "scratch.output_conv.4.bias")
        return not source.is_folder and all(sign in source.shapes for sign in signs)

    def load(self, source: GuideSource) -> tuple[nn.Module, GuideSpec]:
        network = midas_of(source.shapes)
        problem = misfit(shapes_of(network.state_dict()), source.shapes) if network else "its encoder is another one"
        if network is None or problem:
            raise GuideFileError(
                f"{source.name} is no MiDaS small that can be read: {problem}. Get midas_v21_small_256.pt again; "
                f"larger MiDaS and DPT networks are read as transformers folders."
            )
        weights = source.weights(network.state_dict())
        network.load_state_dict(
            {key: value.float() if value.is_floating_point() else value.clone() for key, value in weights.items()},
            assign=True,
        )
        seen = Preprocessing(
            (_SIDE, _SIDE), multiple=_MULTIPLE, mean=_MEAN, std=_STD, filter="bicubic", antialias=False, whole=True,
            within=True,
        )
        return network.eval().requires_grad_(False), GuideSpec(source.name, "depth", preprocessing=seen)
