"""Several processes that train one network together, each on its share of every batch."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class ProcessGroup(Protocol):
    """The processes of one training: this one's number, how many there are, and how they agree.

    `mean` gives every process the mean of all processes' tensors, without a gradient.
    """

    rank: int
    count: int

    def mean(self, tensor: Tensor) -> Tensor: ...


class SingleProcess:
    """One process."""

    rank, count = 0, 1

    def mean(self, tensor: Tensor) -> Tensor:
        return tensor


def sync_batch_norm(network: nn.Module, process_group: ProcessGroup) -> None:
    """Let every BatchNorm in training take mean and variance over all processes' pictures, with their gradient."""
    if process_group.count == 1:
        return
    for module in network.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            setattr(module, "forward", _Shared(module, process_group))  # noqa: B010 - a method of this module alone


def mean_gradients(parameters: Iterable[nn.Parameter], process_group: ProcessGroup) -> None:
    """Replace every gradient by the mean over all processes."""
    if process_group.count > 1:
        for parameter in parameters:
            if parameter.grad is not None:
                parameter.grad = process_group.mean(parameter.grad)


class _Shared:
    """BatchNorm's forward in training: torch's own formula, its sums taken over all processes."""

    def __init__(self, norm: nn.modules.batchnorm._BatchNorm, process_group: ProcessGroup) -> None:
        self.norm, self.process_group = norm, process_group

    def __call__(self, x: Tensor) -> Tensor:
        norm, axes = self.norm, [0, *range(2, x.ndim)]
        if not norm.training:
            return F.batch_norm(x, norm.running_mean, norm.running_var, norm.weight, norm.bias, False, 0.0, norm.eps)
        shape = (1, -1, *[1] * (x.ndim - 2))
        full = x.to(torch.promote_types(x.dtype, torch.float32))
        mean = _Mean.apply(full.mean(axes), self.process_group)
        # The squares of what is left, not E[x^2] - E[x]^2, which loses the digits that a large mean takes.
        centred = full - mean.view(shape)
        variance = _Mean.apply(centred.square().mean(axes), self.process_group)
        self._remember(mean.detach(), variance.detach(), x.numel() // x.shape[1] * self.process_group.count)
        out = centred * (variance + norm.eps).rsqrt().view(shape)
        return (out * norm.weight.view(shape) + norm.bias.view(shape) if norm.affine else out).to(x.dtype)

    @torch.no_grad()
    def _remember(self, mean: Tensor, variance: Tensor, count: int) -> None:
        norm = self.norm
        if norm.running_mean is None or norm.running_var is None or norm.num_batches_tracked is None:
            return
        norm.num_batches_tracked += 1
        share = norm.momentum if norm.momentum is not None else 1.0 / float(norm.num_batches_tracked)
        norm.running_mean.lerp_(mean.to(norm.running_mean), share)
        norm.running_var.lerp_((variance * count / max(count - 1, 1)).to(norm.running_var), share)


class _Mean(torch.autograd.Function):
    """The mean over processes. Backward it is the mean as well: the sum of what every process's loss says of it, times
    this process's share in it, 1 / count; `mean_gradients` then makes of the sum of the losses their mean."""

    @staticmethod
    def forward(ctx, tensor: Tensor, process_group: ProcessGroup) -> Tensor:
        ctx.process_group = process_group
        return process_group.mean(tensor)

    @staticmethod
    def backward(ctx, *gradients: Tensor):
        return ctx.process_group.mean(gradients[0]), None
