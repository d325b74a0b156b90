"""A copy of a clean network that becomes one expert: its own parts are trained, the rest stays as it was."""

from __future__ import annotations

import copy
import math
import re
from collections.abc import Generator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from ..experts.bank import LowRank, Part
from .lora_targets import Adaptation, low_rank_layers, whole_tensors

_ADAPTER = "expert"


class Student:
    """One expert in training.

    Args:
        base: copied in float32, and left as it is.
        adaptation: what may change.
        generator: draws LoRA's first factors; the second ones start at zero, so that a student starts as the base.

    Attributes:
        network: called as the base, in evaluation mode but for BatchNorm, which learns the statistics of noise.

    Raises:
        ValueError: the adaptation leaves nothing to train, or names layers that are not there.
    """

    def __init__(self, base: nn.Module, adaptation: Adaptation, generator: torch.Generator) -> None:
        self.adaptation = adaptation
        self.network = copy.deepcopy(base).float().eval().requires_grad_(False)
        layers = low_rank_layers(self.network, adaptation) if adaptation.efficient else []
        parameters, self._buffers = whole_tensors(self.network, adaptation)
        if not (layers or parameters):
            raise ValueError("This network has no layer that an expert could change (Linear, Conv2d, norms, biases).")
        if layers:
            _inject(self.network, layers, adaptation, generator)
        self.trained: dict[str, nn.Parameter] = {}
        for name, parameter in self.network.named_parameters():
            if f".{_ADAPTER}." in name or _plain(name) in parameters:
                parameter.requires_grad_()
                self.trained[name] = parameter
        for module in self.network.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                module.train()

    def part(self) -> Part:
        """What it has of its own by now: copies, on the CPU."""
        mine = {name: tensor.detach().cpu().clone() for name, tensor in self.tensors().items()}
        ups = {name: tensor for name, tensor in mine.items() if f".lora_B.{_ADAPTER}." in name}
        downs = {name: tensor for name, tensor in mine.items() if f".lora_A.{_ADAPTER}." in name}
        low_rank = {
            name.replace(f".lora_A.{_ADAPTER}", ""): LowRank(
                down, ups[name.replace("lora_A", "lora_B")], self.adaptation.scale
            )
            for name, down in downs.items()
        }
        whole = {_plain(name): tensor for name, tensor in mine.items() if name not in ups.keys() | downs.keys()}
        return Part(low_rank, whole)

    def tensors(self) -> dict[str, Tensor]:
        """The trained tensors themselves, by name; `restore` takes the same names."""
        held = dict(self.network.named_buffers())  # moving a network puts others in their place
        return {**self.trained, **{name: held[name] for name in self._buffers}}

    @contextmanager
    def untouched_if_it_fails(self) -> Generator[None]:
        """A forward changes BatchNorm's statistics at once; if the step ends in an error, it never was."""
        before = {name: tensor.clone() for name, tensor in self.network.named_buffers() if name in self._buffers}
        try:
            yield
            before.clear()
        finally:
            for name, tensor in before.items():
                self.network.get_buffer(name).copy_(tensor)

    @torch.no_grad()
    def restore(self, saved: dict[str, Tensor]) -> None:
        """Overwrite the trained tensors. Raises KeyError where one is missing."""
        for name, tensor in self.tensors().items():
            tensor.copy_(saved[name])


def _inject(network: nn.Module, layers: list[str], adaptation: Adaptation, generator: torch.Generator) -> None:
    from peft import LoraConfig, inject_adapter_in_model

    config = LoraConfig(
        # Whole names: peft's lists match endings, and a stem called conv1 would match every conv1.
        r=adaptation.rank, lora_alpha=adaptation.alpha, target_modules="|".join(map(re.escape, layers)),
    )
    with torch.random.fork_rng(devices=[]):  # peft draws first factors from the global generator; they are drawn again
        inject_adapter_in_model(config, network, adapter_name=_ADAPTER)
    for name, parameter in network.named_parameters():
        if f".lora_A.{_ADAPTER}." in name:
            drawn = nn.init.kaiming_uniform_(torch.empty(parameter.shape), a=math.sqrt(5), generator=generator)
            parameter.data.copy_(drawn)  # the same numbers on every device


def _plain(name: str) -> str:
    """The base's own name of a tensor that peft has wrapped."""
    return name.replace(".base_layer.", ".")
