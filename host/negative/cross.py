"""Networks whose picture asks the prompt in an attention of its own: U-Nets, and transformers such as Wan.

Both prompts stand in one row of tokens, one behind the other: a layer projects each token by itself, so the picture
asks once, and only its answer is computed twice.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from math import inf

import torch

from ..degrade.draws import places
from ..degrade.layers import Layer
from ..degrade.one_attention import additive, overriding, unet_attention
from .mixing import Mixing


@dataclass
class UnetPrompts:
    """The cross-attention of a U-Net in one call. negative: the prompt, [rows, tokens, channels]."""

    mixing: Mixing
    layers: tuple[Layer, ...]
    negative: torch.Tensor
    text: dict[Layer, int] = field(default_factory=dict)  # tokens of the positive prompt in the layer that comes next

    def put_on(self, options: dict) -> None:
        """Change transformer_options (a copy that is ours, with copies of its dictionaries)."""
        patches, replace = options["patches"], options["patches_replace"].setdefault("attn2", {})
        patches["attn2_patch"] = [*patches.get("attn2_patch", []), self._join]  # behind those of other packs
        for part, number in self.layers:
            # The host looks for (part, number, depth) first: one of these would hide ours.
            deeper = [key for key in replace if key[:2] == (part, number) and len(key) == 3]
            for key in [(part, number), *deeper]:
                replace[key] = self._replacement(replace.get(key))

    def _join(self, asking, context, value, extra):
        layer = tuple(extra.get("block") or ())
        self.text.pop(layer, None)
        if layer not in self.layers or context is asking:  # or the picture asks itself here
            return asking, context, value
        self.text[layer] = context.shape[1]
        return asking, *(torch.cat([part, _for_rows(self.negative, part)], 1) for part in (context, value))

    def _replacement(self, inner: Callable | None) -> Callable:
        def replaced(q, k, v, extra, mask=None):
            attend, text = unet_attention(inner, extra), self.text.get(tuple(extra["block"]))
            if text is None:
                return attend(q, k, v, additive(mask, q))
            positive, negative = slice(None, text), slice(text, None)
            return self.mixing.mix(*(attend(q, k[:, at], v[:, at], None) for at in (positive, negative)))

        return replaced


@dataclass
class BlockPrompts:
    """The cross-attention of a transformer's blocks in one call.

    Attributes:
        negative: the prompt as blocks get it, [rows, tokens, channels].
        pictures: how many tokens of a picture stand before the prompt, and are asked apart from it.
    """

    mixing: Mixing
    layers: tuple[Layer, ...]
    negative: torch.Tensor
    pictures: int = 0

    def put_on(self, options: dict) -> None:
        """Change transformer_options (a copy that is ours, with copies of its dictionaries)."""
        replace = options["patches_replace"].setdefault("dit", {})
        for part, number in self.layers:
            key = (f"{part}_block", number)
            replace[key] = self._replacement(replace.get(key))

    def _replacement(self, inner: Callable | None) -> Callable:
        def replaced(args: dict, extra: dict) -> dict:
            options, text = args["transformer_options"], args["txt"].shape[1] - self.pictures
            negative = _for_rows(self.negative[:, self.pictures :], args["txt"])

            def attend(q, k, v, mask, heads, plain):
                return self.mixing.mix(*(plain(q, k[:, at], v[:, at], None) for at in (slice(text), slice(text, None))))

            both = text + negative.shape[1]
            same = [args["img"].shape[1], self.pictures].count(both)  # attentions before it that look like it
            override = overriding(
                options.get("optimized_attention_override"), lambda asking, asked: asked == both, attend, same, inf
            )
            changed = {**options, "optimized_attention_override": override}
            args = {**args, "txt": torch.cat([args["txt"], negative], 1), "transformer_options": changed}
            return extra["original_block"](args) if inner is None else inner(args, extra)

        return replaced


def _for_rows(prompt: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    """The prompt [rows, ...] for a layer's own rows, with its dtype and device."""
    own = prompt if len(prompt) == len(like) else prompt[places(len(prompt), len(like))]
    return own.to(like)
