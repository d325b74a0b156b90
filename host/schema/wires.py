"""Whether what comes by a wire is what its socket takes: outputs of other packs may be of any kind."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from comfy_api.latest import io

from ...guidance.schedule import Schedule
from ..common.errors import quoted


def _has(*names: str) -> Callable[[Any], bool]:
    return lambda value: all(hasattr(value, name) for name in names)


def _is_conditioning(value: Any) -> bool:
    pairs = isinstance(value, list | tuple) and all(isinstance(pair, list | tuple) and len(pair) == 2 for pair in value)
    return pairs and all(isinstance(more, dict) for _, more in value)


# By what they have, not by their class: packs bring models and VAEs of their own.
KINDS: Mapping[str, Callable[[Any], bool]] = {
    "MODEL": _has("model", "model_options", "clone"),
    "VAE": _has("decode", "encode"),
    "CONDITIONING": _is_conditioning,
    "LATENT": lambda value: isinstance(value, Mapping) and "samples" in value,
    "IMAGE": lambda value: isinstance(value, torch.Tensor) and value.ndim == 4,
    "SIGMAS": lambda value: isinstance(value, torch.Tensor) and value.ndim == 1,
    "GUIDE": _has("guide", "patchers"),
    "GUIDANCE_SCHEDULE": lambda value: isinstance(value, Schedule),
    "GUIDANCE_PICTURES": _has("path", "files", "first"),
    "GUIDANCE_WEIGHTS": _has("cfg", "autoguidance"),
    "GUIDANCE_INSPECTION": _has("records", "on"),
}


def wire_problem(socket: io.Input, value: Any, running: bool) -> str | None:
    """Why a socket cannot take a value, in words; None if it can. A socket that may be left open takes None.

    running: False before the prompt runs, when what will come by a wire is None.
    """
    if isinstance(socket, io.Autogrow.Input):
        each = value.values() if isinstance(value, Mapping) else [value]
        found = (wire_problem(socket.template.input, one, running) for one in each)
        return next((words for words in found if words is not None), None)
    kind = socket.get_io_type()
    takes = KINDS.get(kind)
    if takes is None or (value is None and (socket.optional or socket.lazy or not running)) or takes(value):
        return None
    return f"{socket.id} got {quoted(value)}, which is no {kind}. Connect an output of the kind {kind} to it."
