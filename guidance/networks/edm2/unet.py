"""EDM2: the magnitude-preserving U-Net of Karras et al. 2024, "Analyzing and Improving the Training Dynamics of
Diffusion Models" (configuration G), for evaluation.

Every layer keeps the size of what it gets: weights are normalised as they are used, sums and concatenations are
weighted so that unit size stays unit size, and there are no biases. Tensors are named as in the published snapshots.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from .config import EDM2Config

EPSILON = 1e-4
SILU_SIZE = 0.596  # the root mean square of silu of a standard normal number
LOGVAR_WAVES = 128


def _norm(x: Tensor, dim: int | tuple[int, ...]) -> Tensor:
    """Lengths along `dim`, taken in float32 at least."""
    return torch.linalg.vector_norm(x, dim=dim, keepdim=True, dtype=torch.promote_types(x.dtype, torch.float32))


def normalise(x: Tensor, dim: int) -> Tensor:
    """x divided, along `dim`, by EPSILON plus its root mean square."""
    return x / (EPSILON + _norm(x, dim) / math.sqrt(x.shape[dim])).to(x.dtype)


def silu(x: Tensor) -> Tensor:
    return F.silu(x) / SILU_SIZE


def mp_sum(a: Tensor, b: Tensor, share: float) -> Tensor:
    """The weighted sum of two independent signals of unit size, of unit size again; `share` is b's."""
    return a.lerp(b, share) / math.hypot(1 - share, share)


def mp_cat(a: Tensor, b: Tensor, share: float) -> Tensor:
    """Both along the channels, scaled so that b contributes `share`, and the size of the whole stays 1."""
    scale = math.sqrt((a.shape[1] + b.shape[1]) / ((1 - share) ** 2 + share**2))
    return torch.cat([a * (scale * (1 - share) / a.shape[1] ** 0.5), b * (scale * share / b.shape[1] ** 0.5)], dim=1)


