"""The embedded world's guides: one small residual network that names a picture's class or maps its depth or things.

Pixels are folded into channels before the first layer, as in the tiny denoiser, so that no layer runs at the full size
and the gradient of a guided step costs little beside the denoiser.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...checkpoints.words import quoted
from .limits import require_counts

STRIDE = 4  # height and width must be multiples of this
GuideTask = Literal["classification", "depth", "segmentation"]
Norm = Literal["group", "batch"]


@dataclass(frozen=True)
class TinyGuideConfig:
    """What decides the network's tensors.

    Attributes:
        task: class scores, a depth map, or class scores of every pixel.
        num_classes: segmentation has one more, 0, the background.
        width: channels after the first layer; twice and three times at the next halvings of the resolution. A multiple
            of `groups`.
        timestep: whether it is told how noisy the picture is, as a timestep 0 .. 999.
        norm: "group", or "batch" as in most networks that were trained for something else.
        embedding: width of the timestep's embedding.
        patch: pixels on a side that the first layer folds into channels; 4 for pictures of 64x64.
        channels: of what it looks at: 3 of pictures, more of latents.
    """

    task: GuideTask = "classification"
    num_classes: int = 10
    width: int = 40
    timestep: bool = False
    norm: Norm = "group"
    groups: int = 8
    embedding: int = 64
    patch: int = 2
    channels: int = 3

    def __post_init__(self) -> None:
        for word, value, kinds in (("task", self.task, GuideTask), ("norm", self.norm, Norm)):
            if value not in get_args(kinds):
                raise ValueError(f"{word} is {quoted(value)}; it can be {', '.join(get_args(kinds))}.")
        require_counts(self, ("task", "norm", "timestep"))
        if self.width % self.groups or self.embedding % 2 or type(self.timestep) is not bool:
            raise ValueError("width must be a multiple of groups, embedding of 2, and timestep true or false")

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


class _Layers:
    """Makes the layers of one network, all from the same namespace and with the same device and dtype."""

    def __init__(self, config: TinyGuideConfig, operations: Any, factory: dict[str, Any]) -> None:
        self.config, self.operations, self.factory = config, operations, factory

    def conv(self, channels: int, out: int, size: int = 3, stride: int = 1) -> nn.Module:
        return self.operations.Conv2d(channels, out, size, stride=stride, padding=size // 2, **self.factory)

    def linear(self, channels: int, out: int) -> nn.Module:
        return self.operations.Linear(channels, out, **self.factory)

    def norm(self, channels: int) -> nn.Module:
        if self.config.norm == "batch":
            return nn.BatchNorm2d(channels, **self.factory)  # the host's namespace has none
        return self.operations.GroupNorm(self.config.groups, channels, **self.factory)


class _GuideBlock(nn.Module):
    """Residual block; where there is a timestep, its embedding scales and shifts the second normalisation."""

    def __init__(self, channels: int, out: int, layers: _Layers) -> None:
        super().__init__()
        self.norm_in, self.norm_out = layers.norm(channels), layers.norm(out)
        self.conv_in, self.conv_out = layers.conv(channels, out), layers.conv(out, out)
        self.modulation = layers.linear(layers.config.embedding, 2 * out) if layers.config.timestep else None
        self.shortcut = layers.conv(channels, out, 1) if channels != out else nn.Identity()

    def forward(self, x: Tensor, embedding: Tensor | None) -> Tensor:
        hidden = self.norm_out(self.conv_in(F.silu(self.norm_in(x))))
        if self.modulation is not None:
            scale, shift = self.modulation(embedding)[:, :, None, None].chunk(2, dim=1)
            hidden = hidden * (1 + scale) + shift
        return self.shortcut(x) + self.conv_out(F.silu(hidden))


class TinyGuide(nn.Module):
    """Guide of RGB pictures in [-1, 1], clean or, with a timestep, noisy in VP coordinates.

    Args:
        operations: where the layers come from: Conv2d, Linear and GroupNorm that take `device` and `dtype`
            (`torch.nn`, or the host's `comfy.ops` classes).
        config: the fields of TinyGuideConfig.

    Raises:
        ValueError: an unknown task or norm.
    """

    def __init__(self, *, operations: Any = nn, device: Any = None, dtype: Any = None, **config: Any) -> None:
        super().__init__()
        self.config = c = TinyGuideConfig(**config)
        layers = _Layers(c, operations, {"device": device, "dtype": dtype})
        widths = (c.width, 2 * c.width, 3 * c.width)
        self.stem = layers.conv(c.channels * c.patch**2, c.width)
        self.encoder = nn.ModuleList(_GuideBlock(w, w, layers) for w in widths)
        self.down = nn.ModuleList(layers.conv(a, b, stride=2) for a, b in zip(widths[:-1], widths[1:], strict=True))
        self.embed = None
        if c.timestep:
            self.embed = nn.ModuleList(layers.linear(c.embedding, c.embedding) for _ in range(2))
        if c.task == "classification":
            self.norm = layers.norm(widths[-1])
            self.head = layers.linear(widths[-1], c.num_classes)
        else:
            self.up = nn.ModuleList(layers.conv(a, b, 1) for a, b in ((widths[2], widths[1]), (widths[1], widths[0])))
            self.decoder = nn.ModuleList(_GuideBlock(2 * w, w, layers) for w in (widths[1], widths[0]))
            self.norm = layers.norm(c.width)
            self.head = layers.conv(c.width, c.patch**2 * (1 if c.task == "depth" else c.num_classes + 1))

    def forward(self, pictures: Tensor, timestep: Tensor | None = None) -> Tensor:
        """What the network says of a batch.

        Args:
            pictures: [B, 3, H, W], H and W multiples of 4.
            timestep: [B] in 0 .. 999, fractions allowed; None for a network without one, which ignores it.

        Returns:
            Class scores (logits) [B, num_classes]; depth [B, 1, H, W]; or per pixel logits [B, num_classes + 1, H, W],
            0 the background and label + 1 a thing.

        Raises:
            ValueError: a height or width that is not a multiple of 4, or no timestep where one is needed.
        """
        if pictures.shape[-2] % STRIDE or pictures.shape[-1] % STRIDE:
            raise ValueError(
                f"the tiny guide got a picture of {pictures.shape[-1]}x{pictures.shape[-2]} pixels; "
                f"width and height must be multiples of {STRIDE}."
            )
        embedding = self._embed(timestep, pictures.dtype)
        hidden = self.stem(F.pixel_unshuffle(pictures, self.config.patch))
        passed = []
        for level, block in enumerate(self.encoder):
            hidden = block(self.down[level - 1](hidden) if level else hidden, embedding)
            passed.append(hidden)
        if self.config.task == "classification":
            return self.head(F.silu(self.norm(hidden)).mean((2, 3)))
        for up, block, beside in zip(self.up, self.decoder, passed[-2::-1], strict=True):
            larger = F.interpolate(up(hidden), beside.shape[-2:], mode="nearest")
            hidden = block(torch.cat([larger, beside], dim=1), embedding)
        return F.pixel_shuffle(self.head(F.silu(self.norm(hidden))), self.config.patch)

    def _embed(self, timestep: Tensor | None, dtype: torch.dtype) -> Tensor | None:
        if self.embed is None:
            return None
        if timestep is None:
            raise ValueError("this tiny guide was trained on noisy pictures; it needs their timesteps, 0 to 999.")
        # In radians per timestep: the slowest wave spans the schedule once, the fastest tells 30 timesteps apart.
        rates = torch.logspace(-3, -1, self.config.embedding // 2, device=timestep.device, dtype=torch.float32)
        angles = timestep.float()[:, None] * rates
        embedding = torch.cat([angles.cos(), angles.sin()], dim=1).to(dtype)
        first, second = self.embed
        return F.silu(second(F.silu(first(embedding))))

    def initialise(self, generator: torch.Generator) -> None:
        """Draw all weights anew; every residual branch and the output start at zero.

        Kept out of the constructor because the host builds networks without initial weights, to load them.
        """
        for name, parameter in self.named_parameters():
            if parameter.ndim == 1:
                nn.init.constant_(parameter, 0.0 if name.endswith("bias") else 1.0)
            elif name.endswith("conv_out.weight") or name == "head.weight":
                nn.init.zeros_(parameter)
            else:
                nn.init.kaiming_uniform_(parameter, nonlinearity="linear", generator=generator)
