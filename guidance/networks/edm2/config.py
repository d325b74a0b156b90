"""Which EDM2 a state dict is: read off the names and shapes of its tensors alone."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ...checkpoints.inert_pickle import CheckpointError
from ...checkpoints.weights import misfit
from ...checkpoints.words import shown

Shapes = Mapping[str, tuple[int, ...]]

MOST = 2**20
MARKS = ("unet.emb_fourier.freqs", "unet.emb_noise.weight", "unet.out_conv.weight", "unet.out_gain")
SIZES = {64: "XXS", 128: "XS", 192: "S", 256: "M", 320: "L", 384: "XL", 448: "XXL"}
_FIRST = re.compile(r"unet\.enc\.([1-9]\d{0,4})x\1_conv\.weight", re.ASCII)


@dataclass(frozen=True)
class EDM2Config:
    """What decides the network's tensors, and the constants that leave no trace in them. Defaults: EDM2-XS img512.

    Attributes:
        img_resolution: side of the pictures that it was trained on, which names the blocks.
        label_dim: number of classes; 0 for an unconditional network.
        model_channels, channel_mult: channels at the first level, and their factors at each.
        num_blocks: residual blocks per level on the way in; one more on the way out.
        attn_resolutions: where the blocks have attention; the first on the way out has it anyway.
        label_balance, concat_balance, res_balance, attn_balance: shares of the label, the skipped connection, the
            residual and the attention in their weighted sums.
        clip_act: activations are kept within plus and minus this.
        sigma_data: standard deviation that the preconditioning takes the data to have.
    """

    img_resolution: int = 64
    img_channels: int = 4
    label_dim: int = 1000
    model_channels: int = 128
    channel_mult: tuple[int, ...] = (1, 2, 3, 4)
    num_blocks: int = 3
    attn_resolutions: tuple[int, ...] = (16, 8)
    channels_per_head: int = 64
    label_balance: float = 0.5
    concat_balance: float = 0.5
    res_balance: float = 0.3
    attn_balance: float = 0.3
    clip_act: float = 256.0
    sigma_data: float = 0.5

    def __post_init__(self) -> None:
        """Raises ValueError for what cannot be built, in words."""
        sizes = ("img_resolution", "img_channels", "model_channels", "num_blocks", "channels_per_head")
        for key in (*sizes, "label_dim"):
            value = getattr(self, key)
            if type(value) is not int or not (key == "label_dim" or value > 0) or not 0 <= value < MOST:
                raise ValueError(f"{key} is {shown(value)}; it must be a whole number below {MOST}")
        for key in ("channel_mult", "attn_resolutions"):
            values = getattr(self, key)
            if not isinstance(values, tuple) or not all(type(each) is int and 0 < each < MOST for each in values):
                raise ValueError(f"{key} must be whole numbers above 0")
        for key in ("label_balance", "concat_balance", "res_balance", "attn_balance", "clip_act", "sigma_data"):
            value, most = getattr(self, key), 1.0 if key.endswith("balance") else 1e6
            if type(value) not in (int, float) or not 0 <= value <= most:
                raise ValueError(f"{key} is {shown(value)}; it must be a number from 0 to {most:g}")
        self._check_heads()

    def _check_heads(self) -> None:
        last = len(self.channel_mult) - 1
        for level, factor in enumerate(self.channel_mult):
            attends = level == last or self.img_resolution >> level in self.attn_resolutions
            if attends and self.model_channels * factor % self.channels_per_head:
                raise ValueError(f"channels_per_head is {self.channels_per_head}, which does not divide its channels")

    @property
    def embedding(self) -> int:
        """Width of the noise-level and label embedding."""
        return self.model_channels * max(self.channel_mult)

    @property
    def title(self) -> str:
        """What people call it."""
        size = SIZES.get(self.model_channels, f"{self.model_channels} channels")
        kind = {3: "pixels", 4: "latents"}.get(self.img_channels, f"{self.img_channels} channels")
        classes = f"{self.label_dim} classes" if self.label_dim else "unconditional"
        return f"EDM2 {size}, {self.img_resolution}x{self.img_resolution} {kind}, {classes}"


def is_edm2(shapes: Shapes) -> bool:
    """Whether the tensors' names are those of an EDM2."""
    return all(mark in shapes for mark in MARKS) and any(_FIRST.fullmatch(name) for name in shapes)


