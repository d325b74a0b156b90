"""The experts that PPAP's authors released (github.com/riiid/PPAP), as adapters of their base network.

A file holds one whole expert as plain tensors. Parameter-efficient ones have loralib's layout: `LAYER.lora_A`,
`LAYER.lora_B` and the frozen weight as `LAYER.conv.weight` or `LAYER.linear.weight`, under `resnet.` (torchvision's
names), `deit.classifier.` (timm's) or `midas.` (MiDaS small's, for DeepFloyd IF). Fine-tuned ones have the network's
own names, timm's under `classifier.`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn

from ..checkpoints.state_dicts import open_checkpoint
from ..checkpoints.weights import number_problem, trained_problem
from ..checkpoints.words import shown, shown_shape
from ..networks.tiny.files import NetworkFileError
from ..preprocessing import Preprocessing
from .bank import Adapter, LowRank
from .timm_names import places_of

Backbone = Literal["ResNet", "DeiT", "MiDaS small"]
SCHEDULES: dict[Backbone, str] = {"ResNet": "linear", "DeiT": "linear", "MiDaS small": "cosine"}  # ADM's, IF's
ALPHA = 8.0  # of LoRA, in the authors' code and recipe, whatever the rank
_IMAGENET = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}
_WHICH = {
    "ResNet": "torchvision's resnet50 with the weights IMAGENET1K_V2",
    "DeiT": "timm's deit_small_patch16_224, on the Hugging Face Hub facebook/deit-small-patch16-224",
    "MiDaS small": "midas_v21_small_256.pt",
}
_WRAPPED = re.compile(r"(.+)\.(?:conv|linear)\.(weight|bias)")

@dataclass(frozen=True)
class PpapExperts:
    """What released files hold.

    Attributes:
        efficient: low-rank changes, biases and norms; otherwise whole networks.
        scales: what the low-rank changes may be scaled by, the likeliest first: alpha / rank for ResNet; for DeiT 1,
            since the authors' linear layers leave alpha / rank out of the forward that is trained and sampled.
        dead: no low-rank change does anything, as DeiT's of before 2023-07-17.
    """

    backbone: Backbone
    efficient: bool
    adapters: tuple[Adapter, ...]
    scales: tuple[float, ...]
    dead: bool

    def rescaled(self, scale: float) -> PpapExperts:
        """The same with another scale of every low-rank change."""
        adapters = tuple(
            Adapter({name: replace(change, scale=scale) for name, change in adapter.low_rank.items()}, adapter.whole)
            for adapter in self.adapters
        )
        return replace(self, adapters=adapters)


def read_ppap(paths: Sequence[Path], base: nn.Module) -> PpapExperts:
    """Experts of a base network, one file each, from the cleanest noise range to the noisiest.

    Raises:
        NetworkFileError, CheckpointError: files that are no such experts, of several kinds, or of another network than
            the base, in words.
    """
    opened = [_open(path) for path in paths]
    first = opened[0]
    for file in opened:
        if (file.backbone, file.efficient) != (first.backbone, first.efficient):
            raise NetworkFileError(f"{file.name} is {file.words}, {first.name} {first.words}; they are not one bank.")
    held = base.state_dict()
    adapters = [_adapter(file, held) for file in opened]
    for file, adapter in zip(opened, adapters, strict=True):
        if not adapter.names():
            raise NetworkFileError(f"{file.name} is the base network itself, not an expert of it.")
    changes = [change for adapter in adapters for change in adapter.low_rank.values()]
    scales = {change.scale for change in changes}
    if len(scales) > 1:
        raise NetworkFileError(f"{first.name} and the others have LoRA of several ranks; PPAP's have one.")
    others = [ALPHA / change.down.shape[0] for change in changes] if first.backbone == "DeiT" else []
    possible = tuple(dict.fromkeys([*scales, *others])) or (1.0,)
    return PpapExperts(first.backbone, first.efficient, tuple(adapters), possible, first.efficient and not changes)


def inputs(backbone: Backbone, efficient: bool, clean: Preprocessing) -> tuple[Preprocessing, ...]:
    """How such experts may want a noisy picture, the likeliest first. clean: the base's own preprocessing.

    ResNet's see it as it is, in [-1, 1], at its own size. DeiT's resize it without antialiasing, as torchvision 0.14
    did; parameter-efficient ones normalise it since 2023-07-17, and fine-tuned ones do not. MiDaS's resize it to
    256 x 256 in the same way, and normalise it.
    """
    if backbone == "ResNet":
        return (Preprocessing(black=-1.0, white=1.0),)
    resized = Preprocessing(size=clean.size, filter="bilinear", antialias=False)
    if backbone == "MiDaS small":
        return (replace(resized, **_IMAGENET),)
    plain = replace(resized, black=-1.0, white=1.0)
    return (replace(resized, **_IMAGENET), plain) if efficient else (plain,)


@dataclass(frozen=True)
class _File:
    name: str
    backbone: Backbone
    efficient: bool
    tensors: Mapping[str, Tensor]  # without the prefix

    @property
    def words(self) -> str:
        return f"a {'parameter-efficient' if self.efficient else 'fine-tuned'} {self.backbone}"


def _open(path: Path) -> _File:
    tensors = _read(path)
    efficient = any(name.endswith(".lora_A") for name in tensors)
    kinds: tuple[tuple[str, str, Backbone], ...] = (
        ("resnet.", "fc.weight", "ResNet"), ("deit.classifier.", "cls_token", "DeiT"),
        ("classifier.", "cls_token", "DeiT"), ("midas.", "scratch.output_conv.4.bias", "MiDaS small"),
        ("", "layer1.0.conv1.weight", "ResNet"), ("", "cls_token", "DeiT"),
    )
    for prefix, sign, backbone in kinds:
        if prefix + sign in tensors:
            plain = {name[len(prefix) :]: tensor for name, tensor in tensors.items() if name.startswith(prefix)}
            return _File(path.name, backbone, efficient, plain)
    raise NetworkFileError(
        f"{path.name} is none of PPAP's experts; those are ResNet-50 (resnet.conv1.lora_A, ...), DeiT-S "
        f"(deit.classifier.blocks.0.attn.qkv.lora_A, ...) and MiDaS small (midas.scratch.layer1_rn.lora_A, ...), or "
        f"the first two fine-tuned."
    )


def _read(path: Path) -> dict[str, Tensor]:
    """The tensors of a file: BatchNorm's counters, and weights of at least two bytes a number."""
    tensors = open_checkpoint(path).tensors()
    for name, tensor in tensors.items():
        if problem := trained_problem(name, tensor):
            raise NetworkFileError(f"{path.name} is no usable expert: its tensor {shown(name)} {problem}.")
    return {name: tensor.float() if tensor.element_size() == 1 else tensor for name, tensor in tensors.items()}