def magnitude_preserving(operations: Any) -> type[nn.Module]:
    """The layer whose weights are normalised as they are used, made of the convolution of `operations`.

    The weights that count are the ones after the host has cast, moved and patched them, and only the host's layer has
    those. Its convolution hands them, as torch's does, to `_conv_forward`, so that is the place to normalise: nothing
    of the host need be known here, and half precision, offloading and LoRA do what they do for any layer. Dense layers
    use the same place with a weight of two dimensions.
    """

    class MPLayer(operations.Conv2d):
        def __init__(self, channels: int, out: int, kernel: int = 0, **factory: Any) -> None:
            """kernel: 0 for a dense layer of vectors [B, channels]."""
            super().__init__(channels, out, max(kernel, 1), padding=kernel // 2, bias=False, **factory)
            if not kernel:
                self.weight = nn.Parameter(self.weight.detach().flatten(1))

        def _conv_forward(self, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
            norm = _norm(weight, tuple(range(1, weight.ndim)))
            weight = (weight / (norm + EPSILON * math.sqrt(weight[0].numel()))).to(input.dtype)
            return F.linear(input, weight) if weight.ndim == 2 else super()._conv_forward(input, weight, None)

    return MPLayer


class MPFourier(nn.Module):
    """Cosines of random frequencies and phases, of unit size: [B] -> [B, count], in float32."""

    freqs: Tensor
    phases: Tensor

    def __init__(self, count: int, device: Any = None) -> None:
        super().__init__()
        self.register_buffer("freqs", torch.zeros(count, device=device))
        self.register_buffer("phases", torch.zeros(count, device=device))

    def forward(self, values: Tensor) -> Tensor:
        # A host that loads a network in part leaves the buffers where they are.
        freqs, phases = (part.to(values.device, torch.float32) for part in (self.freqs, self.phases))
        return math.sqrt(2) * torch.cos(values.float()[:, None] * freqs + phases)


class Block(nn.Module):
    """Residual block, with self-attention where there are heads.

    `encoder` blocks resample, change the channels and normalise every pixel before the residual branch; the others
    change the channels of the skipped branch only.
    """

    def __init__(
        self, layer: type[nn.Module], config: EDM2Config, channels: int, out: int, *,
        encoder: bool, attention: bool = False, resample: str = "", **factory: Any,
    ) -> None:  # fmt: skip
        super().__init__()
        self.config, self.encoder, self.resample = config, encoder, resample
        self.heads = out // config.channels_per_head if attention else 0
        self.emb_gain = nn.Parameter(torch.zeros((), **factory))
        self.conv_res0 = layer(out if encoder else channels, out, 3, **factory)
        self.emb_linear = layer(config.embedding, out, **factory)
        self.conv_res1 = layer(out, out, 3, **factory)
        self.conv_skip = layer(channels, out, 1, **factory) if channels != out else None
        self.attn_qkv = layer(out, 3 * out, 1, **factory) if self.heads else None
        self.attn_proj = layer(out, out, 1, **factory) if self.heads else None

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        if self.resample == "down":
            x = F.avg_pool2d(x, 2)
        elif self.resample == "up":
            x = F.interpolate(x, scale_factor=2, mode="nearest")
        if self.encoder:
            x = normalise(x if self.conv_skip is None else self.conv_skip(x), dim=1)
        scale = self.emb_linear(embedding) * self.emb_gain.to(embedding) + 1
        hidden = self.conv_res0(silu(x))
        hidden = self.conv_res1(silu(hidden * scale[:, :, None, None].to(hidden.dtype)))
        if not self.encoder and self.conv_skip is not None:
            x = self.conv_skip(x)
        x = mp_sum(x, hidden, self.config.res_balance)
        return self._attend(x).clamp(-self.config.clip_act, self.config.clip_act)

    def _attend(self, x: Tensor) -> Tensor:
        if self.attn_qkv is None or self.attn_proj is None:
            return x
        qkv = rearrange(self.attn_qkv(x), "b (heads c qkv) h w -> b heads c qkv (h w)", heads=self.heads, qkv=3)
        q, k, v = rearrange(normalise(qkv, dim=2), "b heads c qkv n -> qkv b heads n c")
        attended = F.scaled_dot_product_attention(q, k, v)
        attended = rearrange(attended, "b heads (h w) c -> b (heads c) h w", h=x.shape[2])
        return mp_sum(x, self.attn_proj(attended), self.config.attn_balance)


class UNet(nn.Module):
    """The network F of EDM2's denoiser."""

    def __init__(self, config: EDM2Config, layer: type[nn.Module], **factory: Any) -> None:
        super().__init__()
        self.config = c = config
        widths = [c.model_channels * factor for factor in c.channel_mult]
        self.emb_fourier = MPFourier(c.model_channels, factory["device"])
        self.emb_noise = layer(c.model_channels, c.embedding, **factory)
        self.emb_label = layer(c.label_dim, c.embedding, **factory) if c.label_dim else None
        self.enc, self.dec = nn.ModuleDict(), nn.ModuleDict()
        skips = self._encoder(layer, widths, **factory)
        self._decoder(layer, widths, skips, **factory)
        self.out_conv = layer(widths[0], c.img_channels, 3, **factory)
        self.out_gain = nn.Parameter(torch.zeros((), **factory))

    def _encoder(self, layer: type[nn.Module], widths: list[int], **factory: Any) -> list[int]:
        c, skips = self.config, []
        for level, width in enumerate(widths):
            size = c.img_resolution >> level
            if level == 0:
                self.enc[f"{size}x{size}_conv"] = layer(c.img_channels + 1, width, 3, **factory)
                skips.append(width)
            else:
                last = skips[-1]
                self.enc[f"{size}x{size}_down"] = Block(layer, c, last, last, encoder=True, resample="down", **factory)
                skips.append(last)
            for index in range(c.num_blocks):
                self.enc[f"{size}x{size}_block{index}"] = Block(
                    layer, c, skips[-1], width, encoder=True, attention=size in c.attn_resolutions, **factory
                )
                skips.append(width)
        return skips

    def _decoder(self, layer: type[nn.Module], widths: list[int], skips: list[int], **factory: Any) -> None:
        c, last = self.config, widths[-1]
        for level, width in reversed(list(enumerate(widths))):
            size = c.img_resolution >> level
            if level == len(widths) - 1:
                self.dec[f"{size}x{size}_in0"] = Block(layer, c, last, last, encoder=False, attention=True, **factory)
                self.dec[f"{size}x{size}_in1"] = Block(layer, c, last, last, encoder=False, **factory)
            else:
                self.dec[f"{size}x{size}_up"] = Block(layer, c, last, last, encoder=False, resample="up", **factory)
            for index in range(c.num_blocks + 1):
                self.dec[f"{size}x{size}_block{index}"] = Block(
                    layer, c, last + skips.pop(), width,
                    encoder=False, attention=size in c.attn_resolutions, **factory,
                )  # fmt: skip
                last = width

    def forward(self, x: Tensor, timesteps: Tensor, y: Tensor | None) -> Tensor:
        embedding = self._embed(timesteps, y)
        x, skips = torch.cat([x, torch.ones_like(x[:, :1])], dim=1), []
        for block in self.enc.values():
            x = block(x, embedding) if isinstance(block, Block) else block(x)
            skips.append(x)
        for name, block in self.dec.items():
            if "_block" in name:
                x = mp_cat(x, skips.pop(), self.config.concat_balance)
            x = block(x, embedding)
        return self.out_conv(x) * self.out_gain.to(x)

    def _embed(self, timesteps: Tensor, y: Tensor | None) -> Tensor:
        """[B, embedding] in float32, as small as it is."""
        embedding = self.emb_noise(self.emb_fourier(timesteps))
        if self.emb_label is not None:
            labels = embedding.new_zeros(len(embedding), self.config.label_dim) if y is None else y.to(embedding)
            embedding = mp_sum(
                embedding, self.emb_label(labels * math.sqrt(self.config.label_dim)), self.config.label_balance
            )
        return silu(embedding)


class EDM2(nn.Module):
    """A published network: the U-Net, and the estimate of its own error that only training used.

    Args:
        operations: where Conv2d comes from: `torch.nn`, or the host's `comfy.ops` classes.
    """

    def __init__(self, config: EDM2Config, *, operations: Any = nn, device: Any = None, dtype: Any = None) -> None:
        super().__init__()
        self.config = config
        layer = magnitude_preserving(operations)
        self.unet = UNet(config, layer, device=device, dtype=dtype)
        self.logvar_fourier = MPFourier(LOGVAR_WAVES, device)
        self.logvar_linear = layer(LOGVAR_WAVES, 1, device=device, dtype=dtype)

    def forward(self, x: Tensor, timesteps: Tensor, y: Tensor | None = None) -> Tensor:
        """F(x; timesteps, y), the raw output that EDM's preconditioning turns into a denoised picture.

        Args:
            x: [B, img_channels, H, W], the noisy batch divided by sqrt(sigma^2 + sigma_data^2).
            timesteps: [B], ln(sigma) / 4.
            y: [B, label_dim], one 1 per row for its class, or zeros for none; None is zeros. Ignored by a network
                without labels.

        Returns:
            [B, img_channels, H, W] in x's dtype.

        Raises:
            ValueError: other channels, or a height or width that cannot be halved once per level.
        """
        multiple = 2 ** (len(self.config.channel_mult) - 1)
        if x.shape[1] != self.config.img_channels or x.shape[-2] % multiple or x.shape[-1] % multiple:
            raise ValueError(
                f"EDM2 got a picture of {x.shape[-1]}x{x.shape[-2]} with {x.shape[1]} channels; it takes "
                f"{self.config.img_channels} channels and a width and height that are multiples of {multiple}."
            )
        return self.unet(x, timesteps, y)
