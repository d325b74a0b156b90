"""Gradient guidance of the embedded denoiser without a host: networks in memory, as `sampling.heun` calls them."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

import torch
from sampling import Denoiser
from torch import Tensor, nn

from guidance_pack.guidance.branch import Branch
from guidance_pack.guidance.checkpoints.guide_source import GuideSource
from guidance_pack.guidance.compose import Guidance
from guidance_pack.guidance.experts.bank import ExpertBank
from guidance_pack.guidance.guide import Guide
from guidance_pack.guidance.guides.tiny import TinyFile
from guidance_pack.guidance.noise_level import NoiseLevel
from guidance_pack.guidance.objective import Objective
from guidance_pack.guidance.rules.gradient import GradientGuidance


@dataclass(frozen=True)
class MemoryGradientContext:
    """A `guidance.objective.GradientContext` of a network that is in memory and of a denoiser of pixels.

    Attributes:
        held: the network of all members of the objective's guide; a bank of them lends the one that is asked for.
        wanted: what the loss compares with, [B, ...].
        main: the denoised estimate of x at the noise level of this step.
    """

    held: nn.Module
    wanted: Tensor
    main: Callable[[Tensor], Tensor]

    def scope(self, objective: Objective) -> AbstractContextManager:
        return torch.enable_grad()

    def target(self, objective: Objective) -> Tensor:
        return self.wanted

    def picture(self, denoised: Tensor, objective: Objective) -> Tensor:
        return denoised

    def denoise(self, x: Tensor) -> Tensor:
        return self.main(x)

    def network(self, objective: Objective, member: int) -> nn.Module:
        return self.held.use(member) if isinstance(self.held, ExpertBank) else self.held


class Steered:
    """The unconditional denoiser with one gradient rule, as `sampling.heun` calls it; y chooses each sample's target.

    Args:
        main: function of (x, sigma, y), of an EDM network.
        rule: with an objective that has a guide.
        network: of the guide; an `ExpertBank` where several experts take turns.
        targets: [K, ...]; a sample with y = k is to become like targets[k].
        null: the index of the null class.
    """

    def __init__(
        self, main: Denoiser, rule: GradientGuidance, network: nn.Module, targets: Tensor, null: int
    ) -> None:
        self.main, self.network, self.targets, self.null = main, network, targets, null
        self.guidance = Guidance((rule,))

    def __call__(self, x: Tensor, sigma: float, y: Tensor) -> Tensor:
        sigmas, nothing = torch.full((len(x),), sigma), torch.full_like(y, self.null)

        def denoise(noisy: Tensor) -> Tensor:
            return self.main(noisy, sigmas, nothing)

        def evaluate(branch: Branch) -> Tensor:
            return denoise(x)

        context = MemoryGradientContext(self.network, self.targets[y], denoise)
        return self.guidance.denoise(evaluate, x, NoiseLevel.variance_exploding(sigmas), gradient_context=context)


def load_guide(path: Path) -> tuple[nn.Module, Guide]:
    """One of the embedded guides: its network, and what it says of itself."""
    network, spec = TinyFile().load(GuideSource(path))
    return network, Guide((spec,))
