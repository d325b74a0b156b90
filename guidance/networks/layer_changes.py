"""A change of a layer's weights, computed beside the layer instead of in it.

Linear layers, convolutions and normalisations are linear in their parameters:

    f(x; W + dW, b + db) = f(x; W, b) + f(x; dW, db)

so one resident network serves several sets of weights, and a low-rank change is never multiplied out.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor, nn
from torch.nn import functional as F

CONVOLUTIONS = {nn.Conv1d: F.conv1d, nn.Conv2d: F.conv2d, nn.Conv3d: F.conv3d}
NORMS = (nn.LayerNorm, nn.GroupNorm, nn.RMSNorm)


@dataclass(frozen=True, eq=False)
class LowRankChange:
    """dW = scale * up @ down for as many outputs from `start` on as `up` has rows; not for grouped convolutions."""

    up: Tensor  # [outputs, rank]
    down: Tensor  # [rank, inputs], or [rank, inputs, *kernel] for a convolution
    scale: float
    start: int = 0


@dataclass(frozen=True, eq=False)
class LayerChange:
    """dW and db of one layer: dW as a sum of low-rank parts and a whole one, each of which may be missing.

    `weight` and `bias` take a tensor and return the whole change in its dtype and on its device.
    """

    low_rank: tuple[LowRankChange, ...] = ()
    weight: Callable[[Tensor], Tensor] | None = None
    bias: Callable[[Tensor], Tensor] | None = None


def can_change(layer: nn.Module) -> bool:
    """Whether `apply_change` knows this kind of layer."""
    if convolution(layer):
        return layer.padding_mode == "zeros" and not layer.transposed
    return is_linear(layer) or isinstance(layer, NORMS)


def is_linear(layer: nn.Module) -> bool:
    """Whether it is a linear layer; those of quantised networks have the name but not the class."""
    return isinstance(layer, nn.Linear) or type(layer).__name__ == "Linear"


def convolution(layer: nn.Module) -> Callable[..., Tensor] | None:
    """The convolution that this layer computes, if it is one."""
    return next((function for kind, function in CONVOLUTIONS.items() if isinstance(layer, kind)), None)


def apply_change(layer: nn.Module, change: LayerChange, x: Tensor, out: Tensor) -> Tensor:
    """What the layer gives for x with its weights changed, from `out`, what it gives without the change."""
    channels = _channels(layer, out)
    for part in change.low_rank:
        added = _low_rank(layer, part, x)
        if added.shape == out.shape:
            out = out + added
        else:
            out = out.clone()
            out.narrow(channels, part.start, part.up.shape[0]).add_(added)
    if change.weight is not None:
        out = out + _product(layer, change.weight(x), x)
    if change.bias is not None:
        out = out + change.bias(out).reshape(-1, *(1,) * (-1 - channels))
    return out


def _channels(layer: nn.Module, out: Tensor) -> int:
    """Which dimension of the layer's output are its channels, counted from the end."""
    if isinstance(layer, nn.GroupNorm):
        return 1 - out.ndim
    dimensions = next((number for number, kind in enumerate(CONVOLUTIONS, 1) if isinstance(layer, kind)), 0)
    return -1 - dimensions


def _low_rank(layer: nn.Module, part: LowRankChange, x: Tensor) -> Tensor:
    up, down = part.up.to(x.dtype), part.down.to(x.dtype)
    convolve = convolution(layer)
    if convolve is None:
        return F.linear(F.linear(x, down) * part.scale, up)
    hidden = convolve(x, down, None, layer.stride, layer.padding, layer.dilation, layer.groups)
    return convolve(hidden * part.scale, up.reshape(*up.shape, *(1,) * (down.ndim - 2)))


def _product(layer: nn.Module, weight: Tensor, x: Tensor) -> Tensor:
    """The layer without its bias, with another weight."""
    convolve = convolution(layer)
    if convolve is not None:
        return convolve(x, weight, None, layer.stride, layer.padding, layer.dilation, layer.groups)
    if isinstance(layer, nn.GroupNorm):
        return F.group_norm(x, layer.num_groups, weight, None, layer.eps)
    if isinstance(layer, nn.LayerNorm):
        return F.layer_norm(x, layer.normalized_shape, weight, None, layer.eps)
    if isinstance(layer, nn.RMSNorm):
        return F.rms_norm(x, layer.normalized_shape, weight, layer.eps)
    return F.linear(x, weight)
