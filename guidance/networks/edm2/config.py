"""Which EDM2 a state dict is: read off the names and shapes of its tensors alone."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ...checkpoints.inert_pickle import CheckpointError

Shapes = Mapping[str, tuple[int, ...]]

MARKS = ("unet.emb_fourier.freqs", "unet.emb_noise.weight", "unet.out_conv.weight", "unet.out_gain")
SIZES = {64: "XXS", 128: "XS", 192: "S", 256: "M", 320: "L", 384: "XL", 448: "XXL"}
_FIRST = re.compile(r"unet\.enc\.(\d+)x\1_conv\.weight$")


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
    return all(mark in shapes for mark in MARKS) and any(_FIRST.match(name) for name in shapes)


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
            f"{name} has some of EDM2's tensors but not all ({error} is missing or has another shape); get it again."
        ) from error
    known = {field.name for field in dataclasses.fields(EDM2Config)}
    given = {
        key: tuple(value) if isinstance(value, list) else value
        for key, value in (settings or {}).items()
        if key in known and value is not None
    }
    merged = dataclasses.replace(found, **given)
    for key in ("img_resolution", "img_channels", "label_dim", "model_channels", "channel_mult", "num_blocks"):
        if getattr(merged, key) != getattr(found, key):
            raise CheckpointError(
                f"{name} contradicts itself: it was built with {key} {getattr(merged, key)}, but its tensors have "
                f"{getattr(found, key)}; get it again."
            )
    return merged


def _from_shapes(shapes: Shapes) -> EDM2Config:
    side = next(int(found[1]) for found in map(_FIRST.match, shapes) if found)
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
    problems = [f"lacks {key}" for key in own.keys() - found.keys()]
    problems += [f"has the unknown {key}" for key in found.keys() - own.keys()]
    problems += [
        f"has {key} of shape {list(found[key])} where {list(own[key])} is expected"
        for key in own.keys() & found.keys()
        if own[key] != found[key]
    ]
    if problems:
        more = f" (and {len(problems) - 2} more)" if len(problems) > 2 else ""
        raise CheckpointError(
            f"{name} looks like {config.title}, but it {', it '.join(sorted(problems)[:2])}{more}; get it again."
        )
