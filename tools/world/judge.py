"""The judge: a classifier of clean pictures whose features measure quality, independent of whatever guides."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from guidance_pack.guidance.networks.tiny import files

CLASSIFIER = "guidance-components/tiny-classifier/1"
JUDGE = Path(__file__).with_name("shapes-judge.safetensors")


@dataclass(frozen=True)
class ClassifierConfig:
    """Attributes: num_classes; width, channels at half the resolution (doubled at a quarter); features, length of the
    feature vector; thumbnail, side of the small copy of the picture that the features must also be able to redraw."""

    num_classes: int = 10
    width: int = 32
    features: int = 64
    thumbnail: int = 8
    groups: int = 8

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


class Classifier(nn.Module):
    """Class scores and a feature vector of clean 32x32 pictures in [-1, 1].

    Trained on labels alone, features forget all that labels do not need, such as colour and background, and a distance
    in them would not see it go wrong. The second head, which redraws a thumbnail, keeps these in the features.
    """

    def __init__(self, *, operations: Any = nn, device: Any = None, dtype: Any = None, **config: Any) -> None:
        super().__init__()
        self.config = c = ClassifierConfig(**config)
        factory = {"device": device, "dtype": dtype}
        widths = [12, c.width, 2 * c.width, 2 * c.width, 4 * c.width]
        strides = [1, 2, 1, 2]
        self.convs = nn.ModuleList(
            operations.Conv2d(a, b, 3, stride=s, padding=1, **factory)
            for a, b, s in zip(widths[:-1], widths[1:], strides, strict=True)
        )
        self.norms = nn.ModuleList(operations.GroupNorm(c.groups, b, **factory) for b in widths[1:])
        self.to_features = operations.Linear(4 * c.width * 16, c.features, **factory)
        self.to_scores = operations.Linear(c.features, c.num_classes, **factory)
        self.to_thumbnail = operations.Linear(c.features, 3 * c.thumbnail**2, **factory)

    def features(self, images: Tensor) -> Tensor:
        """[B, 3, 32, 32] in [-1, 1] to [B, features]."""
        hidden = F.pixel_unshuffle(images, 2)
        for conv, norm in zip(self.convs, self.norms, strict=True):
            hidden = F.silu(norm(conv(hidden)))
        return self.to_features(hidden.flatten(1))

    def forward(self, images: Tensor) -> Tensor:
        """[B, 3, 32, 32] in [-1, 1] to class scores (logits) [B, num_classes]."""
        return self.to_scores(F.silu(self.features(images)))

    def loss(self, images: Tensor, labels: Tensor) -> Tensor:
        """Cross-entropy of the labels plus the mean squared error of the redrawn thumbnail, a scalar."""
        features = self.features(images)
        side = self.config.thumbnail
        redrawn = self.to_thumbnail(features).view(-1, 3, side, side)
        thumbnail = F.adaptive_avg_pool2d(images, side)
        return F.cross_entropy(self.to_scores(F.silu(features)), labels) + F.mse_loss(redrawn, thumbnail)

    def initialise(self, generator: torch.Generator) -> None:
        """Draw all weights anew from the generator."""
        for name, parameter in self.named_parameters():
            if name.endswith("bias"):
                nn.init.zeros_(parameter)
            elif parameter.ndim == 1:
                nn.init.ones_(parameter)
            else:
                bound = math.sqrt(3 / parameter[0].numel())
                nn.init.uniform_(parameter, -bound, bound, generator=generator)


def read_judge(path: Path = JUDGE) -> files.NetworkFile:
    """The judge's file. Raises as `files.read_network` does."""
    return files.read_network(path, CLASSIFIER)


files.declare(CLASSIFIER, Classifier, files.COMMON)
