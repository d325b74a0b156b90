"""The training loop of a denoiser: an iterator of reports over a state that can be stopped and taken up again."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from guidance_pack.guidance.networks.tiny.preconditioning import (
    SIGMA_DATA,
    Prediction,
    add_noise,
    per_sample,
    precondition,
)
from guidance_pack.guidance.training.weighting import EDMWeight, Weighting
from world.ema import Decay, PowerDecay, average_of
from world.muon import Muon
from world.noise import LogNormal, NoiseSampler

Data = Callable[[int], tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class Settings:
    """What decides a training, together with the network and the data.

    Attributes:
        steps: where `train` stops.
        learning_rate: rises linearly over `warmup` steps, stays, and falls with 1/sqrt(step) after `steady` steps
            (as in Karras et al. 2024, EDM2), so that a training has no fixed end and can be stopped at any time.
        label_dropout: share of pictures that are shown with the null class, which trains the unconditional prediction.
        null_class: the index of the null class; with attributes, the index of every part's null word.
        part_dropout: share of the words left that are dropped one by one, so that a part can be asked for alone.
    """

    steps: int
    null_class: int | tuple[int, ...]
    prediction: Prediction = "edm"
    sigma_data: float = SIGMA_DATA
    learning_rate: float = 3e-3
    warmup: int = 50
    steady: int = 1000
    label_dropout: float = 0.12
    part_dropout: float = 0.0
    noise: NoiseSampler = field(default_factory=LogNormal)
    weight: Weighting = field(default_factory=EDMWeight)
    average: Decay = field(default_factory=PowerDecay)
    seed: int = 0


@dataclass(frozen=True)
class Report:
    """What one step did: its number (1 for the first), its weighted loss and the learning rate it used."""

    step: int
    loss: float
    learning_rate: float


class State:
    """What a training must remember between two steps: weights, the optimiser's moments, the average, the generator.

    Args:
        network: trained in place.
        settings: `settings.seed` starts the generator, which alone decides noise, noise levels and dropped labels.
    """

    def __init__(self, network: nn.Module, settings: Settings) -> None:
        self.network = network
        self.step = 0
        self.generator = torch.Generator().manual_seed(settings.seed)
        self.average = average_of(network, settings.average)
        self.optimizer = Muon(network.parameters(), lr=settings.learning_rate)

    def tensors(self) -> dict[str, Tensor]:
        """All of it as named tensors, to be saved and given back to `restore`."""
        saved = {f"network.{name}": p.detach() for name, p in self.network.named_parameters()}
        saved |= {f"average.{name}": p.detach() for name, p in self.average.module.named_parameters()}
        for name, parameter in self.network.named_parameters():
            for key, value in self.optimizer.state.get(parameter, {}).items():
                saved[f"optimizer.{key}.{name}"] = value
        return saved | {"generator": self.generator.get_state(), "step": torch.tensor(self.step)}

    @torch.no_grad()
    def restore(self, saved: dict[str, Tensor]) -> None:
        """Continue where `tensors()` was taken; the next steps are the same as if it had never stopped.

        Raises:
            KeyError: a tensor of this network is not among the saved ones.
        """
        self.step = int(saved["step"])
        self.average.n_averaged.fill_(self.step + 1)
        self.generator.set_state(saved["generator"].clone())
        for name, parameter in self.average.module.named_parameters():
            parameter.copy_(saved[f"average.{name}"])
        for name, parameter in self.network.named_parameters():
            parameter.copy_(saved[f"network.{name}"])
            self.optimizer.state[parameter] = {
                key.split(".")[1]: tensor.clone()
                for key, tensor in saved.items()
                if key.startswith("optimizer.") and key.split(".", 2)[2] == name
            }


def train(state: State, data: Data, settings: Settings) -> Iterator[Report]:
    """Take one step each time a report is asked for, until `settings.steps`.

    The loss is mean_i w(sigma_i) |D(x_i, sigma_i, y_i) - clean_i|^2 / pixels. Nothing here touches torch's global
    generator, so equal inputs give equal weights.

    Args:
        data: called with the step's number (1 for the first); returns clean pictures [B, C, H, W] and labels int64 [B],
            or [B, parts] with attributes.

    Raises:
        FloatingPointError: the loss is no longer finite; the weights are left as they were before that step.
    """
    denoise = precondition(state.network, settings.prediction, settings.sigma_data)
    while state.step < settings.steps:
        step = state.step + 1
        rate = _learning_rate(step, settings)
        for group in state.optimizer.param_groups:
            group["lr"] = rate
        clean, labels = data(step)
        loss = denoising_loss(denoise, clean, labels, settings, state.generator)
        if not torch.isfinite(loss):
            raise FloatingPointError(f"the loss of step {step} is {loss.item()}; lower the learning rate ({rate:g}).")
        state.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        state.optimizer.step()
        state.average.update_parameters(state.network)
        state.step = step
        yield Report(step, loss.item(), rate)


def denoising_loss(
    denoise: Callable[[Tensor, Tensor, Tensor], Tensor],
    clean: Tensor,
    labels: Tensor,
    settings: Settings,
    generator: torch.Generator,
) -> Tensor:
    """The weighted loss of one batch, a scalar, at noise levels and with noise from the generator."""
    count = len(clean)
    sigma = settings.noise(count, generator)
    noise = torch.randn(clean.shape, generator=generator)
    dropped = per_sample(torch.rand(count, generator=generator) < settings.label_dropout, labels)
    if settings.part_dropout:
        dropped = dropped | (torch.rand(labels.shape, generator=generator) < settings.part_dropout)
    shown = torch.where(dropped, torch.tensor(settings.null_class), labels)
    denoised = denoise(add_noise(settings.prediction, clean, noise, sigma), sigma, shown)
    error = (denoised - clean).square().flatten(1).mean(1)
    return (settings.weight(sigma) * error).mean()


def _learning_rate(step: int, settings: Settings) -> float:
    ramp = min(step / max(settings.warmup, 1), 1.0)
    return settings.learning_rate * ramp / max(step / settings.steady, 1.0) ** 0.5
