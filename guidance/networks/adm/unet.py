"""The ADM U-Net: guided-diffusion's denoiser of pictures, and P2's. Tensor names are those of the released files.

Source: Dhariwal and Nichol 2021 (2105.05233), section 3 and appendix A; Choi et al. 2022 (2204.00227) for P2.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .blocks import Layers, Stem, block_modules, exact_dtype, run_block
from .config import AdmConfig


class AdmUNet(Stem):
    """ADM's denoiser: it predicts the noise in a picture, and where the variance lies between its two bounds.

    Args:
        operations, device, dtype: as in `blocks.Layers`.
        config: the fields of AdmConfig.
    """

    kind: type[AdmConfig] = AdmConfig
    config: AdmConfig

    def __init__(self, *, operations: Any = nn, device: Any = None, dtype: Any = None, **config: Any) -> None:
        c, layers = self.kind(**config), Layers(operations, device, dtype)
        super().__init__(c, layers)
        if c.classes:
            self.label_emb = operations.Embedding(c.classes, c.embedding, **layers.exact)
        blocks = (block_modules(steps, c, layers) for steps in c.decoder_steps())
        self.output_blocks = nn.ModuleList(nn.ModuleList(block) for block in blocks)
        last = layers.conv(c.widths[0], c.out_channels, exact=True)
        self.out = nn.ModuleDict({"0": layers.norm(c.widths[0]), "2": last})

    def forward(self, x: Tensor, timesteps: Tensor, y: Tensor | None = None) -> Tensor:
        """The noise in a noisy batch.

        Args:
            x: [B, in_channels, H, W] in VP coordinates, sqrt(alpha_bar) x0 + sqrt(1 - alpha_bar) n with x0 in [-1, 1];
                H and W multiples of `config.stride`. With 6 channels the last three are the low-resolution picture,
                resized to H, W.
            timesteps: [B] in 0 .. 999, fractions allowed.
            y: int64 [B], the class; None for an unconditional network, which ignores it.

        Returns:
            [B, 3, H, W], in float32 at least.

        Raises:
            ValueError: a size or a number of channels that does not fit, or no class where one is needed.
        """
        return self._predict(x, timesteps, y)[:, :3]

    def forward_with_variance(self, x: Tensor, timesteps: Tensor, y: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """The noise, and the fraction v of the variance's logarithm, both [B, 3, H, W].

        log Sigma = v log beta_t + (1 - v) log tilde_beta_t (Nichol and Dhariwal 2021, 2102.09672, equation 15); v is
        mostly in [0, 1]. Arguments and errors as in `forward`; ValueError too where the network predicts noise alone.
        """
        if self.config.out_channels != 6:
            raise ValueError("this ADM network was trained without a variance; use the variance of your sampler.")
        noise, fraction = self._predict(x, timesteps, y).chunk(2, dim=1)
        return noise, (fraction + 1) / 2

    def _predict(self, x: Tensor, timesteps: Tensor, y: Tensor | None) -> Tensor:
        embedding, text = self._told(self.embed(timesteps, x.dtype), y, x.dtype)
        hidden, kept = self.encode(x, embedding, text)
        for block in self.output_blocks:
            hidden = run_block(block, torch.cat([hidden, kept.pop()], dim=1), embedding, text)
        hidden = hidden.to(exact_dtype(hidden.dtype))
        return self.out["2"](F.silu(self.out["0"](hidden)))

    def _told(self, embedding: Tensor, y: Tensor | None, dtype: torch.dtype) -> tuple[Tensor, Tensor | None]:
        """The embedding with what the network is told, and the text that its attention sees."""
        return (embedding + self._class(y).to(embedding.dtype) if self.config.classes else embedding), None

    def _class(self, y: Tensor | None) -> Tensor:
        if y is None:
            raise ValueError(
                f"this ADM network was trained with a class for every picture, 0 to {self.config.classes - 1}, and "
                f"knows no 'no class'; give it one (Class Label)."
            )
        return self.label_emb(y)

    def _check(self, x: Tensor) -> None:
        super()._check(x)
        if x.shape[1] != self.config.in_channels:
            raise ValueError(
                f"this {self.title} network takes {self.config.in_channels} channels and got {x.shape[1]}; an "
                f"upsampler's last three are the low-resolution picture."
            )
