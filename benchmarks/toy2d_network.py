"""The networks of the 2-D toy experiment: a small multilayer perceptron of the log density, and its training.

Source: Karras et al. 2024 (autoguidance, 2406.02507), Appendix C, on the magnitude-preserving layers of Karras et al.
2024 (EDM2, 2312.02696).
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from toy2d_world import world
from world.ema import PowerDecay, average_of

SIGMA_DATA = 0.5
SILU_GAIN = 0.596  # SiLU of a standard normal has this root mean square
BATCH = 4096


@dataclass(frozen=True)
class Recipe:
    """What a network is and how it came to be: the classes it learnt, its width and its training steps."""

    classes: str
    width: int
    steps: int
    seed: int = 0

    @property
    def name(self) -> str:
        return f"toy2d-{self.classes}-width{self.width}-steps{self.steps}"


class Unit(nn.Module):
    """A linear layer with rows of unit length: only their directions are learnt."""

    def __init__(self, inputs: int, outputs: int, generator: torch.Generator) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(outputs, inputs, generator=generator))

    def forward(self, x: Tensor) -> Tensor:
        return x @ (_normalized(self.weight) / self.weight.shape[1] ** 0.5).T

    @torch.no_grad()
    def renormalize(self) -> None:
        """Bring the stored rows back to length sqrt(inputs), so that the learning rate keeps its meaning."""
        self.weight.copy_(_normalized(self.weight))


class LogDensity(nn.Module):
    """gain mean(F^2) / sigma - |x|^2 / (2 (sigma_data^2 + sigma^2)), the log density up to a constant."""

    def __init__(self, width: int, seed: int = 0) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        sizes = (4, *[width] * 5)
        self.layers = nn.ModuleList(Unit(a, b, generator) for a, b in zip(sizes, sizes[1:], strict=False))
        self.gain = nn.Parameter(torch.zeros(()))

    def forward(self, x: Tensor, sigma: Tensor) -> Tensor:
        """x: [B, 2]; sigma: [B]. Returns [B]."""
        x = x / (SIGMA_DATA**2 + sigma**2).sqrt()[:, None]
        hidden = torch.cat([x, sigma.log()[:, None] / 4, torch.ones_like(sigma)[:, None]], 1)
        hidden = self.layers[0](hidden)
        for layer in self.layers[1:]:
            hidden = layer(nn.functional.silu(hidden) / SILU_GAIN)
        return hidden.square().mean(1) * self.gain / sigma - x.square().sum(1) / 2

    def score(self, x: Tensor, sigma: Tensor, training: bool = False) -> Tensor:
        """The gradient with respect to x, [B, 2]; `training` keeps its graph."""
        with torch.enable_grad():
            x = x.detach().requires_grad_()
            return torch.autograd.grad(self(x, sigma).sum(), x, create_graph=training)[0]


def untrained(recipe: Recipe) -> LogDensity:
    """The network that a recipe starts from."""
    return LogDensity(recipe.width, recipe.seed)


def train(network: LogDensity, recipe: Recipe) -> Iterator[tuple[int, float]]:
    """Exact score matching: yields (step, loss); at the end the network holds its averaged weights.

    The loss is sigma^2 mean |score - exact score|^2 over noisy data with ln sigma ~ N(-2.3, 1.5^2).
    """
    generator = torch.Generator().manual_seed(recipe.seed)
    truth = world(recipe.classes)
    average = average_of(network, PowerDecay(0.010))
    optimizer = torch.optim.Adam(network.parameters(), betas=(0.9, 0.99))
    for step in range(1, recipe.steps + 1):
        optimizer.param_groups[0]["lr"] = 1e-2 / max(step / 512, 1) ** 0.5
        sigma = (1.5 * torch.randn(BATCH, generator=generator) - 2.3).exp()
        clean = truth.sample(BATCH, generator)
        x = clean + sigma[:, None] * torch.randn(BATCH, 2, generator=generator)
        error = sigma[:, None] * (network.score(x, sigma, training=True) - truth.score(x, sigma))
        loss = error.square().mean()
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        for layer in network.layers:
            layer.renormalize()
        average.update_parameters(network)
        yield step, loss.item()
    network.load_state_dict(average.module.state_dict())


def write(path: Path, network: LogDensity, recipe: Recipe, loss: float) -> None:
    """Keep a network as safetensors; the header holds its recipe and its last loss."""
    header = {"recipe": json.dumps(asdict(recipe)), "loss": f"{loss:.4f}"}
    save_file({name: p.detach().contiguous() for name, p in network.named_parameters()}, path, header)


def read(path: Path, recipe: Recipe) -> LogDensity:
    """The network of a recipe, for evaluation.

    Raises:
        FileNotFoundError: it was not trained yet. ValueError: the file holds another recipe's network.
    """
    if not path.is_file():
        raise FileNotFoundError(f"there is no {path}; run `python benchmarks/toy2d.py --train` to train it.")
    with safe_open(path, framework="pt") as file:
        held = (file.metadata() or {}).get("recipe")
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dict
    if held != json.dumps(asdict(recipe)):
        raise ValueError(f"{path.name} holds the network of {held}; expected {json.dumps(asdict(recipe))}.")
    network = LogDensity(recipe.width)
    network.load_state_dict(tensors)
    return network.requires_grad_(False)


def _normalized(weight: Tensor) -> Tensor:
    """Rows of length sqrt(inputs)."""
    length = weight.norm(dim=1, keepdim=True) / weight.shape[1] ** 0.5
    return weight / (length + 1e-4)
