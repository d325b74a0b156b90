"""A copy of a clean network that becomes one expert: its adapter is trained, the rest stays as it was."""

from __future__ import annotations

import copy
import math
import re
from collections.abc import Generator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from ..experts.bank import Adapter, LowRank
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
        self._factors = {layer: (_factor(layer, "A"), _factor(layer, "B")) for layer in layers}
        factors = {name for pair in self._factors.values() for name in pair}
        # peft puts itself between a layer and its weights; the base's own names may look like peft's.
        plain = {f"{layer}.base_layer.{kind}": f"{layer}.{kind}" for layer in layers for kind in ("weight", "bias")}
        self.trained: dict[str, nn.Parameter] = {}
        self._whole: dict[str, str] = {}  # the base's name of what is trained as it is, by the student's
        for name, parameter in self.network.named_parameters():
            if name in factors or plain.get(name, name) in parameters:
                parameter.requires_grad_()
                self.trained[name] = parameter
            if name not in factors and name in self.trained:
                self._whole[name] = plain.get(name, name)
        self._whole |= {name: name for name in self._buffers}
        for module in self.network.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                module.train()

    def adapter(self) -> Adapter:
        """What it has of its own by now: copies, on the CPU."""
        mine = {name: tensor.detach().cpu().clone() for name, tensor in self.tensors().items()}
        low_rank = {
            f"{layer}.weight": LowRank(mine[down], mine[up], self.adaptation.scale)
            for layer, (down, up) in self._factors.items()
        }
        return Adapter(low_rank, {plain: mine[name] for name, plain in self._whole.items()})

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
    for layer in layers:
        parameter = network.get_parameter(_factor(layer, "A"))
        drawn = nn.init.kaiming_uniform_(torch.empty(parameter.shape), a=math.sqrt(5), generator=generator)
        parameter.data.copy_(drawn)  # the same numbers on every device


def _factor(layer: str, which: str) -> str:
    """The name of a layer's factor as peft gives it: A is down, B is up."""
    return f"{layer}.lora_{which}.{_ADAPTER}.weight"