def _rows(file: _File, name: str, tensor: Tensor, count: int) -> tuple[Tensor, ...]:
    """A tensor's rows, shared equally by so many layers of the base."""
    if count > 1 and (not tensor.ndim or tensor.shape[0] % count):
        shape = shown_shape(tensor.shape)
        raise _misfit(file, f"has {shown(name)} of shape {shape}, which {count} layers cannot share")
    return tensor.chunk(count) if count > 1 else (tensor,)


def _adapter(file: _File, held: Mapping[str, Tensor]) -> Adapter:
    layers = {name.removesuffix(".lora_A") for name in file.tensors if name.endswith(".lora_A")}
    whole: dict[str, Tensor] = {}
    for name, tensor in file.tensors.items():
        if name.removesuffix(".lora_A") in layers or name.removesuffix(".lora_B") in layers:
            continue
        wrapped = _WRAPPED.fullmatch(name)
        plain = f"{wrapped[1]}.{wrapped[2]}" if wrapped and wrapped[1] in layers else name
        places = _places(file.backbone, plain, held)
        if not places:
            raise _misfit(file, f"has {shown(name)}, which the base has not")
        whole |= dict(zip(places, _rows(file, name, tensor, len(places)), strict=True))
    low_rank = {name: change for layer in sorted(layers) for name, change in _changes(file, layer, held).items()}
    _check(file, whole, low_rank, held)
    alive = {name: change for name, change in low_rank.items() if bool(change.down.any()) and bool(change.up.any())}
    return Adapter(alive, {name: own for name, own in whole.items() if not torch.equal(own.to(held[name]), held[name])})


def _changes(file: _File, layer: str, held: Mapping[str, Tensor]) -> dict[str, LowRank]:
    """The low-rank change of a layer, or those of the layers that its rows are in the base."""
    down, up = (file.tensors.get(f"{layer}.lora_{factor}") for factor in "AB")
    places = _places(file.backbone, f"{layer}.weight", held)
    if down is None or up is None or not places:
        raise _misfit(file, f"has only half of the change of {shown(layer)}, or one that the base has no layer for")
    shape = held[places[0]].shape
    if down.ndim != 2 or up.ndim != 2 or (len(shape) == 4 and down.shape[0] < shape[-1]):
        shapes = f"{shown_shape(down.shape)} and {shown_shape(up.shape)}"
        raise _misfit(file, f"has a change of {shown(layer)} of the shapes {shapes}")
    # A linear layer's change is added without alpha / rank by the authors' forward, a convolution's with it.
    scale = ALPHA / (down.shape[0] // shape[-1]) if len(shape) == 4 else 1.0
    rows = _rows(file, layer, up, len(places))
    return {name: LowRank(down.clone(), part.clone(), scale) for name, part in zip(places, rows, strict=True)}


def _check(
    file: _File, whole: Mapping[str, Tensor], low_rank: Mapping[str, LowRank], held: Mapping[str, Tensor]
) -> None:
    """What is not trained must be the base's own: in parameter-efficient experts all but vectors and counters."""
    missing = sorted(held.keys() - whole.keys())
    if missing:
        raise _misfit(file, f"lacks {missing[0]}, which the base has")
    if problem := number_problem(whole, held):
        raise _misfit(file, f"is damaged, as {problem}")
    for name, own in whole.items():
        if own.shape != held[name].shape:
            shapes = f"{shown_shape(own.shape)} where the base has {shown_shape(held[name].shape)}"
            raise _misfit(file, f"has {name} of shape {shapes}")
        if file.efficient and own.ndim > 1 and not torch.equal(own.to(held[name]), held[name]):
            apart = float((own.to(held[name]) - held[name]).abs().max())
            raise _misfit(file, f"has another frozen {name}, by up to {apart:.2g}")
    for name, change in low_rank.items():
        if not change.fits(tuple(held[name].shape)):
            raise _misfit(file, f"has a change of {name} that does not give its shape {list(held[name].shape)}")


def _misfit(file: _File, words: str) -> NetworkFileError:
    return NetworkFileError(
        f"{file.name} does not fit the base that was chosen: it {words}. It is {file.words}; PPAP's are made of "
        f"{_WHICH[file.backbone]}."
    )


def _places(backbone: Backbone, name: str, held: Mapping[str, Tensor]) -> tuple[str, ...]:
    """Where the base keeps a tensor: one name, or those of query, key and value; none where it has no such tensor."""
    if backbone == "DeiT":
        return places_of(name, held)
    return tuple(place for place in (f"network.{name}", name) if place in held)[:1]
