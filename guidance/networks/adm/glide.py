"""GLIDE: ADM's U-Net that also reads a text. Tensor names are those of the released files.

Source: Nichol et al. 2021 (2112.10741), section 4: a transformer over the text's tokens; what it makes of the last one
is added to the timestep's embedding, and attention over the picture asks all of them too.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .blocks import Layers, attend, exact_dtype, normalise
from .config import HEAD_CHANNELS, AdmConfig
from .unet import AdmUNet

PADDING = -1  # in place of a token where the text is over
CONTEXT, VOCABULARY = 128, 50257
INPUTS = {"base": 3, "upsample": 6, "base_inpaint": 7, "upsample_inpaint": 10}  # channels
ENLARGING, INPAINTING = (6, 10), (7, 10)  # of these


@dataclass(frozen=True)
class GlideConfig(AdmConfig):
    """A U-Net that reads a text.

    Attributes:
        in_channels: 3, and before the low-resolution picture (3) the known picture and its mask (4), where it is given
            them.
        text_width: of the transformer over tokens, 64 for each of its heads.
        text_layers: its blocks.
        context: tokens of a text, padding included.
        vocabulary: how many different tokens there are.
    """

    text_width: int = 512
    text_layers: int = 16
    context: int = CONTEXT
    vocabulary: int = VOCABULARY

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.in_channels not in INPUTS.values():
            known = ", ".join(map(str, INPUTS.values()))
            raise ValueError(f"it takes {self.in_channels} channels; GLIDE's take {known}.")
        if self.text_width % self.text_heads:
            raise ValueError(f"{self.text_heads} heads cannot share the text's {self.text_width} channels.")

    @property
    def beside(self) -> int:
        return self.text_width

    @property
    def text_heads(self) -> int:
        return max(1, self.text_width // HEAD_CHANNELS)

    @property
    def enlarges(self) -> bool:
        return self.in_channels in ENLARGING

    @property
    def inpaints(self) -> bool:
        """Whether it is given the known part of a picture and a mask."""
        return self.in_channels in INPAINTING

    def activations(self, height: int, width: int, copies: int = 3) -> int:
        """As of the U-Net, and the text, which stays until the end."""
        return super().activations(height, width, copies) + self.text_width * self.context


class TextBlock(nn.Module):
    """Self-attention over tokens [B, T, C] and two layers for each of them, both added to their input."""

    def __init__(self, width: int, heads: int, layers: Layers) -> None:
        super().__init__()
        self.heads = heads
        self.ln_1, self.ln_2 = layers.layer_norm(width), layers.layer_norm(width)
        self.attn = nn.ModuleDict({
            "c_qkv": layers.linear(width, 3 * width, exact=False), "c_proj": layers.linear(width, width, exact=False)
        })
        self.mlp = nn.ModuleDict({
            "c_fc": layers.linear(width, 4 * width, exact=False), "c_proj": layers.linear(4 * width, width, exact=False)
        })

    def forward(self, x: Tensor) -> Tensor:
        qkv = self.attn["c_qkv"](normalise(self.ln_1, x)).transpose(1, 2)
        x = x + self.attn["c_proj"](attend(qkv, self.heads, "legacy").transpose(1, 2))
        return x + self.mlp["c_proj"](F.gelu(self.mlp["c_fc"](normalise(self.ln_2, x))))


class GlideUNet(AdmUNet):
    """GLIDE's denoiser: it predicts the noise in a picture of what a text says.

    Args:
        operations, device, dtype: as in `blocks.Layers`.
        config: the fields of GlideConfig.
    """

    kind, title = GlideConfig, "GLIDE"

    def __init__(self, *, operations: Any = nn, device: Any = None, dtype: Any = None, **config: Any) -> None:
        super().__init__(operations=operations, device=device, dtype=dtype, **config)
        c, layers = self._own, Layers(operations, device, dtype)
        width = c.text_width
        self.token_embedding = operations.Embedding(c.vocabulary, width, **layers.exact)
        self.positional_embedding = nn.Parameter(layers.empty(c.context, width))
        self.padding_embedding = nn.Parameter(layers.empty(c.context, width))
        blocks = [TextBlock(width, c.text_heads, layers) for _ in range(c.text_layers)]
        self.transformer = nn.ModuleDict({"resblocks": nn.ModuleList(blocks)})
        self.final_ln = layers.layer_norm(width)
        self.transformer_proj = layers.linear(width, c.embedding)

    @property
    def _own(self) -> GlideConfig:
        return cast(GlideConfig, self.config)

    def forward(self, x: Tensor, timesteps: Tensor, y: Tensor | None = None) -> Tensor:
        """The noise in a noisy batch.

        Args:
            x: [B, in_channels, H, W]: three channels in VP coordinates as ADM's; for inpainting the known picture in
                [-1, 1], 0 where it is to be made, and a mask, 1 where it is known; for an upsampler the low-resolution
                picture, resized to H, W.
            timesteps: [B] in 0 .. 999, fractions allowed.
            y: int64 [B, context], the text's tokens, below 0 for padding. All padding is the empty text.

        Returns:
            [B, 3, H, W], in float32 at least.

        Raises:
            ValueError: a size, a number of channels or a text that does not fit.
        """
        return super().forward(x, timesteps, y)

    def read(self, tokens: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """What a text says in short, [B, embedding], and in each of its places, [B, text_width, context].

        tokens: int64 [B, context]. dtype: of the pictures.
        """
        words = self.token_embedding(tokens.clamp(min=0))
        place, padding = (one.to(words) for one in (self.positional_embedding, self.padding_embedding))
        hidden = torch.where((tokens < 0)[..., None], padding, words + place).to(dtype)
        for block in cast(nn.ModuleList, self.transformer["resblocks"]):
            hidden = block(hidden)
        hidden = normalise(self.final_ln, hidden)
        return self.transformer_proj(hidden[:, -1].to(exact_dtype(dtype))), hidden.transpose(1, 2)

    def _told(self, embedding: Tensor, y: Tensor | None, dtype: torch.dtype) -> tuple[Tensor, Tensor | None]:
        count = self._own.context
        if y is None or y.shape[1:] != (count,):
            given = "none" if y is None else f"a tensor of shape {list(y.shape)}"
            raise ValueError(f"this GLIDE network reads the {count} tokens of a text (GLIDE Prompt) and got {given}.")
        short, text = self.read(y, dtype)
        return embedding + short, text


def _released(widths: tuple[int, ...], res_blocks: int, kind: str, size: int) -> GlideConfig:
    schedule = "linear" if "upsample" in kind else "cosine"
    attention = tuple(level for level in range(len(widths)) if size >> level <= 32)
    return GlideConfig(192, widths, res_blocks, attention, INPUTS[kind], schedule=schedule, size=size)


_SMALL, _LARGE = (192, 384, 576, 768), (192, 192, 384, 384, 768, 768)
GLIDE = {
    f"GLIDE's {kind}": _released(_LARGE, 2, kind, 256) if "upsample" in kind else _released(_SMALL, 3, kind, 64)
    for kind in INPUTS
}
