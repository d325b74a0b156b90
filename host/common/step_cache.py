"""The host's step cache (EasyCache), which keeps tensors of a MODEL's evaluations from one step to the next.

It is set up and emptied by the run of its own MODEL (comfy_extras/nodes_easycache.py), so evaluations that this run
does not know of stay out of it: a guide's, and those that a gradient passes through.
"""

from __future__ import annotations

EASYCACHE = "easycache"  # its wrappers' key


def without_step_cache(model_options: dict) -> dict:
    """A copy of the options of an evaluation, in which the step cache is not asked."""
    transformer = model_options.get("transformer_options", {}).copy()
    transformer["wrappers"] = {
        kind: {key: found for key, found in keyed.items() if key != EASYCACHE}
        for kind, keyed in transformer.get("wrappers", {}).items()
    }
    return {**model_options, "transformer_options": transformer}
