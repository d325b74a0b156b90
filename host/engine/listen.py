"""The bare estimates of a MODEL's branches, as they are evaluated in a run: for trainings that need them apart."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import comfy.sample
import comfy.samplers
import torch
from comfy.model_patcher import ModelPatcher

from ...guidance.branch import NEGATIVE, POSITIVE, Branch
from ...guidance.noise_level import NoiseLevel
from ...guidance.rule import GuideTerm
from ...guidance.schedule import ALWAYS, Schedule
from ...guidance.step import Step
from ..common.noise_levels import sigma_of
from .install import with_autoguidance, with_rule


@dataclass(frozen=True, eq=False)
class Listener(GuideTerm):
    """Keeps the estimates of an evaluation, and moves nothing."""

    name, paper, off = "listener", "", {}
    uses = frozenset({POSITIVE, NEGATIVE})

    heard: list[Mapping[Branch, torch.Tensor]]
    guide: str = ""  # the weaker network among the branches, if there is one
    reuse: int = 1
    schedule: Schedule = field(default=ALWAYS)

    def needs(self, turn: int, kept: bool) -> frozenset[Branch]:
        return self.uses | {self.branch} if self.guide else self.uses

    def strength(self, level: NoiseLevel) -> torch.Tensor:
        return torch.ones_like(level.b)

    def displacement(self, step: Step, state: Any) -> tuple[torch.Tensor, Any]:
        self.heard.append(dict(step.branches))
        return torch.zeros_like(step.x), None


class BranchEvaluator:
    """Evaluates both prompts of a MODEL, and a weaker network, at any noisy inputs, by the host's own run.

    Attributes:
        guide: the branch of the weaker network; None without one.

    Raises:
        ValueError: a pair of networks that cannot be, in words.
    """

    def __init__(
        self, model: ModelPatcher, guide_model: ModelPatcher | None = None, guide_positive: list | None = None
    ) -> None:
        self._heard: list[Mapping[Branch, torch.Tensor]] = []
        listener = Listener(self._heard)
        if guide_model is None:
            self._model = with_rule(model, listener)
        else:
            self._model = with_autoguidance(model, guide_model, replace(listener, guide="guide"), guide_positive)
        self._sampling: Any = model.get_model_object("model_sampling")
        self.guide = Branch("guide 1") if guide_model is not None else None

    def __call__(
        self, x: torch.Tensor, level: NoiseLevel, positive: list, negative: list
    ) -> dict[Branch, torch.Tensor]:
        """The denoised estimates [N, ...] of x [N, ...] at its levels [N], on the device of x."""
        sigma = sigma_of(self._sampling, level).float()

        def once(model, noise, sigmas, extra_args, **others):
            model(x.to(noise), sigma.to(noise.device), **extra_args)
            return torch.zeros_like(noise)

        self._heard.clear()
        around = torch.stack([self._sampling.sigma_max, self._sampling.sigma_min]).float().cpu()
        with torch.inference_mode():
            nothing = torch.zeros(x.shape)
            comfy.sample.sample_custom(
                self._model, nothing, 1.0, comfy.samplers.KSAMPLER(once), around, positive, negative, nothing,
                disable_pbar=True, seed=0,
            )
        return {branch: found.to(x.device, copy=True) for branch, found in self._heard[-1].items()}
