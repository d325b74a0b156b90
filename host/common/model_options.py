"""The options that a MODEL carries, and every call of the host is given: whose they are, and when two are the same."""

from __future__ import annotations

from typing import Any

from comfy.patcher_extension import WrappersMP


def alike(first: Any, second: Any) -> bool:
    """Equal nesting with the very same leaves: options are copied on every clone, the functions in them are not."""
    if isinstance(first, dict) and isinstance(second, dict):
        return first.keys() == second.keys() and all(alike(first[key], second[key]) for key in first)
    if isinstance(first, (list, tuple)) and type(first) is type(second):
        return len(first) == len(second) and all(map(alike, first, second))
    return first is second


def wrapping(model_options: dict, kind: str) -> dict[str, list]:
    """The wrappers of a kind (WrappersMP) in the options, by key; those that are there no more left out."""
    found = model_options.get("transformer_options", {}).get("wrappers", {}).get(kind, {})
    return {key: wrappers for key, wrappers in found.items() if wrappers}


def changed_calls(model_options: dict, ours: frozenset[str]) -> bool:
    """Whether another than `ours` (keys) may change what an evaluation gives, divide it, or keep it."""
    around = (WrappersMP.CALC_COND_BATCH, WrappersMP.APPLY_MODEL, WrappersMP.DIFFUSION_MODEL)
    named = ("model_function_wrapper", "context_handler", "multigpu_clones")
    return any(name in model_options for name in named) or any(
        wrapping(model_options, kind).keys() - ours for kind in around
    )
