"""What ADM's networks are made of, and the released ones.

Source: Dhariwal and Nichol 2021 (2105.05233), appendix I, and guided-diffusion's released files; Choi et al. 2022
(2204.00227) for P2's.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

from ...checkpoints.words import quoted, shown

Order = Literal["legacy", "new"]
Schedule = Literal["linear", "cosine"]
GROUPS = 32
STEPS, MOST_STEPS = 1000, 10_000
HEAD_CHANNELS = 64


@dataclass(frozen=True)
class Encoder:
    """The way down of a U-Net, and all of a classifier but its head.

    Attributes:
        channels: width of the timestep's sines and cosines; four times that is the embedding's.
        widths: channels of each level, the largest pictures first; each level has half the size of the one before.
        res_blocks: residual blocks of a level.
        attention: the levels whose residual blocks are followed by attention; the middle always has one.
        in_channels: of the input: 3, or 6 with a low-resolution picture beside it.
        classes: rows of the class embedding; 0 = unconditional. Of a classifier: what it tells apart.
        heads: attention heads; 0 = one for every 64 channels.
        order: how the channels of q, k and v lie: "legacy" = head by head, "new" = all of q first.
        schedule: the noise that its timesteps count.
        size: height and width of the pictures that it was trained on; 0 = unknown.
        diffusion_steps: how many timesteps the schedule has.
    """

    channels: int
    widths: tuple[int, ...]
    res_blocks: int
    attention: tuple[int, ...]
    in_channels: int = 3
    classes: int = 0
    heads: int = 0
    order: Order = "legacy"
    schedule: Schedule = "linear"
    size: int = 0
    diffusion_steps: int = STEPS

    def __post_init__(self) -> None:
        """Raises ValueError for what cannot be built, in words."""
        for word, value, kinds in (("order", self.order, Order), ("schedule", self.schedule, Schedule)):
            if value not in get_args(kinds):
                raise ValueError(f"{word} is {quoted(value)}; it can be {', '.join(get_args(kinds))}.")
        if self.heads < 0:
            raise ValueError(f"heads is {shown(self.heads)}; it can be 0 ({HEAD_CHANNELS} channels each) or more.")
        if not 1 < self.diffusion_steps <= MOST_STEPS:
            raise ValueError(f"diffusion_steps is {shown(self.diffusion_steps)}; it can be 2 to {MOST_STEPS}.")
        odd = [width for width in self.widths if width % GROUPS]
        if odd:
            raise ValueError(f"a level has {odd[0]} channels; they must be a multiple of {GROUPS}.")
        for width in {self.widths[-1], *(self.widths[level] for level in self.attention)}:
            if width % self.heads_of(width):
                raise ValueError(f"{shown(self.heads_of(width))} heads cannot share {width} channels.")

    @property
    def embedding(self) -> int:
        """Width of the embedding of timestep and class."""
        return 4 * self.channels

    @property
    def beside(self) -> int:
        """Width of what attention sees beside the picture; 0 = nothing."""
        return 0

    @property
    def stride(self) -> int:
        """Height and width must be multiples of this."""
        return 2 ** (len(self.widths) - 1)

    def heads_of(self, width: int) -> int:
        """Attention heads of a layer of that many channels."""
        return self.heads or max(1, width // HEAD_CHANNELS)

    def steps(self) -> Iterator[BlockSpec]:
        """The blocks on the way down, after the first convolution."""
        channels = self.widths[0]
        for level, width in enumerate(self.widths):
            for _ in range(self.res_blocks):
                yield BlockSpec(level, channels, width, attention=level in self.attention)
                channels = width
            if level + 1 < len(self.widths):
                yield BlockSpec(level + 1, channels, channels, resize="down")

    def as_dict(self) -> dict[str, Any]:
        """What the network's class is built with."""
        return asdict(self)


@dataclass(frozen=True)
class BlockSpec:
    """One block: a residual block, with attention after it or with a change of size. level: of its output."""

    level: int
    channels: int
    out: int
    attention: bool = False
    resize: Literal["", "up", "down"] = ""


