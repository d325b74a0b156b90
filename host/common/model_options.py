"""The options that a MODEL carries, and every call of the host is given: whose they are, and when two are the same."""

from __future__ import annotations

from typing import Any


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


def without_wrappers(model_options: dict, *keys: str) -> dict:
    """A copy of the options without the wrappers under these keys."""
    transformer = model_options.get("transformer_options", {}).copy()
    kept = {kind: wrapping(model_options, kind) for kind in transformer.get("wrappers", {})}
    kept = {kind: {key: each for key, each in keyed.items() if key not in keys} for kind, keyed in kept.items()}
    transformer["wrappers"] = {kind: keyed for kind, keyed in kept.items() if keyed}
    return {**model_options, "transformer_options": transformer}
