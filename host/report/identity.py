"""What decides the pictures of a MODEL, in a few words and digests: two MODELs with equal facts draw alike.

A network is told from others by its file, or by a sample of its numbers; everything that lies on the MODEL (patches,
wrappers, object patches, functions of the sampler) by what it consists of: code, settings and tensors.
"""

from __future__ import annotations

import dis
import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import fields, is_dataclass
from enum import Enum
from functools import partial
from pathlib import Path, PurePath
from types import CodeType, FunctionType, MethodType
from typing import Any

import torch
from comfy.model_patcher import ModelPatcher
from torch import nn

from ...guidance.experts.bank import ExpertBank, adapter_tensors
from ...guidance.experts.file import contents_sha256
from ..common.compatibility import describe
from ..common.keys import INSPECTIONS, KEY
from ..engine.plan import GradientRequest, guides_of, plan_of
from .report import where

HEAD = 2**20  # bytes from the beginning of a file that tell it from others of its size
SMALL = 2**20  # numbers of a module whose tensors all count; of a larger one their names and shapes
DEEPEST = 12
PLAIN = str | int | float | bool | bytes | torch.dtype | torch.Size | None


def facts_of_model(model: ModelPatcher) -> dict[str, Any]:
    """The model in words: network, file, LoRAs, the guidance that it carries, and what else lies on it."""
    patches = [(key, [patch[0] for patch in model.patches[key]]) for key in sorted(model.patches)]
    weights = [(key, [patch[1:] for patch in model.patches[key]]) for key in sorted(model.patches)]
    on = sorted(_on(model), key=lambda entry: entry[0])
    kept = frozenset(cell for part in _parts(on) if isinstance(part, FunctionType) for cell in _written(part))
    return {
        "model": " ".join([describe(model), *(file.name for file in _files(model))]),
        "files": digest([_head(file) for file in _files(model)]),
        "loras": digest([patches, weights]) if patches else "none",
        "guidance": [f"{rule.explain()}{where(rule.schedule)}" for rule in plan_of(model).guidance.rules],
        "guides": [f"{describe(guide)} {digest(facts_of_model(guide))}" for guide in guides_of(model).values()],
        "patches": ", ".join(f"{name} {digest(value, kept)[:8]}" for name, value in on) or "none",
    }


