"""A change of a layer beside the layer is the layer with changed weights, in float64, for every kind of layer."""

import pytest
import torch
from torch import nn

from guidance_pack.guidance.networks import layer_changes as changes

LAYERS = {
    "linear": (lambda: nn.Linear(6, 8), (2, 3, 6)),
    "linear without bias": (lambda: nn.Linear(6, 8, bias=False), (2, 6)),
    "conv1d": (lambda: nn.Conv1d(6, 8, 3, stride=2, padding=1), (2, 6, 9)),
    "conv2d": (lambda: nn.Conv2d(6, 8, 3, padding=2, dilation=2), (2, 6, 7, 5)),
    "grouped conv2d": (lambda: nn.Conv2d(6, 8, 3, padding=1, groups=2), (2, 6, 7, 5)),
    "conv3d": (lambda: nn.Conv3d(6, 8, (1, 2, 3)), (2, 6, 3, 4, 5)),
    "one picture without a batch": (lambda: nn.Conv2d(6, 8, 1), (6, 4, 4)),
    "group norm": (lambda: nn.GroupNorm(2, 6), (2, 6, 4, 4)),
    "layer norm": (lambda: nn.LayerNorm(6), (2, 3, 6)),
    "rms norm": (lambda: nn.RMSNorm(6, eps=1e-6), (2, 3, 6)),
}


def drawn(name):
    """(layer, x, a change of its weight, a change of its bias or None) in float64."""
    make, shape = LAYERS[name]
    torch.manual_seed(0)
    layer = make().double()
    x, weight, bias = torch.randn(shape).double(), torch.randn_like(layer.weight), getattr(layer, "bias", None)
    return layer, x, weight, None if bias is None else torch.randn_like(bias)


def patched(layer, x, weight, bias):
    parameters = {"weight": layer.weight + weight, **({} if bias is None else {"bias": layer.bias + bias})}
    return torch.func.functional_call(layer, parameters, (x,))


@torch.no_grad()
@pytest.mark.parametrize("name", LAYERS)
def test_whole_changes(name):
    layer, x, weight, bias = drawn(name)
    assert changes.can_change(layer)
    change = changes.LayerChange((), lambda _: weight, None if bias is None else lambda _: bias)
    found = changes.apply_change(layer, change, x, layer(x))
    torch.testing.assert_close(found, patched(layer, x, weight, bias), rtol=1e-12, atol=1e-12)


@torch.no_grad()
@pytest.mark.parametrize("rows", [slice(0, 8), slice(2, 5)], ids=["all outputs", "some outputs"])
@pytest.mark.parametrize("name", [name for name in LAYERS if "norm" not in name and "grouped" not in name])
def test_low_rank_changes(name, rows):
    layer, x, weight, _ = drawn(name)
    up = torch.randn(8, 3).double()[rows]
    down = torch.randn(3, *weight.shape[1:]).double()
    weight.zero_()
    weight[rows] = 0.7 * torch.einsum("or,r...->o...", up, down)
    change = changes.LayerChange((changes.LowRankChange(up, down, 0.7, rows.start),))
    out = layer(x)
    before = out.clone()
    found = changes.apply_change(layer, change, x, out)
    torch.testing.assert_close(found, patched(layer, x, weight, None), rtol=1e-12, atol=1e-12)
    assert torch.equal(out, before), "what the layer gave is not written to"


def test_layers_that_are_not_linear_in_their_weights_are_not_changed():
    others = nn.Embedding(4, 6), nn.ConvTranspose2d(4, 4, 3), nn.Conv2d(4, 4, 3, padding=1, padding_mode="reflect")
    assert not any(map(changes.can_change, others))
