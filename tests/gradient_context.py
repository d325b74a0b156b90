"""A gradient context without a host: networks, decoder and denoiser are plain functions; it lists what was asked."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field

import torch
from torch import Tensor

from guidance_pack.guidance.guide import Network
from guidance_pack.guidance.objective import Objective


def as_it_is(denoised: Tensor) -> Tensor:
    return denoised


@dataclass(eq=False)
class Lent:
    """Lends what it is made of. `asked` lists (member, pictures) for every evaluation of a network, in order."""

    networks: Sequence[Network] = ()
    wanted: Tensor | None = None
    denoiser: Callable[[Tensor], Tensor] | None = None
    decoder: Callable[[Tensor], Tensor] = as_it_is
    asked: list[tuple[int, int]] = field(default_factory=list)

    def scope(self, objective: Objective) -> AbstractContextManager:
        return torch.enable_grad()

    def target(self, objective: Objective) -> Tensor | None:
        return self.wanted

    def picture(self, denoised: Tensor, objective: Objective) -> Tensor:
        return self.decoder(denoised)

    def denoise(self, x: Tensor) -> Tensor:
        assert self.denoiser is not None, "this scene has no denoiser"
        return self.denoiser(x)

    def network(self, objective: Objective, member: int) -> Network:
        def counted(picture: Tensor, timestep: Tensor | None) -> Tensor:
            self.asked.append((member, len(picture)))
            return self.networks[member](picture, timestep)

        return counted
