"""What ADM's U-Net and its classifiers are built from. Tensor names are those of guided-diffusion's files.

Source: Dhariwal and Nichol 2021 (2105.05233), section 3 and appendix A. As in their mixed precision, the convolutions
and attention are in the network's dtype; normalisation, embeddings and the last layers are never below float32.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from .config import GROUPS, BlockSpec, Encoder, Order


def exact_dtype(dtype: torch.dtype) -> torch.dtype:
    """float64 where the network is float64, else float32."""
    return torch.float64 if dtype == torch.float64 else torch.float32


class Layers:
    """Makes the layers of one network, all from the same namespace.

    Args:
        operations: Conv1d, Conv2d, Linear, GroupNorm, LayerNorm and Embedding that take `device` and `dtype`
            (`torch.nn`, or the host's `comfy.ops` classes).
        dtype: of convolutions; None = PyTorch's default.
    """

    def __init__(self, operations: Any, device: Any, dtype: torch.dtype | None) -> None:
        self.operations = operations
        exact = None if dtype is None else exact_dtype(dtype)
        self.exact: dict[str, Any] = {"device": device, "dtype": exact}
        self.fast = {"device": device, "dtype": dtype}

    def empty(self, *shape: int) -> Tensor:
        """A tensor that a file will fill."""
        return torch.empty(shape, device=self.exact["device"], dtype=self.exact["dtype"])

    def norm(self, channels: int) -> nn.Module:
        return self.operations.GroupNorm(GROUPS, channels, **self.exact)

    def layer_norm(self, channels: int) -> nn.Module:
        return self.operations.LayerNorm(channels, **self.exact)

    def linear(self, channels: int, out: int, exact: bool = True) -> nn.Module:
        return self.operations.Linear(channels, out, **(self.exact if exact else self.fast))

    def conv(self, channels: int, out: int, size: int = 3, exact: bool = False) -> nn.Module:
        factory = self.exact if exact else self.fast
        return self.operations.Conv2d(channels, out, size, padding=size // 2, **factory)

    def pointwise(self, channels: int, out: int, exact: bool = False) -> nn.Module:
        """One linear map of the channels of every place."""
        return self.operations.Conv1d(channels, out, 1, **(self.exact if exact else self.fast))


def normalise(norm: nn.Module, x: Tensor) -> Tensor:
    """Group normalisation with its sums in float32 at least; the result has x's dtype."""
    return norm(x.to(exact_dtype(x.dtype))).to(x.dtype)


def timestep_embedding(timesteps: Tensor, count: int) -> Tensor:
    """Cosines, then sines [B, count] of timesteps [B], from 1 to nearly 1/10000 radians per timestep."""
    exact = timesteps.to(exact_dtype(timesteps.dtype))
    half = count // 2
    rates = torch.exp(torch.arange(half, device=exact.device, dtype=exact.dtype) * (-math.log(10000.0) / half))
    angles = exact[:, None] * rates
    return torch.cat([angles.cos(), angles.sin()], dim=1)


def attend(qkv: Tensor, heads: int, order: Order, beside: Tensor | None = None) -> Tensor:
    """Self-attention over the last axis: [B, 3 C, L] -> [B, C, L].

    Args:
        order: "legacy" = the channels are head by head, each with its q, k and v; "new" = q of all heads, then k, then
            v.
        beside: k and v of other places that are asked too, [B, 2 C, T], head by head.
    """
    channels = "(heads qkv c)" if order == "legacy" else "(qkv heads c)"
    q, k, v = rearrange(qkv, f"b {channels} n -> qkv b heads n c", qkv=3, heads=heads)
    if beside is not None:
        others = rearrange(beside, "b (heads kv c) n -> kv b heads n c", kv=2, heads=heads)
        k, v = torch.cat([others, torch.stack([k, v])], dim=3)
    return rearrange(F.scaled_dot_product_attention(q, k, v), "b heads n c -> b (heads c) n")


class ResBlock(nn.Module):
    """Residual block, scaled and shifted by the embedding, that may double or halve height and width on both ways."""

    def __init__(self, step: BlockSpec, embedding: int, layers: Layers) -> None:
        super().__init__()
        self.resize = step.resize
        # The numbers are the places of these layers in the released files.
        self.in_layers = nn.ModuleDict({"0": layers.norm(step.channels), "2": layers.conv(step.channels, step.out)})
        self.emb_layers = nn.ModuleDict({"1": layers.linear(embedding, 2 * step.out)})
        self.out_layers = nn.ModuleDict({"0": layers.norm(step.out), "3": layers.conv(step.out, step.out)})
        same = step.channels == step.out
        self.skip_connection = nn.Identity() if same else layers.conv(step.channels, step.out, 1)

    def forward(self, x: Tensor, embedding: Tensor, text: Tensor | None = None) -> Tensor:
        hidden = F.silu(normalise(self.in_layers["0"], x))
        hidden, x = self._resized(hidden), self._resized(x)
        hidden = self.in_layers["2"](hidden)
        scale, shift = self.emb_layers["1"](F.silu(embedding)).to(x.dtype)[:, :, None, None].chunk(2, dim=1)
        hidden = F.silu(normalise(self.out_layers["0"], hidden) * (1 + scale) + shift)
        return self.skip_connection(x) + self.out_layers["3"](hidden)

    def _resized(self, x: Tensor) -> Tensor:
        if self.resize == "up":
            return F.interpolate(x, scale_factor=2, mode="nearest")
        return F.avg_pool2d(x, 2) if self.resize == "down" else x


class Attention(nn.Module):
    """Self-attention over all places of a picture, and over a text's where there is one, added to its input."""

    def __init__(self, channels: int, config: Encoder, layers: Layers) -> None:
        super().__init__()
        self.heads, self.order = config.heads_of(channels), config.order
        self.norm = layers.norm(channels)
        self.qkv = layers.pointwise(channels, 3 * channels)
        if config.beside:
            self.encoder_kv = layers.pointwise(config.beside, 2 * channels)
        self.proj_out = layers.pointwise(channels, channels)

    def forward(self, x: Tensor, embedding: Tensor, text: Tensor | None = None) -> Tensor:
        """text: [B, config.beside, T]"""
        places = x.flatten(2)
        beside = None if text is None else self.encoder_kv(text)
        mixed = attend(self.qkv(normalise(self.norm, places)), self.heads, self.order, beside)
        return (places + self.proj_out(mixed)).view(x.shape)


class Stem(nn.Module):
    """What a U-Net and a classifier share: the embedding of the timestep and the way down to the middle."""

    title = "ADM"

    def __init__(self, config: Encoder, layers: Layers) -> None:
        super().__init__()
        self.config = config
        first, last = config.widths[0], config.widths[-1]
        timed = {"0": layers.linear(config.channels, config.embedding)}
        self.time_embed = nn.ModuleDict(timed | {"2": layers.linear(config.embedding, config.embedding)})
        self.input_blocks = nn.ModuleList([nn.ModuleList([layers.conv(config.in_channels, first)])])
        self.input_blocks.extend(nn.ModuleList(block_modules([step], config, layers)) for step in config.steps())
        middle = BlockSpec(len(config.widths) - 1, last, last, attention=True)
        self.middle_block = nn.ModuleList(block_modules([middle, BlockSpec(middle.level, last, last)], config, layers))

    def embed(self, timesteps: Tensor, dtype: torch.dtype) -> Tensor:
        """[B] -> [B, embedding], in float32 at least. dtype: of the pictures."""
        turned = timestep_embedding(timesteps, self.config.channels).to(exact_dtype(dtype))
        return self.time_embed["2"](F.silu(self.time_embed["0"](turned)))

    def encode(self, x: Tensor, embedding: Tensor, text: Tensor | None = None) -> tuple[Tensor, list[Tensor]]:
        """The middle's output, and the output of every block on the way."""
        self._check(x)
        stem, *blocks = self.input_blocks
        (first,) = stem.children()
        hidden = first(x)
        kept = [hidden]
        for block in blocks:
            hidden = run_block(block, hidden, embedding, text)
            kept.append(hidden)
        return run_block(self.middle_block, hidden, embedding, text), kept

    def _check(self, x: Tensor) -> None:
        stride = self.config.stride
        if x.shape[-2] % stride or x.shape[-1] % stride:
            raise ValueError(
                f"this {self.title} network got a picture of {x.shape[-1]}x{x.shape[-2]} pixels; width and height must "
                f"be multiples of {stride}."
            )


def block_modules(steps: list[BlockSpec], config: Encoder, layers: Layers) -> Iterator[nn.Module]:
    """The modules of one numbered block of a file."""
    for step in steps:
        yield ResBlock(step, config.embedding, layers)
        if step.attention:
            yield Attention(step.out, config, layers)


def run_block(block: Any, x: Tensor, embedding: Tensor, text: Tensor | None = None) -> Tensor:
    """One numbered block after another: [B, C, h, w] -> [B, C', h', w']."""
    for layer in block:
        x = layer(x, embedding, text)
    return x
