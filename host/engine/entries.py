"""A change of the network for some entries of one call of the host, which leaves the others as they are.

The host puts the prompts of a step into one batch, entry after entry, and says in `cond_or_uncond` which entry is which
(comfy/samplers.py, _calc_cond_batch). A guide that is the main network with a Degraded Model's perturbation, or with
other LoRAs, can be one more entry of it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

import torch

from ..common.uncopied import Uncopied
from ..degrade.degrade import Perturbation
from ..lora.adapter_switch import SwitchedRows

Change = Perturbation | SwitchedRows

POSITIVE = 0  # the entry that a perturbed one is for other packs' patches: it has a positive prompt


@dataclass(frozen=True, eq=False)
class ChangedEntries(Uncopied):
    """An APPLY_MODEL wrapper. changes: those of an entry, outermost first, by its number."""

    changes: Mapping[int, Sequence[Change]]

    def __call__(
        self, executor, x, t, c_concat=None, c_crossattn=None, control=None, transformer_options=None, **more
    ):
        """One evaluation of several entries. x: [entries * batch, ...]; t: the model's own sigma [entries * batch]."""
        options = {**(transformer_options or {})}
        entries = options["cond_or_uncond"]
        options["cond_or_uncond"] = [POSITIVE if entry in self.changes else entry for entry in entries]
        call = executor
        for entry in self.changes.keys() & {*entries}:
            mine = torch.tensor([each == entry for each in entries]).repeat_interleave(len(x) // len(entries))
            for change in reversed(self.changes[entry]):
                call = partial(replace(change, rows=None if bool(mine.all()) else mine), call)
        return call(x, t, c_concat, c_crossattn, control, options, **more)
