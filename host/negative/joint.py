"""Transformers in which picture and prompt share one attention: SD3, Flux, Chroma, Qwen-Image.

A prompt changes there from block to block, so the negative one goes through the blocks beside the picture: every block
is run with it once more, on the same picture, and what that says to the picture is mixed into the block's own run.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import torch

from ..degrade.layers import Layer
from ..degrade.one_attention import overriding
from .mixing import Mixing

PLAIN = {"patches": {}, "patches_replace": {}, "wrappers": {}}  # a second run without what other packs ask for


@dataclass
class Entrance:
    """Stands in for the blocks of a network, and keeps what they would be given: what a prompt is before them."""

    layers: tuple[Layer, ...]
    given: dict[Layer, dict] = field(default_factory=dict)

    def put_on(self, options: dict) -> dict:
        """A copy of transformer_options with it."""
        replace = {(f"{part}_block", number): self._keep((part, number)) for part, number in self.layers}
        return {**options, **PLAIN, "patches_replace": {"dit": replace}}

    def _keep(self, layer: Layer) -> Callable:
        def kept(args: dict, extra: dict) -> dict:
            text = args["txt"].shape[1] if "txt" in args else args["transformer_options"]["img_slice"][0]
            self.given[layer] = {**args, "text": text}
            return {name: args[name] for name in ("img", "txt") if name in args}

        return kept


@dataclass
class JointPrompts:
    """The joint attention of a transformer's blocks in one call.

    given: what each block is given with the negative prompt, for the chosen rows alone.
    """

    mixing: Mixing
    given: Mapping[Layer, dict]
    text: torch.Tensor | None = None  # the negative prompt's tokens after the last block that was run

    def put_on(self, options: dict) -> None:
        """Change transformer_options (a copy that is ours, with copies of its dictionaries)."""
        replace = options["patches_replace"].setdefault("dit", {})
        for layer in self.given:
            key = (f"{layer[0]}_block", layer[1])
            replace[key] = self._replacement(layer, replace.get(key))

    def _replacement(self, layer: Layer, inner: Callable | None) -> Callable:
        def replaced(args: dict, extra: dict) -> dict:
            options, joined = args["transformer_options"], "txt" not in args
            text = options["img_slice"][0] if joined else args["txt"].shape[1]
            picture = args["img"][:, text:] if joined else args["img"]
            tokens = text + picture.shape[1]
            rows = self.mixing.rows.to(picture.device)
            said = self._negative(layer, picture[rows], options, extra["original_block"])

            def attend(q, k, v, mask, heads, plain):
                whole = plain(q, k, v, mask)
                mine = whole[:, text:]
                return torch.cat([whole[:, :text], self.mixing.mix(mine, mine.index_copy(0, rows, said))], 1)

            args = {**args, "transformer_options": _with_override(options, tokens, attend)}
            return extra["original_block"](args) if inner is None else inner(args, extra)

        return replaced

    def _negative(self, layer: Layer, picture: torch.Tensor, options: dict, block: Callable) -> torch.Tensor:
        """What attention says to the picture's tokens [rows, tokens, channels] with the negative prompt."""
        given = self.given[layer]
        length, said = given["text"], []
        if self.text is None:
            self.text = given["txt"] if "txt" in given else given["img"][:, :length]

        def attend(q, k, v, mask, heads, plain):
            said.append((whole := plain(q, k, v, mask))[:, length:])
            return whole

        options = _with_override({**options, **PLAIN}, length + picture.shape[1], attend)
        options["img_slice"] = [length, length + picture.shape[1]]
        # Blocks add in place: what they are given is theirs.
        if "txt" in given:
            streams = {"img": picture.clone(), "txt": self.text.clone()}
        else:
            streams = {"img": torch.cat([self.text, picture], 1)}
        out = block({**given, **streams, "transformer_options": options})
        after = out["txt"] if "txt" in given else out["img"][:, :length]
        self.text = self.text if after is None else after  # the last block of SD3 has no more use for it
        return said[0]


def _with_override(options: dict, tokens: int, attend: Callable) -> dict:
    """A copy of the options in which the first attention of so many tokens to themselves is `attend`."""
    before = options.get("optimized_attention_override")
    override = overriding(before, lambda asking, asked: asking == asked == tokens, attend)
    return {**options, "optimized_attention_override": override}
