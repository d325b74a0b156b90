"""The embedded world's denoiser: a U-Net small enough to sample in seconds on a CPU.

Patches are folded into channels before the first layer and unfolded after the last one, so that no layer runs at the
full resolution: 16x16 places of pictures of 32x32 or 64x64, and 8x8 where attention is.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from .limits import require_attributes, require_counts

Attend = Callable[[Tensor, Tensor, Tensor], Tensor]  # q, k, v [B, heads, tokens, channels] -> the same shape
Run = Callable[[Tensor, Attend], Tensor]  # a block: hidden [B, C, H, W] -> hidden, with this attention
Around = Callable[[str, int, Run, Tensor], Tensor]  # calls, or does not call, a block: its part and number, it, hidden


@dataclass(frozen=True)
class TinyConfig:
    """What decides the network's tensors.

    Attributes:
        num_classes: the null class, for unconditional predictions, is one more: index num_classes.
        width: channels of the patches; a multiple of `groups`.
        deep_width: channels at half their resolution; a multiple of `groups` and of `heads`.
        down_blocks, deep_blocks, up_blocks: residual blocks on the way in, at the bottom (with attention), out.
        embedding: width of the noise-level and class embedding.
        timestep_scale: the host's timestep times this should span about [-2, 2].
        patch: pixels on a side that the first layer folds into channels; 4 for pictures of 64x64.
        attributes: how many words each further part of the condition has, beside the class; every part has a null word
            of its own, the last index.
    """

    num_classes: int = 10
    width: int = 48
    deep_width: int = 96
    down_blocks: int = 1
    deep_blocks: int = 4
    up_blocks: int = 2
    embedding: int = 128
    heads: int = 4
    groups: int = 8
    timestep_scale: float = 1.0
    patch: int = 2
    attributes: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        """Raises ValueError for what cannot be built, in words."""
        require_counts(self, ("timestep_scale", "attributes"))
        require_attributes(self.attributes)
        if self.width % self.groups or self.deep_width % self.groups or self.deep_width % self.heads:
            raise ValueError("width and deep_width must be multiples of groups, and deep_width of heads")
        if type(self.timestep_scale) not in (int, float) or not math.isfinite(self.timestep_scale):
            raise ValueError("timestep_scale must be a number")

    def as_dict(self) -> dict[str, Any]:
        return asdict(self) | {"attributes": list(self.attributes)}


def _timestep_embedding(timesteps: Tensor, count: int) -> Tensor:
    """Sines and cosines [B, count] of the timesteps, from an eighth of a turn per unit to eight turns."""
    turns = torch.logspace(-3, 3, count // 2, base=2.0, device=timesteps.device, dtype=torch.float32)
    angles = 2 * math.pi * timesteps.float()[:, None] * turns
    return torch.cat([angles.cos(), angles.sin()], dim=1)


class _Block(nn.Module):
    """Residual block whose second normalisation is scaled and shifted by the embedding."""

    last = "conv_out"

    def __init__(self, channels: int, out: int, config: TinyConfig, operations: Any, **factory: Any) -> None:
        super().__init__()
        self.norm_in = operations.GroupNorm(config.groups, channels, **factory)
        self.conv_in = operations.Conv2d(channels, out, 3, padding=1, **factory)
        self.modulation = operations.Linear(config.embedding, 2 * out, **factory)
        self.norm_out = operations.GroupNorm(config.groups, out, **factory)
        self.conv_out = operations.Conv2d(out, out, 3, padding=1, **factory)
        self.shortcut = operations.Conv2d(channels, out, 1, **factory) if channels != out else nn.Identity()

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        hidden = self.conv_in(F.silu(self.norm_in(x)))
        scale, shift = self.modulation(embedding)[:, :, None, None].chunk(2, dim=1)
        hidden = self.conv_out(F.silu(self.norm_out(hidden) * (1 + scale) + shift))
        return self.shortcut(x) + hidden


class _Attention(nn.Module):
    """Self-attention over all pixels of a picture, added to its input."""

    last = "out"

    def __init__(self, channels: int, config: TinyConfig, operations: Any, **factory: Any) -> None:
        super().__init__()
        self.heads = config.heads
        self.norm = operations.GroupNorm(config.groups, channels, **factory)
        self.qkv = operations.Linear(channels, 3 * channels, **factory)
        self.out = operations.Linear(channels, channels, **factory)

    def forward(self, x: Tensor, attend: Attend) -> Tensor:
        tokens = rearrange(self.norm(x), "b c h w -> b (h w) c")
        q, k, v = rearrange(self.qkv(tokens), "b n (qkv heads c) -> qkv b heads n c", qkv=3, heads=self.heads)
        attended = rearrange(attend(q, k, v), "b heads n c -> b n (heads c)")
        return x + rearrange(self.out(attended), "b (h w) c -> b c h w", h=x.shape[2])


def _run_part(part: str, index: int, run: Run, hidden: Tensor) -> Tensor:
    return run(hidden, F.scaled_dot_product_attention)


class TinyUNet(nn.Module):
    """Class-conditional denoising network; the meaning of its output is the preconditioning's affair.

    Args:
        operations: where the layers come from: Conv2d, Linear and GroupNorm that take `device` and `dtype`
            (`torch.nn`, or the host's `comfy.ops` classes).
        config: the fields of TinyConfig.
    """

    def __init__(self, *, operations: Any = nn, device: Any = None, dtype: Any = None, **config: Any) -> None:
        super().__init__()
        self.config = c = TinyConfig(**config)
        self.words = (c.num_classes + 1, *(count + 1 for count in c.attributes))
        factory = {"device": device, "dtype": dtype}
        self.embed_class = operations.Linear(sum(self.words), c.embedding, bias=False, **factory)
        self.embed_noise = operations.Linear(c.embedding, c.embedding, **factory)
        self.embed_out = operations.Linear(c.embedding, c.embedding, **factory)

        def block(channels: int, out: int) -> _Block:
            return _Block(channels, out, c, operations, **factory)

        self.stem = operations.Conv2d(3 * c.patch**2, c.width, 3, padding=1, **factory)
        self.down = nn.ModuleList(block(c.width, c.width) for _ in range(c.down_blocks))
        self.fold = operations.Conv2d(4 * c.width, c.deep_width, 1, **factory)
        self.deep = nn.ModuleList(block(c.deep_width, c.deep_width) for _ in range(c.deep_blocks))
        self.attention = nn.ModuleList(_Attention(c.deep_width, c, operations, **factory) for _ in range(c.deep_blocks))
        self.unfold = operations.Conv2d(c.deep_width, 4 * c.width, 1, **factory)
        self.up = nn.ModuleList(block(2 * c.width if i == 0 else c.width, c.width) for i in range(c.up_blocks))
        self.passage = operations.Linear(c.embedding, 3, **factory)
        self.norm = operations.GroupNorm(c.groups, c.width, **factory)
        self.head = operations.Conv2d(c.width, 3 * c.patch**2, 3, padding=1, **factory)

    def forward(self, x: Tensor, timesteps: Tensor, y: Tensor, around: Around | None = None) -> Tensor:
        """Predict for a noisy batch.

        Args:
            x: [B, 3, H, W], H and W multiples of 2 patch, scaled as the preconditioning says.
            timesteps: [B], in the host's unit.
            y: int64 [B], the class; num_classes is the null class.
            around: stands between the parts "down", "deep", "up" and their blocks, to watch or change what they do.

        Returns:
            [B, 3, H, W] in x's dtype.

        Raises:
            ValueError: a height or width that is not a multiple of 2 patch.
        """
        stride = 2 * self.config.patch
        if x.shape[-2] % stride or x.shape[-1] % stride:
            raise ValueError(
                f"the tiny denoiser got a picture of {x.shape[-1]}x{x.shape[-2]} pixels; "
                f"width and height must be multiples of {stride}."
            )
        around = around or _run_part
        embedding = self._embed(timesteps, y, x.dtype)
        hidden = self.stem(F.pixel_unshuffle(x, self.config.patch))
        for index, block in enumerate(self.down):
            hidden = around("down", index, lambda h, _, block=block: block(h, embedding), hidden)
        deep = self.fold(F.pixel_unshuffle(hidden, 2))
        for index, (block, mix) in enumerate(zip(self.deep, self.attention, strict=True)):
            deep = around("deep", index, lambda h, a, block=block, mix=mix: mix(block(h, embedding), a), deep)
        hidden = torch.cat([hidden, F.pixel_shuffle(self.unfold(deep), 2)], dim=1)
        for index, block in enumerate(self.up):
            hidden = around("up", index, lambda h, _, block=block: block(h, embedding), hidden)
        # The best linear guess, a multiple of the input that depends on the noise level, needs no layers.
        straight = self.passage(embedding)[:, :, None, None] * x
        return straight + F.pixel_shuffle(self.head(F.silu(self.norm(hidden))), self.config.patch)

    def _embed(self, timesteps: Tensor, y: Tensor, dtype: torch.dtype) -> Tensor:
        angles = _timestep_embedding(timesteps * self.config.timestep_scale, self.config.embedding).to(dtype)
        parts = zip(y.long().view(len(y), -1).unbind(1), self.words, strict=True)
        classes = torch.cat([F.one_hot(word, count) for word, count in parts], dim=1).to(dtype)
        return F.silu(self.embed_out(F.silu(self.embed_noise(angles) + self.embed_class(classes))))

    def initialise(self, generator: torch.Generator) -> None:
        """Draw all weights anew; every residual branch and the output start at zero, so training starts at identity.

        Kept out of the constructor because the host builds networks without initial weights, to load them.
        """
        for name, parameter in self.named_parameters():
            if name.endswith("bias"):
                nn.init.zeros_(parameter)
            elif parameter.ndim == 1:
                nn.init.ones_(parameter)
            else:
                bound = 1 / math.sqrt(parameter[0].numel())
                nn.init.uniform_(parameter, -bound * 3**0.5, bound * 3**0.5, generator=generator)
        nn.init.normal_(self.embed_class.weight, generator=generator)
        for name, module in self.named_modules():
            if isinstance(module, (_Block, _Attention)):
                nn.init.zeros_(self.get_parameter(f"{name}.{module.last}.weight"))
        for layer in (self.passage, self.head):
            nn.init.zeros_(layer.weight)
