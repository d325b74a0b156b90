"""One frozen network and N small adapters that make N experts of it (PPAP, 2212.05973, Section 4.2).

An adapter is what one expert has of its own: low-rank changes of weight matrices (LoRA, 2106.09685), and whole
tensors in place of the base's (biases, norms, BatchNorm statistics; for an expert trained in full, everything).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from ..checkpoints.words import shown, shown_shape


@dataclass(frozen=True)
class LowRank:
    """scale * (up down), a low-rank change of one weight.

    Linear [out, in]: down [r, in], up [out, r]. Convolution [out, in, k, k], in one of two layouts: down [r, in, k, k]
    with up [out, r, 1, 1] (peft), or down [r k, in k] with up [out k, r k], whose product is read as [out, in, k, k]
    (loralib, and so PPAP's files).
    """

    down: Tensor
    up: Tensor
    scale: float

    def add_to(self, weight: Tensor) -> None:
        """Add the change to a weight in place, without another tensor of its size.

        Raises:
            RuntimeError: the two factors do not multiply to its shape.
        """
        down, up = (factor.flatten(1).to(weight) for factor in (self.down, self.up))
        whole = weight.contiguous()
        whole.view(up.shape[0], down.shape[1]).addmm_(up, down, alpha=self.scale)
        if whole is not weight:
            weight.copy_(whole)

    def fits(self, shape: tuple[int, ...]) -> bool:
        """Whether it is a change of weights of this shape."""
        if self.down.ndim == 4:
            rank = self.down.shape[0]
            return len(shape) == 4 and self.up.shape == (shape[0], rank, 1, 1) and self.down.shape[1:] == shape[1:]
        chained = self.down.ndim == self.up.ndim == 2 and self.up.shape[1] == self.down.shape[0]
        kernel = shape[-1] if len(shape) == 4 else 1
        whole = (shape[0] * kernel, shape[1] * kernel) if len(shape) in (2, 4) else ()
        return chained and (self.up.shape[0], self.down.shape[1]) == whole


@dataclass(frozen=True)
class Adapter:
    """What one expert has of its own, by the name of the base's parameter or buffer."""

    low_rank: Mapping[str, LowRank] = field(default_factory=dict)
    whole: Mapping[str, Tensor] = field(default_factory=dict)

    def names(self) -> set[str]:
        return {*self.low_rank, *self.whole}

    def numbers(self) -> int:
        """How many numbers the adapter holds, BatchNorm's counters included."""
        factors = sum(change.down.numel() + change.up.numel() for change in self.low_rank.values())
        return factors + sum(tensor.numel() for tensor in self.whole.values())


class ExpertBank(nn.Module):
    """The base with one expert's adapter in its weights at a time.

    Changing experts writes the new weights in place, so an evaluation costs exactly what the base's costs. Adapters and
    originals are never moved: held as views of files (`safe_open` maps them) they occupy no memory that others need.

    Args:
        base: in evaluation mode; the bank owns it from now on.
        adapters: one per expert, fitting the base (`problems` says whether).
        originals: the base's own tensors of every name in the adapters, bit for bit, on any device.
    """

    def __init__(self, base: nn.Module, adapters: Sequence[Adapter], originals: Mapping[str, Tensor]) -> None:
        super().__init__()
        self.base = base
        self.adapters = tuple(adapters)
        self.originals = dict(originals)
        self.active: int | None = None
        self._changed: set[str] = set()  # names whose tensors may differ from the originals

    def forward(self, input: Tensor, timestep: Tensor | None = None) -> Tensor:
        """What the active expert says: as the base's own forward."""
        return self.base(input, timestep)

    def embed_text(self, texts: Sequence[str]) -> Tensor:
        """What the clean base makes of texts: K texts -> [K, E]. Experts differ in how they see pictures alone."""
        base: Any = self.use(None).base
        return base.embed_text(texts)

    @torch.inference_mode()  # ComfyUI's weights may be inference tensors, which are written only here
    def use(self, expert: int | None) -> ExpertBank:
        """Put an expert in charge, or with None the base itself, bit for bit. Nothing happens if it is already.

        The gradient of an earlier evaluation must be taken before, since the weights are overwritten.
        """
        if expert == self.active:
            return self
        adapter = Adapter() if expert is None else self.adapters[expert]
        held = _tensors(self.base)
        self.active = None  # if writing fails half-way, the next call still restores whatever was changed
        for name in self._changed | adapter.low_rank.keys():
            held[name].copy_(self.originals[name])
        self._changed = adapter.names()
        for name, change in adapter.low_rank.items():
            change.add_to(held[name])
        for name, tensor in adapter.whole.items():
            held[name].copy_(tensor)
        self.active = expert
        return self


def adapter_names(adapters: Sequence[Adapter]) -> set[str]:
    """The names of all tensors that any adapter changes."""
    return {name for adapter in adapters for name in adapter.names()}


def own_tensors(base: nn.Module, names: set[str]) -> dict[str, Tensor]:
    """Copies of the base's tensors of these names, on the CPU."""
    return {name: tensor.clone() for name, tensor in tensors_named(base, names).items()}


def tensors_named(base: nn.Module, names: set[str]) -> dict[str, Tensor]:
    """The base's tensors of these names themselves, if they are on the CPU."""
    return {name: tensor.detach().cpu() for name, tensor in _tensors(base).items() if name in names}


def adapter_tensors(adapters: Sequence[Adapter]) -> dict[str, Tensor]:
    """All tensors under names of a file: `expert.i.down.NAME`, `expert.i.up.NAME`, `expert.i.whole.NAME`."""
    found = {}
    for index, adapter in enumerate(adapters):
        for name, change in adapter.low_rank.items():
            found[f"expert.{index}.down.{name}"], found[f"expert.{index}.up.{name}"] = change.down, change.up
        found |= {f"expert.{index}.whole.{name}": tensor for name, tensor in adapter.whole.items()}
    return found


def adapters_of(tensors: Mapping[str, Tensor], count: int, scale: float) -> list[Adapter]:
    """The adapters of `count` experts back from `adapter_tensors`; other names are left alone.

    Raises:
        KeyError: a change has one of its two factors only.
    """
    adapters = []
    for index in range(count):
        down, up, whole = (_under(tensors, f"expert.{index}.{kind}.") for kind in ("down", "up", "whole"))
        if down.keys() != up.keys():
            raise KeyError(f"expert {index} has only half of the change of {shown(min(down.keys() ^ up.keys()))}")
        adapters.append(Adapter({name: LowRank(down[name], up[name], scale) for name in down}, whole))
    return adapters


def problems(base: nn.Module, adapters: Sequence[Adapter]) -> list[str]:
    """Why the adapters do not fit the base, in words; empty if they do."""
    own = _tensors(base)
    held = {name: tuple(tensor.shape) for name, tensor in own.items()}
    found = [f"has the unknown {shown(name)}" for name in sorted(adapter_names(adapters) - held.keys())]
    for adapter in adapters:
        for name, change in adapter.low_rank.items():
            if name in held and not (own[name].is_floating_point() and change.fits(held[name])):
                found.append(f"has a change of {shown(name)} that does not give its shape {shown_shape(held[name])}")
        for name, tensor in adapter.whole.items():
            if name in held and tuple(tensor.shape) != held[name]:
                shapes = f"{shown_shape(tensor.shape)} instead of {shown_shape(held[name])}"
                found.append(f"has {shown(name)} of shape {shapes}")
            elif name in held and tensor.is_floating_point() != own[name].is_floating_point():
                found.append(f"has {shown(name)} as {'fractions' if tensor.is_floating_point() else 'whole numbers'}")
    return list(dict.fromkeys(found))


def _tensors(network: nn.Module) -> dict[str, Tensor]:
    return {**dict(network.named_parameters()), **dict(network.named_buffers())}


def _under(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name[len(prefix) :]: tensor for name, tensor in tensors.items() if name.startswith(prefix)}
