"""The negative in attention during one run: prepared with the run's networks, and around every evaluation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from comfy.patcher_extension import WrappersMP, add_wrapper_with_key

from ...guidance.negative_attention import NegativeAttention
from ..common.keys import NEGATIVE_ATTENTION
from ..common.noise_levels import level_of
from ..common.uncopied import Uncopied
from ..degrade.layers import Layout
from .cross import BlockPrompts, UnetPrompts
from .joint import Entrance, JointPrompts
from .mixing import Mixing

TEXT = ("c_crossattn", "y", "attention_mask")  # what a prompt's text gives a network


@dataclass(frozen=True, eq=False)
class NegativeInAttention(Uncopied):
    """An APPLY_MODEL wrapper for one run, and a CALC_COND_BATCH wrapper that tells it which entry is which prompt.

    Attributes:
        rule: with its schedule in VE sigma.
        conds: the negative prompt as the network takes it, by the host's names (`model_conds`).
        others: the sampler's negative prompt and an empty one, which stay as they are.
    """

    rule: NegativeAttention
    layout: Layout
    conds: dict[str, Any]
    others: tuple[list[dict], ...]

    def put_on(self, model_options: dict) -> None:
        """Change the options of one run."""
        for kind, wrapper in ((WrappersMP.CALC_COND_BATCH, self.calc_cond_batch), (WrappersMP.APPLY_MODEL, self)):
            add_wrapper_with_key(kind, NEGATIVE_ATTENTION, wrapper, model_options, is_model_options=True)

    def calc_cond_batch(self, executor, model, conds, x_in, timestep, model_options):
        """One call of the host. conds: a list of entries for each prompt."""
        others = {i for i, cond in enumerate(conds) if cond and any(_same(cond, other) for other in self.others)}
        transformer = {**model_options.get("transformer_options", {}), NEGATIVE_ATTENTION: others}
        return executor(model, conds, x_in, timestep, {**model_options, "transformer_options": transformer})

    def __call__(
        self, executor, x, t, c_concat=None, c_crossattn=None, control=None, transformer_options=None, **more
    ):
        """One evaluation. x: [entries * batch, ...]; t: the model's own sigma [entries * batch]."""
        options = {**(transformer_options or {})}
        mixing = self._mixing(executor.class_obj.model_sampling, t, options)
        if not bool(mixing.chosen.any()):
            return executor(x, t, c_concat, c_crossattn, control, options, **more)
        options["patches"] = {**options.get("patches", {})}
        options["patches_replace"] = {name: {**at} for name, at in options.get("patches_replace", {}).items()}
        entries = len(options["cond_or_uncond"])
        prompt = self._prompt(len(x) // entries, entries)
        if self.layout.unet:
            UnetPrompts(mixing, self.layout.attention, prompt["c_crossattn"]).put_on(options)
        else:
            rows = mixing.rows if self.layout.joint else torch.arange(len(x))
            given = self._entrance(executor.original, rows, x, t, c_concat, prompt, options, more)
            if self.layout.joint:
                _check_masks(given, more, prompt)
                JointPrompts(mixing, given).put_on(options)
            else:
                pictures = more["clip_fea"].shape[-2] if more.get("clip_fea") is not None else 0
                text = given[self.layout.attention[0]]["txt"]
                BlockPrompts(mixing, self.layout.attention, text, pictures).put_on(options)
        return executor(x, t, c_concat, c_crossattn, control, options, **more)

    def _mixing(self, model_sampling, t: torch.Tensor, options: dict) -> Mixing:
        weight = self.rule.strength(level_of(model_sampling, t.cpu()))
        entries, others = options["cond_or_uncond"], options.get(NEGATIVE_ATTENTION, ())
        mine = torch.tensor([entry not in others for entry in entries]).repeat_interleave(len(t) // len(entries))
        return Mixing(self.rule, weight, mine & (weight != 1.0))

    def _prompt(self, batch: int, entries: int) -> dict[str, torch.Tensor]:
        """The negative prompt's tensors for all rows of a call."""
        found = {name: self.conds[name].process_cond(batch_size=batch).cond for name in TEXT if name in self.conds}
        return {name: torch.cat([value] * entries) for name, value in found.items()}

    def _entrance(self, network, rows, x, t, c_concat, prompt: dict, options: dict, more: dict) -> dict:
        """What the blocks are given with the negative prompt, for some rows: the network without its blocks."""
        entrance = Entrance(self.layout.attention)

        def some(value):
            return value[rows.to(value.device)] if torch.is_tensor(value) and len(value) == len(x) else value

        named = {name: some(value) for name, value in more.items() if name not in TEXT}
        named |= {name: some(value) for name, value in prompt.items() if name != "c_crossattn"}
        options = entrance.put_on(options)
        network(some(x), some(t), some(c_concat), some(prompt["c_crossattn"]), None, options, **named)
        return entrance.given


def _same(first: list[dict], second: list[dict]) -> bool:
    """Whether two lists are one prompt: windows over a long video, and other packs, copy them."""
    return first[0].get("uuid") is not None and first[0]["uuid"] == second[0].get("uuid")


def _check_masks(given: dict, more: dict, prompt: dict) -> None:
    """Raise ValueError where a mask over the prompt's tokens is none of what a block can be given."""
    masked = any(kind.get("attention_mask") is not None for kind in (more, prompt))
    if masked and not all("attn_mask" in args for args in given.values()):
        raise ValueError(
            "Negative in Attention cannot be used here: this model's prompts come with a mask over their tokens, which "
            "ComfyUI does not let others change. Use a prompt of one sentence without padding, or CFG."
        )
