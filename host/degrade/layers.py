"""Which layers of a host's network can be perturbed through its public patch points, and how people name them.

A layer is a part and a number: ("input", 4), ("middle", 0), ("double", 7). Source of U-Nets' points: comfy/ldm/modules/
diffusionmodules/openaimodel.py.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from itertools import groupby
from typing import cast

from comfy.ldm.modules.attention import SpatialTransformer
from comfy.ldm.modules.diffusionmodules.openaimodel import Downsample, ResBlock, UNetModel, Upsample
from comfy.model_patcher import ModelPatcher
from torch import nn

from .patch_points import block_lists

Layer = tuple[str, int]
WORD = re.compile(r"([a-z]*)\s*(?:(\d+)(?:\s*-\s*(\d+))?)?")


@dataclass(frozen=True)
class Layout:
    """A network's layers.

    Attributes:
        blocks: those that can be left out: what comes out has the shape of what went in.
        attention: those whose self-attention can be replaced.
        joint: text and picture share one attention, the text first.
        unet: patched at a U-Net's points; else at a transformer's blocks.
        prompted: the layers of `attention` read a prompt.
    """

    blocks: tuple[Layer, ...] = ()
    attention: tuple[Layer, ...] = ()
    joint: bool = False
    unet: bool = False
    prompted: bool = False


# Transformers whose self-attention is known: the parts that have one, and whether text and picture share it.
ATTENTION = {
    "comfy.ldm.modules.diffusionmodules.mmdit.MMDiT": (("double",), True),
    "comfy.ldm.flux.model.Flux": (("double", "single"), True),
    "comfy.ldm.chroma.model.Chroma": (("double", "single"), True),
    "comfy.ldm.qwen_image.model.QwenImageTransformer2DModel": (("double",), True),
    "comfy.ldm.wan.model.WanModel": (("double",), False),
}
TINY = ".networks.tiny.unet.TinyUNet"  # the pack's own
PROMPTED = "Stable Diffusion U-Nets, SD3, Flux, Chroma, Qwen-Image and Wan"
SUPPORTED = f"{PROMPTED.replace(' and', ',')} and the embedded tiny models"
BLOCKS_ALONE = "every transformer whose blocks ComfyUI lets others replace"


def layout_of(model: ModelPatcher) -> Layout:
    """The layers of a MODEL's network; none if it has no patch points."""
    network = model.get_model_object("diffusion_model")
    if isinstance(network, UNetModel):
        return _unet(network)
    names = [f"{kind.__module__}.{kind.__qualname__}" for kind in type(network).__mro__]
    if any(name.endswith(TINY) for name in names):
        lists = {part: cast(nn.ModuleList, network.get_submodule(part)) for part in ("down", "deep", "up")}
        return _transformer(lists, ("deep",), False, reshaping=(("up", 0),))
    parts, joint = next((ATTENTION[name] for name in names if name in ATTENTION), ((), False))
    return replace(_transformer(block_lists(network), parts, joint), prompted=bool(parts))


def _transformer(
    lists: Mapping[str, nn.ModuleList], attention: tuple[str, ...], joint: bool, reshaping: tuple[Layer, ...] = ()
) -> Layout:
    """reshaping: blocks whose output has another shape than their input."""
    layers = tuple((part, i) for part, blocks in lists.items() for i in range(len(blocks)))
    able = tuple(layer for layer in layers if layer[0] in attention)
    return Layout(tuple(layer for layer in layers if layer not in reshaping), able, joint)


def _unet(network: UNetModel) -> Layout:
    """A block can be left out where nothing changes size; after the last output block there is no patch point."""
    blocks: list[Layer] = []
    attention: list[Layer] = []
    width = None
    middle = [] if network.middle_block is None else [network.middle_block]
    for part, modules in (("input", network.input_blocks), ("middle", middle), ("output", network.output_blocks)):
        for index, block in enumerate(cast(list[nn.Sequential], modules)):
            residual = [layer for layer in block if isinstance(layer, ResBlock)]
            resized = any(isinstance(m, Downsample | Upsample) or getattr(m, "updown", False) for m in block)
            out = residual[-1].out_channels if residual else width
            last = part == "output" and index == len(network.output_blocks) - 1
            if residual and out == width and not resized and not last:
                blocks.append((part, index))
            if any(isinstance(layer, SpatialTransformer) for layer in block):
                attention.append((part, index))
            width = out if index or part != "input" else network.model_channels
    return Layout(tuple(blocks), tuple(attention), unet=True, prompted=True)


def chosen(text: str, layers: tuple[Layer, ...]) -> tuple[Layer, ...]:
    """The layers that the words name, such as "middle, output 3-5" or "7, 8, 9", of those that there are.

    Raises ValueError, with what there is, for anything else.
    """
    found: list[Layer] = []
    for word in filter(None, (word.strip() for word in text.lower().replace(";", ",").split(","))):
        mine = _of_word(word, layers)
        if not mine:
            raise ValueError(_unknown(word, layers))
        found += mine
    if not found:
        raise ValueError(_unknown(text, layers))
    return tuple(dict.fromkeys(found))


def _of_word(word: str, layers: tuple[Layer, ...]) -> list[Layer]:
    """The layers of one word; none if some of them are not there."""
    parts = list(dict.fromkeys(part for part, _ in layers))
    match = WORD.fullmatch(word)
    part, first, last = match.groups() if match else ("", None, None)
    if not part and first and len(parts) == 1:
        part = parts[0]  # a number is enough where there is only one part
    mine = [layer for layer in layers if layer[0] == part]
    if first is None:
        return mine
    low, high = int(first), int(last or first)
    inside = [layer for layer in mine if low <= layer[1] <= high]
    return inside if len(inside) == high - low + 1 else []


def _unknown(word: str, layers: tuple[Layer, ...]) -> str:
    return (
        f"layers has {word!r}, and this model has {names_of(layers)}. Write for instance {names_of(central(layers))}, "
        f"or leave it empty for the usual ones."
    )


def central(layers: tuple[Layer, ...]) -> tuple[Layer, ...]:
    """The usual layers to perturb: a U-Net's middle, or an eighth of a transformer from 30 % of its depth on."""
    if ("middle", 0) in layers:
        return (("middle", 0),)
    start = int(0.3 * len(layers))
    return layers[start : start + max(1, round(len(layers) / 8))]


def names_of(layers: Iterable[Layer]) -> str:
    """The layers in the words that `chosen` reads: input 1-2, middle, output 4."""
    words = []
    for part, group in groupby(layers, key=lambda layer: layer[0]):
        numbers = [number for _, number in group]
        runs = [list(run) for _, run in groupby(enumerate(numbers), key=lambda pair: pair[1] - pair[0])]
        spans = [(run[0][1], run[-1][1]) for run in runs]
        words += [part] if part == "middle" else [f"{part} {a}" if a == b else f"{part} {a}-{b}" for a, b in spans]
    return ", ".join(words)
