"""Whether a file's tensors are the weights of a network: names and shapes first, the numbers once they are read."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TypeVar

import torch
from torch import Tensor

from .words import shown, shown_shape

Shapes = Mapping[str, tuple[int, ...]]
FLOATS = (
    torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.float8_e4m3fn, torch.float8_e5m2
)
MOST_DIMENSIONS = 8
LONGEST = 2**31  # of a dimension
MOST_TENSORS, LONGEST_NAME = 2**16, 512
_SAID = 3  # problems in a message


WRAPPERS = ("module.", "_orig_mod.")  # what distributed training and torch.compile put before every name
Value = TypeVar("Value")


def unwrapped(named: Mapping[str, Value]) -> dict[str, Value]:
    """The same under the names of the network alone, where all of them stand in a wrapper of torch's."""
    for wrapper in WRAPPERS:
        if named and all(name.startswith(wrapper) for name in named):
            return unwrapped({name[len(wrapper) :]: value for name, value in named.items()})
    return dict(named)


def file_problem(shapes: Shapes) -> str:
    """Why names and shapes are none of a network's, in words that begin with "it"; "" if they may be."""
    if len(shapes) > MOST_TENSORS:
        return f"it has {len(shapes)} tensors; at most {MOST_TENSORS} are read"
    for name, shape in shapes.items():
        if len(name) > LONGEST_NAME:
            return f"the name of its tensor {shown(name)} has {len(name)} characters; at most {LONGEST_NAME} are read"
        if problem := shape_problem(name, shape):
            return problem
    return ""


def shapes_of(tensors: Mapping[str, Tensor]) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in tensors.items()}


def misfit(own: Shapes, found: Shapes) -> str:
    """How a file's names and shapes (`found`) differ from the network's: "it lacks a, it has the unknown b"; "" if
    they do not."""
    kinds = (
        [f"lacks {shown(key)}" for key in own if key not in found],
        [f"has the unknown {shown(key)}" for key in found if key not in own],
        [
            f"has {shown(key)} of shape {shown_shape(found[key])} instead of {shown_shape(own[key])}"
            for key in own
            if key in found and tuple(found[key]) != tuple(own[key])
        ],
    )
    problems = [kind[0] for kind in kinds if kind] + [problem for kind in kinds for problem in kind[1:]]
    more = f" (and {len(problems) - _SAID} more)" if len(problems) > _SAID else ""
    return f"it {', it '.join(problems[:_SAID])}{more}" if problems else ""


def shape_problem(name: str, shape: tuple[int, ...]) -> str:
    """Why a tensor of this shape is none of a network, in words that begin with "its tensor"; "" if it may be."""
    if len(shape) > MOST_DIMENSIONS or any(not 0 < size < LONGEST for size in shape):
        return (
            f"its tensor {shown(name)} has the shape {shown_shape(shape)}; a network's have at most {MOST_DIMENSIONS} "
            f"dimensions, none of them 0"
        )
    return ""


def number_problem(tensors: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> str:
    """Why the numbers cannot be the network's weights, in words that begin with "its tensor"; "" if they can.

    Args:
        own: the network's tensors of the same names, of any device: what counts or numbers something is whole there.
    """
    for name, tensor in tensors.items():
        if own[name].is_floating_point():
            problem = weight_problem(tensor)
        else:
            whole = tensor.dtype in (torch.int64, torch.int32, torch.int16, torch.uint8, torch.int8, torch.bool)
            problem = "" if whole else f"is of {_dtype(tensor)}, where whole numbers are needed"
        if problem:
            return f"its tensor {shown(name)} {problem}"
    return ""


def trained_problem(name: str, tensor: Tensor) -> str:
    """`weight_problem` of what a training changes: weights, and the whole number of batch normalisation's batches."""
    counts = tensor.dtype == torch.int64 and name.endswith("num_batches_tracked")
    return "" if counts else weight_problem(tensor)


def weight_problem(tensor: Tensor) -> str:
    """Why a tensor cannot be a weight, as the end of a sentence; "" if it can: dense, floating, finite."""
    if tensor.layout != torch.strided or tensor.is_quantized or tensor.is_meta:
        return "is sparse, quantised or empty of numbers; weights are dense"
    if tensor.dtype not in FLOATS:
        return f"is of {_dtype(tensor)}; weights are floating-point numbers"
    numbers = tensor.detach() if tensor.element_size() > 1 else tensor.detach().float()
    if numbers.numel() and not all(math.isfinite(float(end)) for end in torch.aminmax(numbers)):
        return "is not finite: it has NaN or infinity in it"
    return ""


def _dtype(tensor: Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")
