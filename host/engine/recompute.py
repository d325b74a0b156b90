"""A gradient through the denoiser with little memory: its blocks are evaluated again in the backward.

Only what passes between blocks is kept, and one block's activations at a time (activation checkpointing, 1604.06174).
PyTorch's own (torch.utils.checkpoint) does not go together with networks that change activations in place, nor with the
host's options, which say another block by the time of the backward.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

LISTS = (nn.ModuleList, nn.Sequential)
TENSOR = object()  # stands for one among what a block gives


class Recomputed(torch.autograd.Function):
    """call(list of tensors) -> list of tensors, of which the backward keeps what went in alone."""

    @staticmethod
    def forward(ctx: Any, call: Callable, *given: Tensor) -> tuple[Tensor, ...]:
        ctx.call = call
        ctx.save_for_backward(*given)
        out = call([tensor.clone() for tensor in given])
        return tuple(one.clone() if one._is_view() else one for one in out)  # the next block may change it in place

    @staticmethod
    def backward(ctx: Any, *slopes: Tensor) -> tuple[Tensor | None, ...]:
        given = [tensor.detach().requires_grad_() for tensor in ctx.saved_tensors]
        with torch.enable_grad():
            # Copies: a block may change its input in place, which a leaf does not allow.
            out = ctx.call([tensor.clone() for tensor in given])
            pairs = [(one, slope) for one, slope in zip(out, slopes, strict=True) if one.requires_grad]
            ends, along = map(list, zip(*pairs, strict=True))
            found = torch.autograd.grad(ends, given, along, allow_unused=True)
        return None, *found


@contextmanager
def recomputed(network: nn.Module) -> Generator[None]:
    """While inside, the blocks of a network keep nothing of their own for a backward. Everything is put back."""
    with ExitStack() as stack:
        for block in dict.fromkeys(blocks_of(network)):
            own = block.__dict__
            if "forward" in own:
                stack.callback(own.__setitem__, "forward", own["forward"])
            else:
                stack.callback(own.pop, "forward")
            own["forward"] = partial(_evaluate, block.forward)
        yield


def blocks_of(network: nn.Module) -> Iterator[nn.Module]:
    """The outermost modules that a network has in lists, if they are made of others."""
    for child in network.children():
        if isinstance(network, LISTS) and not isinstance(child, LISTS):
            if any(True for _ in child.children()):
                yield child
        else:
            yield from blocks_of(child)


def _evaluate(forward: Callable, *args: Any, **kwargs: Any) -> Any:
    # The options are taken apart and put together again, so that the backward sees them as they are now.
    values, form = pytree.tree_flatten((args, kwargs))
    places = [i for i, value in enumerate(values) if isinstance(value, Tensor) and value.requires_grad]
    if not places:
        return forward(*args, **kwargs)
    given: list[Tensor] = [values[place] for place in places]
    shape: list[Any] = []
    for place in places:
        values[place] = None  # kept by autograd alone

    def call(tensors: list[Tensor]) -> list[Tensor]:
        own = list(values)
        for place, tensor in zip(places, tensors, strict=True):
            own[place] = tensor
        again, named = pytree.tree_unflatten(own, form)
        found, found_form = pytree.tree_flatten(forward(*again, **named))
        shape[:] = [found_form, [TENSOR if isinstance(value, Tensor) else value for value in found]]
        return [value for value in found if isinstance(value, Tensor)]

    out = iter(Recomputed.apply(call, *given))
    return pytree.tree_unflatten([next(out) if value is TENSOR else value for value in shape[1]], shape[0])
