"""Perturbation of whole blocks: left out, left out at random, or with dropout on what they add.

A transformer's block is called by a replacement under patches_replace["dit"]; around a U-Net's block there is a patch
point before and after. Replacements and patches of other packs stay: they run inside ours, as part of the block.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import torch

from ...guidance.perturbation import drop, skip_block
from .draws import Draws, on_rows, spread_over
from .layers import Layer, Layout

STREAMS = ("img", "txt", "x")  # the hidden states among what a block is given
BLOCK_KINDS = ("skipped layers", "random blocks", "dropout")


@dataclass
class Blocks:
    """The block perturbation of one evaluation."""

    kind: str
    strength: float
    layers: tuple[Layer, ...]
    draws: Draws
    rows: torch.Tensor | None = None  # bool [rows], those that are perturbed; None for all
    before: dict[str, torch.Tensor] = field(default_factory=dict)  # the input of the U-Net block that comes next

    def put_on(self, options: dict, layout: Layout) -> None:
        """Change transformer_options (a copy that is ours, with copies of its `patches` dictionaries)."""
        if layout.unet:
            self._around_unet(options["patches"])
            return
        replace = options["patches_replace"].setdefault("dit", {})
        for part, number in self.layers:
            key = (f"{part}_block", number)
            replace[key] = self._replacement((part, number), replace.get(key))

    def share(self, layer: Layer, rows: int) -> torch.Tensor:
        """How much of the block is left out in each row, [rows]."""
        if self.kind == "random blocks":
            share = self.draws.hits(self.strength, f"{layer}", rows)
        else:
            share = torch.full((rows,), self.strength)
        return share if self.rows is None else share * spread_over(self.rows, rows)

    def perturbed(self, layer: Layer, before: torch.Tensor, after: torch.Tensor, stream: str = "") -> torch.Tensor:
        """What comes out of the block, from what went in and what would have come out."""
        if self.kind == "dropout":
            dropped = drop(before, after, self.strength, self.draws.uniform(after, f"{layer}{stream}"))
            return on_rows(self.rows, dropped, after)
        share = self.share(layer, len(after))
        return skip_block(before, after, share) if bool(share.any()) else after

    def _replacement(self, layer: Layer, inner: Callable | None) -> Callable:
        def replaced(args: dict, extra: dict) -> dict:
            before = {name: args[name] for name in STREAMS if name in args}
            rows = len(_streams(next(iter(before.values())))[0])
            # A block that is left out in every row is not computed, unless somebody else waits to see it.
            if inner is None and self.kind != "dropout" and bool((self.share(layer, rows) == 1).all()):
                return {**args, **before}
            kept = {name: _each(torch.clone, value) for name, value in before.items()}  # some blocks add in place
            out = extra["original_block"](args) if inner is None else inner(args, extra)
            for name in (name for name in kept if out.get(name) is not None):
                pairs = zip(_streams(kept[name]), _streams(out[name]), strict=True)
                done = tuple(self.perturbed(layer, a, b, f"{name}{i}") for i, (a, b) in enumerate(pairs))
                out[name] = done if isinstance(out[name], tuple) else done[0]
            return out

        return replaced

    def _around_unet(self, patches: dict[str, list]) -> None:
        def put(name: str, first: Callable | None = None, last: Callable | None = None) -> None:
            patches[name] = [*([first] if first else []), *patches.get(name, []), *([last] if last else [])]

        put("input_block_patch", first=lambda h, options: self._leave(options["block"], h))
        put("input_block_patch_after_skip", last=lambda h, options: self._enter(h))
        put("middle_block_after_patch", first=lambda args: {**args, "h": self._leave(("middle", 0), args["h"])})
        # This one runs before an output block, and so after the one before it.
        put("output_block_patch", lambda h, skip, options: (self._leave_output(options, h), skip),
            lambda h, skip, options: (self._enter(h), skip))

    def _enter(self, h: torch.Tensor) -> torch.Tensor:
        self.before["h"] = h
        return h

    def _leave(self, layer: Layer, h: torch.Tensor) -> torch.Tensor:
        return self.perturbed(layer, self.before["h"], h) if layer in self.layers else h

    def _leave_output(self, options: dict, h: torch.Tensor) -> torch.Tensor:
        part, number = options["block"]
        return self._leave((part, number - 1), h) if number else h


def _streams(value) -> tuple[torch.Tensor, ...]:
    """A block's hidden states: one tensor, or several (video and sound)."""
    return tuple(value) if isinstance(value, (tuple, list)) else (value,)


def _each(change: Callable, value):
    return type(value)(map(change, value)) if isinstance(value, (tuple, list)) else change(value)
