"""Perturbation of self-attention: identity, blurred queries, or keys and values at a lower resolution.

A U-Net asks a replacement under patches_replace["attn1"]; inside a transformer's block the perturbation rides on
`optimized_attention_override` while that block runs. What other packs put at the same points is called by ours.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from einops import rearrange

from ...guidance.perturbation import Grid, blend, blur, identity_attention, pool
from .draws import on_rows
from .layers import Layer, Layout
from .one_attention import Attend, additive, overriding, split, unet_attention

ATTENTION_KINDS = ("identity attention", "blurred attention", "pooled attention")
ELSE = "Make the guide of the MODEL before that node, or use kind = skipped layers."


@dataclass
class DegradedAttention:
    """The attention perturbation of one evaluation.

    Attributes:
        spread: of the blur, in tokens.
        factor: of the pooling, in tokens.
        spatial: the noisy input's shape after batch and channels: height and width, perhaps frames before them.
        rows: bool [rows], the rows of the batch that are perturbed; None for all.
    """

    kind: str
    strength: float
    layers: tuple[Layer, ...]
    spread: float
    factor: int
    spatial: tuple[int, ...]
    rows: torch.Tensor | None = None

    def put_on(self, options: dict, layout: Layout) -> None:
        """Change transformer_options (a copy that is ours, with copies of its dictionaries of replacements)."""
        name = "attn1" if layout.unet else "dit"
        replace = options["patches_replace"].setdefault(name, {})
        for part, number in self.layers:
            if not layout.unet:
                key = (f"{part}_block", number)
                replace[key] = self._block(replace.get(key), layout.joint)
                continue
            # The host looks for (part, number, depth) first: one of these would hide ours.
            deeper = [key for key in replace if key[:2] == (part, number) and len(key) == 3]
            for key in [(part, number), *deeper]:
                replace[key] = self._unet(replace.get(key))

    def attend(
        self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, mask: torch.Tensor | None, text: int,
        heads: int, plain: Attend, size: tuple[int, int] | None = None,
    ) -> torch.Tensor:
        """The perturbed attention. q, k, v: [B, tokens, heads * channels], the text's tokens first.

        size: height and width of the layer, in tokens, where they are known.
        """
        self._check_alike(q, k)
        if self.kind == "identity attention":
            whole = plain(q, k, v, mask)
            picture = identity_attention(*(split(part, heads) for part in (q, k, v)), text, mask)
            picture = rearrange(picture, "b heads n c -> b n (heads c)")
            found = blend(whole[..., text:, :], picture, self.strength)
            return torch.cat([whole[..., :text, :], on_rows(self.rows, found, whole[..., text:, :])], -2)
        grid = self._grid(q.shape[-2] - text, size)
        if self.kind == "blurred attention":
            sharp = q[..., text:, :]
            soft = on_rows(self.rows, blend(sharp, blur(sharp, grid, self.spread), self.strength), sharp)
            return plain(torch.cat([q[..., :text, :], soft], -2), k, v, mask)
        coarse = plain(q, *(self._coarse(part, text, grid) for part in (k, v)), self._coarse_mask(mask, text, grid))
        if self.strength == 1.0 and self.rows is None:
            return coarse
        whole = plain(q, k, v, mask)
        return on_rows(self.rows, blend(whole, coarse, self.strength), whole)

    def _coarse(self, tokens: torch.Tensor, text: int, grid: Grid) -> torch.Tensor:
        return torch.cat([tokens[..., :text, :], pool(tokens[..., text:, :], grid, self.factor)], -2)

    def _coarse_mask(self, mask: torch.Tensor | None, text: int, grid: Grid) -> torch.Tensor | None:
        return None if mask is None else self._coarse(mask.unsqueeze(-1), text, grid).squeeze(-1)

    def _check_alike(self, q: torch.Tensor, k: torch.Tensor) -> None:
        """Raise ValueError unless the tokens that ask are those that are asked."""
        if q.shape[:-1] != k.shape[:-1]:
            raise ValueError(
                f"Degraded Model with kind = {self.kind} needs tokens that ask themselves, but in a layer "
                f"{q.shape[0]} x {q.shape[-2]} tokens ask {k.shape[0]} x {k.shape[-2]}: another node on this MODEL "
                f"divides them (HyperTile) or adds some (reference pictures). {ELSE}"
            )

    def _grid(self, tokens: int, size: tuple[int, int] | None) -> Grid:
        """Frames, height and width of a number of tokens. Raises ValueError if they are no grid over the picture."""
        if size is not None and math.prod(size) == tokens:
            return (1, *size)
        height, width = self.spatial[-2:] if len(self.spatial) > 1 else (0, 0)
        frames = math.prod(self.spatial[:-2])
        for patch in (1, 2, 4, 8, 16, 32, 64):
            grid = (frames, math.ceil(height / patch), math.ceil(width / patch))
            if math.prod(grid) == tokens:
                return grid
        raise ValueError(
            f"Degraded Model with kind = {self.kind} needs the picture's tokens as a grid, but a layer has {tokens} of "
            f"them for an input of {' x '.join(map(str, self.spatial))} (reference pictures or other nodes add or "
            f"remove tokens). {ELSE}"
        )

    def _unet(self, inner: Callable | None) -> Callable:
        def replaced(q, k, v, extra, mask=None):
            plain, heads = unet_attention(inner, extra), extra["n_heads"]
            shape = extra.get("activations_shape")  # of the layer's input, [B, C, H, W]
            size = (shape[-2], shape[-1]) if shape is not None and len(shape) == 4 else None
            return self.attend(q, k, v, additive(mask, q), 0, heads, plain, size)

        return replaced

    def _block(self, inner: Callable | None, joint: bool) -> Callable:
        def replaced(args: dict, extra: dict) -> dict:
            if "transformer_options" not in args:
                raise ValueError(
                    f"Degraded Model with kind = {self.kind} reaches the attention inside a block, but another node on "
                    f"this MODEL (TeaCache does so) has replaced the part of the network that calls its blocks. "
                    f"Connect Degraded Model to the MODEL as it was before that node, or use kind = skipped layers."
                )
            options, image = args["transformer_options"], args["img"]
            picture = image.shape[1] if image.ndim == 3 else math.prod(image.shape[2:])
            text = 0
            if joint:  # one stream: what comes first in it is text
                text = args["txt"].shape[1] if "txt" in args else options["img_slice"][0]
                picture -= 0 if "txt" in args else text

            def attend(q, k, v, mask, heads, plain):
                return self.attend(q, k, v, mask, text, heads, plain)

            # The first attention of a block in which the picture asks itself; the others stay as they are.
            override = overriding(
                options.get("optimized_attention_override"),
                lambda asking, asked: asking == asked == text + picture,
                attend,
            )
            args = {**args, "transformer_options": {**options, "optimized_attention_override": override}}
            return extra["original_block"](args) if inner is None else inner(args, extra)

        return replaced
