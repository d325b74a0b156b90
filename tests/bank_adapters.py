"""Small networks with every kind of layer that an expert changes, and random adapters for them."""

import copy

import torch
from torch import nn

from guidance_pack.guidance.experts.bank import Adapter, LowRank
from guidance_pack.guidance.guide import GuideSpec
from guidance_pack.guidance.preprocessing import Preprocessing

CLASSES = 3
PLAIN = Preprocessing(black=-1.0, white=1.0)


class Small(nn.Module):
    """A classifier of pictures with convolutions (3x3, 1x1, grouped), BatchNorm, GroupNorm and linear layers."""

    def __init__(self, norm: str = "batch") -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 8, 3, padding=1)
        self.norm = nn.BatchNorm2d(8) if norm == "batch" else nn.GroupNorm(2, 8)
        self.grouped = nn.Conv2d(8, 8, 3, padding=1, groups=4)
        self.mix = nn.Conv2d(8, 8, 1)
        self.inner = nn.Linear(8, 8)
        self.head = nn.Linear(8, CLASSES)

    def forward(self, input, timestep=None):
        hidden = self.mix(self.grouped(torch.relu(self.norm(self.first(input)))))
        return self.head(torch.relu(self.inner(hidden.mean((2, 3)))))


def small(norm: str = "batch", seed: int = 0) -> Small:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        network = Small(norm)
        if norm == "batch":
            network.norm.running_mean.normal_()
            network.norm.running_var.uniform_(0.5, 2.0)
    return network.eval().requires_grad_(False)


def spec(name: str = "small", **changed) -> GuideSpec:
    labels = tuple(f"class {index}" for index in range(CLASSES))
    return GuideSpec(name, **{"task": "classification", "preprocessing": PLAIN, "labels": labels, **changed})


def random_adapter(seed: int, scale: float = 0.5) -> Adapter:
    """Changes of both layouts of convolutions and of a linear layer, and whole tensors of a BatchNorm."""
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape):
        return torch.randn(shape, generator=generator)

    return Adapter(
        {
            "first.weight": LowRank(draw(2, 3, 3, 3), draw(8, 2, 1, 1), scale),
            "mix.weight": LowRank(draw(2, 8), draw(8, 2), scale),
            "inner.weight": LowRank(draw(2, 8), draw(8, 2), scale),
        },
        {
            "norm.weight": draw(8), "norm.bias": draw(8), "norm.running_mean": draw(8),
            "norm.running_var": draw(8).abs() + 0.5, "norm.num_batches_tracked": torch.tensor(7 + seed),
            "head.bias": draw(CLASSES),
        },
    )  # fmt: skip


def by_hand(base: nn.Module, adapter: Adapter) -> nn.Module:
    """A network of its own with the adapter's weights, in float64."""
    network = copy.deepcopy(base).double()
    state = network.state_dict()
    for name, change in adapter.low_rank.items():
        weight = state[name]
        down, up = change.down.double(), change.up.double()
        if down.ndim == 4:
            delta = (up[:, :, 0, 0] @ down.flatten(1)).view(weight.shape)
        else:
            delta = (up @ down).reshape(weight.shape)
        state[name] = weight + change.scale * delta
    state |= {name: tensor.double() if tensor.is_floating_point() else tensor for name, tensor in adapter.whole.items()}
    network.load_state_dict(state)
    return network.eval()


def state(network: nn.Module) -> dict:
    return {name: tensor.clone() for name, tensor in network.state_dict().items()}
