"""Step caches, which keep tensors of a MODEL's evaluations from one step to the next.

The host's (EasyCache) is set up and emptied by the run of its own MODEL (comfy_extras/nodes_easycache.py), so
evaluations that this run does not know of stay out of it: a guide's, and those that a gradient passes through.
Other packs' (TeaCache) keep them on the network itself, so that all MODELs over it share them. HiDream-O1 keeps there
what its layers make of the prompt, by the words alone, whatever weights it had (comfy/ldm/hidream_o1/model.py).
"""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from typing import Any

import torch
from comfy.model_patcher import ModelPatcher
from comfy.patcher_extension import WrappersMP

from .model_options import without_wrappers

EASYCACHE = "easycache"  # its wrappers' key
IN_WORDS = {  # what the host's caches do to the evaluations that a report counts, by their wrappers' key
    EASYCACHE: "EasyCache on this MODEL skips evaluations of the main network; guides are evaluated all the same.",
    "lazycache": "LazyCache on this MODEL skips whole steps, of guides too if it comes before the components.",
}


class PromptCache:
    """What a network keeps of the prompt, for one of several sets of weights that it has by turns.

    Raises AttributeError where a network that can empty such a cache keeps it under other names.
    """

    NAMES = ("_kv_cache_entries", "_visual_cache")

    def __init__(self, network: torch.nn.Module):
        self.network = network
        self.empty = getattr(network, "clear_kv_cache", None)
        self.own: dict[str, Any] | None = None

    @contextmanager
    def swapped(self) -> Generator[None]:
        """While inside, the network has what was kept here the last time instead of what it keeps otherwise."""
        if self.empty is None:
            yield
            return
        before = {name: getattr(self.network, name) for name in self.NAMES}
        if self.own is None:
            self.empty()
        else:
            vars(self.network).update(self.own)
        try:
            yield
        finally:
            self.own = {name: getattr(self.network, name) for name in self.NAMES}
            vars(self.network).update(before)


def describe_caches(model: ModelPatcher) -> list[str]:
    """What the host's caches on a MODEL do, a sentence each."""
    keys = model.wrappers.get(WrappersMP.OUTER_SAMPLE, {})
    return [words for key, words in IN_WORDS.items() if key in keys]


def without_step_cache(model_options: dict) -> dict:
    """A copy of the options of an evaluation, in which the step cache is not asked."""
    return without_wrappers(model_options, EASYCACHE)


def kept_on(network: torch.nn.Module) -> list[str]:
    """The names under which something keeps tensors on a network that are no part of it."""
    return sorted(name for name, value in vars(network).items() if not name.startswith("_") and _holds_tensor(value))


def _holds_tensor(value: Any) -> bool:
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, (list, tuple)) else ()
    return isinstance(value, torch.Tensor) or any(map(_holds_tensor, inner))
