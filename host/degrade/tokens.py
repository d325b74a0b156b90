"""Perturbation of what a transformer's block is given: the picture's tokens in another order.

A block is called by a replacement under patches_replace["dit"]; what other packs put there runs inside ours. U-Nets
offer no such place before their blocks' tokens.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

from .draws import Draws, on_rows
from .layers import Layer, Layout

SHUFFLED = "shuffled tokens"


@dataclass
class ShuffledTokens:
    """The shuffling of one evaluation. strength: the share of the tokens that change places."""

    strength: float
    layers: tuple[Layer, ...]
    draws: Draws
    rows: torch.Tensor | None = None  # bool [rows], those that are perturbed; None for all

    def put_on(self, options: dict, layout: Layout) -> None:
        """Change transformer_options (a copy that is ours, with copies of its dictionaries of replacements)."""
        replace = options["patches_replace"].setdefault("dit", {})
        for part, number in self.layers:
            key = (f"{part}_block", number)
            replace[key] = self._replacement((part, number), replace.get(key), layout.joint)

    def shuffled(self, picture: torch.Tensor, layer: Layer, text: int) -> torch.Tensor:
        """[B, text + tokens, channels] or [B, channels, height, width], the picture's tokens in another order."""
        tokens = picture.flatten(2).transpose(1, 2) if picture.ndim != 3 else picture
        order = self.draws.order(tokens.shape[1] - text, self.strength, f"{layer}", tokens)
        moved = tokens[:, text:].gather(1, order[..., None].expand_as(tokens[:, text:]))
        moved = torch.cat([tokens[:, :text], moved], 1)
        moved = moved.transpose(1, 2).reshape(picture.shape) if picture.ndim != 3 else moved
        return on_rows(self.rows, moved, picture)

    def _replacement(self, layer: Layer, inner: Callable | None, joint: bool) -> Callable:
        def replaced(args: dict, extra: dict) -> dict:
            text = args["transformer_options"]["img_slice"][0] if joint and "txt" not in args else 0
            args = {**args, "img": self.shuffled(args["img"], layer, text)}
            return extra["original_block"](args) if inner is None else inner(args, extra)

        return replaced