def config_of(name: str, shapes: Shapes, settings: Mapping[str, Any] | None = None) -> EDM2Config:
    """The config of a state dict.

    Args:
        name: the file's name, for messages.
        settings: what the network was built with, where the file says so. It gives the constants that leave no trace,
            and must agree with the tensors on the rest.

    Raises:
        CheckpointError: not EDM2, or tensors and settings that contradict each other.
    """
    if not is_edm2(shapes):
        lacking = next((mark for mark in MARKS if mark not in shapes), "unet.enc.64x64_conv.weight")
        raise CheckpointError(
            f"{name} is no EDM2: its {len(shapes)} tensors do not include {lacking}; choose an edm2-img512 or "
            f"edm2-img64 file."
        )
    try:
        found = _from_shapes(shapes)
    except (KeyError, IndexError, ZeroDivisionError) as error:
        raise CheckpointError(
            f"{name} has some of EDM2's tensors but not all ({shown(str(error))} is missing or has another shape); get "
            f"it again."
        ) from None
    return _merged(name, found, settings or {})


def _merged(name: str, found: EDM2Config, settings: Mapping[str, Any]) -> EDM2Config:
    """What the shapes and the settings say together. Raises CheckpointError where they contradict each other."""
    known = {field.name for field in dataclasses.fields(EDM2Config)}
    given = {
        key: tuple(value) if isinstance(value, list) else value
        for key, value in settings.items()
        if key in known and value is not None
    }
    try:
        merged = dataclasses.replace(found, **given)
    except ValueError as error:
        raise CheckpointError(f"{name} cannot be built as an EDM2: {error}; get it again.") from None
    for key in ("img_resolution", "img_channels", "label_dim", "model_channels", "channel_mult", "num_blocks"):
        if getattr(merged, key) != getattr(found, key):
            raise CheckpointError(
                f"{name} contradicts itself: it was built with {key} {_said(getattr(merged, key))}, but its tensors "
                f"have {_said(getattr(found, key))}; get it again."
            )
    return merged


def _from_shapes(shapes: Shapes) -> EDM2Config:
    side = next(int(found[1]) for found in map(_FIRST.fullmatch, shapes) if found)
    channels = shapes["unet.emb_fourier.freqs"][0]
    factors, attention = [], []
    while f"unet.enc.{side >> len(factors)}x{side >> len(factors)}_block0.emb_gain" in shapes:
        level = side >> len(factors)
        block = f"unet.enc.{level}x{level}_block0"
        factors.append(shapes[f"{block}.conv_res1.weight"][0] // channels)
        if f"{block}.attn_qkv.weight" in shapes:
            attention.append(level)
    blocks = sum(name.startswith(f"unet.enc.{side}x{side}_block") and name.endswith("emb_gain") for name in shapes)
    if not factors:
        raise KeyError(f"unet.enc.{side}x{side}_block0.emb_gain")
    return EDM2Config(
        img_resolution=side,
        img_channels=shapes["unet.out_conv.weight"][0],
        label_dim=shapes["unet.emb_label.weight"][1] if "unet.emb_label.weight" in shapes else 0,
        model_channels=channels,
        channel_mult=tuple(factors),
        num_blocks=blocks,
        attn_resolutions=tuple(attention),
    )


def check_shapes(name: str, config: EDM2Config, own: Shapes, found: Shapes) -> None:
    """Raises CheckpointError unless a file's names and shapes (`found`) are exactly the network's (`own`)."""
    if problem := misfit(own, found):
        raise CheckpointError(f"{name} looks like {config.title}, but {problem}; get it again.")


def _said(value: Any) -> str:
    return ", ".join(map(shown, value[:8])) if isinstance(value, tuple) else shown(value)