def digest(value: Any, kept: frozenset[int] = frozenset()) -> str:
    """16 hexadecimal digits of what a value consists of: nested containers, tensors, numbers, functions, settings.

    kept: variables (`id` of their cells) that functions write into, as they run: what they remember counts for nothing.
    """
    found = hashlib.sha256()
    for part in _parts(value, kept):
        if isinstance(part, PLAIN):
            found.update(f"{part!r}\n".encode())
        elif isinstance(part, torch.Tensor):
            found.update(f"{tuple(part.shape)} {part.dtype}".encode())
            found.update(part.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
        else:
            found.update(f"[{' '.join(each.__qualname__ for each in type(part).__mro__)}".encode())
    return found.hexdigest()[:16]


def sample_of(network: nn.Module) -> dict[str, Any]:
    """Some numbers of every tensor of a network, in whose weights no LoRA is; of a bank what each expert has."""
    if isinstance(network, ExpertBank):
        return {"parts": contents_sha256(adapter_tensors(network.adapters)), "base": contents_sha256(network.originals)}
    return {name: tensor.reshape(-1)[:4].cpu() for name, tensor in network.state_dict().items()}


def _files(model: ModelPatcher) -> list[Path]:
    init = getattr(model, "cached_patcher_init", None)
    return [Path(part) for part in init[1] if isinstance(part, str)] if init else []


def _head(file: Path) -> str:
    """Tells a file from others of its name; a name that is no file counts as it is."""
    if not file.is_file():
        return str(file)
    with open(file, "rb") as opened:
        return f"{file.stat().st_size} {hashlib.sha256(opened.read(HEAD)).hexdigest()}"


def _on(model: ModelPatcher) -> Iterator[tuple[str, Any]]:
    """What lies on a MODEL besides patches of weights, each with a name that people know it by."""
    options = dict(model.model_options)
    inner = dict(options.pop("transformer_options", {}))
    grouped = {
        "patch": inner.pop("patches", {}), "replacement": inner.pop("patches_replace", {}),
        **{f"wrapper {kind}": found for kind, found in _named(inner.pop("wrappers", {}), model.wrappers)},
        **{f"callback {kind}": found for kind, found in _named(inner.pop("callbacks", {}), model.callbacks)},
        "object": model.object_patches, "option": options, "transformer option": inner,
        "attachment": {key: value for key, value in model.attachments.items() if key not in (KEY, INSPECTIONS)},
        "injection": model.injections, "hook": model.hook_patches,
        "weights": model.weight_wrapper_patches,
    }
    plan = plan_of(model)
    if plan.guidance.rules:
        yield "guidance", [plan.guidance, [guide.positive for guide in plan.guides], [*map(_asked, plan.gradients)]]
    for kind, entries in grouped.items():
        yield from ((f"{kind} {name}", value) for name, value in entries.items() if not _is_nothing(value))


def _is_nothing(value: Any) -> bool:
    return value is None or value is False or (isinstance(value, dict | list | tuple) and not value)


def _asked(request: GradientRequest) -> list[Any]:
    networks = request.guide.patchers if request.guide else ()
    return [request.objective, request.target, request.decoder, [sample_of(patcher.model) for patcher in networks]]


def _named(*groups: Mapping[str, Mapping[Any, Any]]) -> Iterator[tuple[str, dict[Any, Any]]]:
    """Functions by kind and key, of several places, without the engine's own, which the plan stands for."""
    for place, group in zip(("inside", "around"), groups, strict=True):
        for kind, entries in group.items():
            yield f"{place} {kind}", {key: value for key, value in entries.items() if key != KEY}


def _parts(part: Any, kept: frozenset[int] = frozenset(), around: tuple[int, ...] = ()) -> Iterator[Any]:
    """A value, then everything inside it, in order; the end of a container as a text. around: so that a circle ends."""
    yield part
    if isinstance(part, PLAIN | torch.Tensor) or len(around) == DEEPEST or id(part) in around:
        return
    for inner in _inside(part, kept):
        yield from _parts(inner, kept, (*around, id(part)))
    yield "]"


def _inside(part: Any, kept: frozenset[int]) -> list[Any]:
    """What a value is made of; of what is neither data, code nor settings nothing but its class."""
    if isinstance(part, dict):
        return [[key, part[key]] for key in sorted(part, key=str)]
    if isinstance(part, list | tuple):
        return list(part)
    if isinstance(part, set | frozenset):
        return sorted(part, key=str)
    if isinstance(part, FunctionType):
        cells = [cell.cell_contents for cell in part.__closure__ or () if id(cell) not in kept and _filled(cell)]
        return [part.__module__, part.__qualname__, part.__code__, part.__defaults__, part.__kwdefaults__, cells]
    if isinstance(part, MethodType):
        return [part.__func__, part.__self__]
    if isinstance(part, partial):
        return [part.func, part.args, part.keywords]
    if isinstance(part, CodeType):
        return [part.co_code, part.co_names, part.co_consts]
    if isinstance(part, nn.Module):
        return _of_module(part)
    if isinstance(part, ModelPatcher | type):
        return []
    if isinstance(part, Enum | PurePath):
        return [str(part)]
    if is_dataclass(part):
        return [[each.name, getattr(part, each.name)] for each in fields(part) if each.repr]
    settings = {name: value for name, value in getattr(part, "__dict__", {}).items() if not name.startswith("_")}
    return [{name: value for name, value in settings.items() if isinstance(value, PLAIN | torch.Tensor | tuple)}]


def _of_module(module: nn.Module) -> list[Any]:
    weights = module.state_dict()
    if sum(tensor.numel() for tensor in weights.values()) > SMALL:
        weights = {name: (tuple(tensor.shape), tensor.dtype) for name, tensor in weights.items()}
    plain = {name: value for name, value in vars(module).items() if not name.startswith("_") and name != "training"}
    return [weights, {name: value for name, value in plain.items() if isinstance(value, PLAIN | tuple)}]


def _written(function: FunctionType) -> Iterator[int]:
    """The cells that a function, or one inside it, writes into."""
    names = _written_names(function.__code__)
    cells = zip(function.__code__.co_freevars, function.__closure__ or (), strict=True)
    return (id(cell) for name, cell in cells if name in names)


def _written_names(code: CodeType) -> set[str]:
    own = {found.argval for found in dis.get_instructions(code) if found.opname == "STORE_DEREF"}
    return own.union(*(_written_names(inner) for inner in code.co_consts if isinstance(inner, CodeType)))


def _filled(cell: Any) -> bool:
    try:
        return cell.cell_contents is not None
    except ValueError:  # a variable that has no value yet
        return False