@dataclass(frozen=True)
class AdmConfig(Encoder):
    """A diffusion U-Net. out_channels: 6 = noise and variance, 3 = noise alone."""

    out_channels: int = 6

    @property
    def enlarges(self) -> bool:
        """Whether it is given a low-resolution picture."""
        return self.in_channels > 3

    def decoder_steps(self) -> Iterator[list[BlockSpec]]:
        """The blocks on the way up: a residual block that is also given a block of the way down, and a change of size.

        The first one of each list takes `channels` with the kept ones included.
        """
        kept = [self.widths[0], *(step.out for step in self.steps())]
        channels = self.widths[-1]
        for level in reversed(range(len(self.widths))):
            width = self.widths[level]
            for index in range(self.res_blocks + 1):
                block = [BlockSpec(level, channels + kept.pop(), width, attention=level in self.attention)]
                if level and index == self.res_blocks:
                    block.append(BlockSpec(level - 1, width, width, resize="up"))
                yield block
                channels = width

    def activations(self, height: int, width: int, copies: int = 3) -> int:
        """Numbers that one picture holds at once at the busiest block of the way up.

        copies: what a block holds of its input while it normalises it: 3 in float32, 5 in half precision.
        """
        kept = [self.widths[0] * height * width]
        kept += [step.out * height * width // 4**step.level for step in self.steps()]
        hidden, most = self.widths[-1] * height * width // 4 ** (len(self.widths) - 1), 0
        for (first, *larger), beside in zip(self.decoder_steps(), reversed(kept), strict=True):
            kept = kept[:-1]
            most = max(most, sum(kept) + hidden + copies * (hidden + beside))
            last = larger[0] if larger else first
            hidden = last.out * height * width // 4**last.level
        return most


@dataclass(frozen=True)
class ClassifierConfig(Encoder):
    """A classifier of noisy pictures. positions: places of the last level's map, and one for their mean."""

    positions: int = 65


def _times(channels: int, *factors: int) -> tuple[int, ...]:
    return tuple(channels * factor for factor in factors)


_LARGE = _times(256, 1, 1, 2, 2, 4, 4)
DENOISERS = {
    "64x64_diffusion": AdmConfig(
        192, _times(192, 1, 2, 3, 4), 3, (1, 2, 3), classes=1000, order="new", schedule="cosine", size=64
    ),
    "128x128_diffusion": AdmConfig(256, _times(256, 1, 1, 2, 3, 4), 2, (2, 3, 4), classes=1000, heads=4, size=128),
    "256x256_diffusion": AdmConfig(256, _LARGE, 2, (3, 4, 5), classes=1000, size=256),
    "256x256_diffusion_uncond": AdmConfig(256, _LARGE, 2, (3, 4, 5), size=256),
    "512x512_diffusion": AdmConfig(256, _times(128, 1, 2, 2, 4, 4, 8, 8), 2, (4, 5, 6), classes=1000, size=512),
    "64_256_upsampler": AdmConfig(
        192, _times(192, 1, 1, 2, 2, 4, 4), 2, (3, 4, 5), in_channels=6, classes=1000, heads=4, size=256
    ),
    "128_512_upsampler": AdmConfig(
        192, _times(192, 1, 1, 2, 2, 4, 4), 2, (4, 5), in_channels=6, classes=1000, size=512
    ),
    "P2": AdmConfig(128, _times(128, 1, 1, 2, 2, 4, 4), 1, (4,), size=256),
}
CLASSIFIERS = {
    "64x64_classifier": ClassifierConfig(
        128, _times(128, 1, 2, 3, 4), 4, (1, 2, 3), classes=1000, schedule="cosine", size=64
    ),
    "128x128_classifier": ClassifierConfig(128, _times(128, 1, 1, 2, 3, 4), 2, (2, 3, 4), classes=1000, size=128),
    "256x256_classifier": ClassifierConfig(128, _times(128, 1, 1, 2, 2, 4, 4), 2, (3, 4, 5), classes=1000, size=256),
    "512x512_classifier": ClassifierConfig(
        128, _times(64, 1, 2, 2, 4, 4, 8, 8), 2, (4, 5, 6), classes=1000, size=512
    ),
}
