"""One sampling run: opened before the host samples, closed in `finally`. All state of a run lives here."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from math import nan
from typing import Any

import comfy.model_management
import comfy.sampler_helpers
import torch
from comfy.samplers import CFGGuider

from ...guidance.asked import Asked
from ...guidance.compose import Acting, Guidance, Memory
from ...guidance.feedback import FeedbackRule
from ...guidance.inspection import Watch
from ...guidance.noise_level import NoiseLevel
from ...guidance.sigma_list import SigmaList
from ..common.compatibility import check_pair
from ..common.keys import KEY
from ..common.noise_levels import PICTURE_TO_PICTURE, ModelPositions, convertible, level_of
from ..common.uncopied import Uncopied
from ..lora import sharing
from ..recording.inspection import inspections_of
from ..recording.recorder import Recorder
from .gradients import Gradients, gradients_of
from .guide_model import GuideModel
from .guider_checks import SkippedSteps, check_guider
from .guider_weights import numbers, stated_weights
from .negative import check_negative
from .plan import check_combines, guides_of, plan_of
from .prompts import asked_of_run


@dataclass
class Run(Uncopied):
    """The engine's state for one run of one guider."""

    guidance: Guidance
    model_sampling: Any
    sigmas: SigmaList  # the sampler's noise levels
    guides: dict[str, GuideModel]
    latent_shapes: list | None
    own_conds: dict[str, list[dict]]  # conditioning that only guides use, for the host to load what it needs
    host_weights: tuple[Any, ...]  # what the guider combined with before the run
    gradients: Gradients | None = None
    asked: Asked | None = None  # what pictures are asked to be, where a rule reads it
    memory: Memory = field(default_factory=Memory)
    recorder: Recorder | None = None  # of an inspected MODEL
    watch: Watch | None = None  # on the evaluation that is going on, if it is recorded
    skipped: SkippedSteps = field(init=False)

    def level(self, sigma: torch.Tensor) -> NoiseLevel:
        """The noise level of the model's own sigma [B], on the CPU."""
        return level_of(self.model_sampling, sigma)

    def move_to(self, sigma: torch.Tensor) -> NoiseLevel:
        """An evaluation at sigma [B], on the CPU, begins: the run goes to its position. Its noise level, there too."""
        here = float(sigma[0])
        position = self.sigmas.position(here, self.memory.position)
        self.memory.move_to(position, between=not self.sigmas.is_at(here, position))
        return self.level(sigma)

    @property
    def acts(self) -> bool:
        """Whether a component does anything at some noise level of the run."""
        levels, own = self._levels, [number for weight in self.host_weights for number in numbers(weight)]
        return (
            self.recorder is not None
            or bool(self.may_act)
            or any(bool((self.guidance.cfg(levels, number) != number).any()) for number in own)
        )

    @cached_property
    def may_act(self) -> tuple[Acting, ...]:
        """The rules beside CFG that do something at some noise level of the run, whatever the weight of CFG."""
        return self.guidance.acting(self._levels, torch.full_like(self._levels.b, nan), Memory())

    @property
    def _levels(self) -> NoiseLevel:
        return self.level(torch.tensor(self.sigmas.values, dtype=torch.float64))

    @property
    def position(self) -> int:
        """Of the evaluation that is going on, in the sampler's list of noise levels; 1 = the first."""
        return self.memory.position

    def following(self, level: NoiseLevel) -> NoiseLevel | None:
        """The sampler's next noise level, for every sample of `level`; None at the last."""
        sigma = self.sigmas.following(self.position)
        return None if sigma is None else self.level(torch.full_like(level.b, sigma))

    @contextmanager
    def watching(self, sigma: torch.Tensor, device: torch.device):
        """While inside, the run has a watch; what it saw is written down. Nothing without a recorder.

        sigma: of the evaluation, [B], on the CPU. device: on which it is computed.
        """
        if self.recorder is None:
            yield
            return
        meter = self.recorder.begin(device)
        self.watch = watch = Watch()
        try:
            yield
            self.recorder.end(sigma.flatten().tolist(), meter, watch)
        finally:
            self.watch = None


def open_run(guider: CFGGuider, sigmas: torch.Tensor, latent_shapes: list | None) -> Run | None:
    """Check what can only be checked now, and open the run. None if the MODEL carries no component."""
    model = guider.model_patcher
    plan = plan_of(model)
    inspections = inspections_of(model)
    if not plan.guidance.rules and (not inspections or comfy.model_management.in_training):
        return None
    if comfy.model_management.in_training:
        raise ValueError(
            "This MODEL carries guidance components, so it would be trained to make their guided estimate right, not "
            "its own. Connect the MODEL as it was before them to Train LoRA."
        )
    model_sampling = model.get_model_object("model_sampling")
    positions = ModelPositions(model_sampling)
    check_combines(plan.guidance.combines, positions)
    check_guider(guider, plan.guidance)
    check_negative(guider, plan)
    patchers = guides_of(model)
    for planned, patcher in patchers.items():
        sharing.follow_reading(model, patcher, planned.alike)
        check_pair(model, patcher)
    others = [o for o in (getattr(guider, "uncond_model_patcher", None),) if o is not None]
    over = sharing.check_at_run(model, {guide.name: patcher for guide, patcher in patchers.items()}, others)
    own = {g.key: comfy.sampler_helpers.convert_cond(g.positive) for g in patchers if g.positive is not None}
    raw = {g.name: {"positive": own[g.key]} if g.key in own else guider.original_conds for g in patchers}
    guides = {g.name: GuideModel(g.name, patcher, raw[g.name], over.get(g.name)) for g, patcher in patchers.items()}
    levels = SigmaList.of(sigmas.tolist())
    guidance = plan.guidance.resolve(positions).over(level_of(model_sampling, sigmas.cpu()))
    gradients = gradients_of(model)
    check_input(guidance, gradients, model_sampling, latent_shapes)
    run = Run(guidance, model_sampling, levels, guides, latent_shapes, own, stated_weights(guider), gradients)
    run.asked = asked_of_run(guidance, guider.original_conds.get("positive", ()))
    check_sight(run)
    run.recorder = Recorder(model, run, inspections) if inspections else None
    run.skipped = SkippedSteps(guider, run.acts)
    options: dict[str, Any] = guider.model_options
    options[KEY] = run
    return run


def run_of(guider: CFGGuider) -> Run | None:
    """The open run of a guider."""
    options: dict[str, Any] = guider.model_options
    return options.get(KEY)


def check_input(
    guidance: Guidance, gradients: Gradients | None, model_sampling: Any, shapes: list | None
) -> None:
    """Raise ValueError where the model's x is not what a rule takes it for: a picture with noise."""
    check_gradients(gradients, model_sampling, shapes)
    if any(isinstance(rule, FeedbackRule) for rule in guidance.rules) and not convertible(model_sampling):
        raise ValueError(
            "Adaptive Weight with method = feedback judges a run by the noise in it, and this model's input is not a "
            "picture with noise. Choose method = stop when alike, or remove the node."
        )


def check_gradients(gradients: Gradients | None, model_sampling: Any, shapes: list | None) -> None:
    """Raise ValueError where a gradient has no meaning: the latents are a pack of several, such as a video with its
    sound, or x is a picture that the model turns into another, with no noise to weigh the gradient by."""
    if gradients is None:
        return
    if isinstance(model_sampling, PICTURE_TO_PICTURE):
        raise ValueError(
            "This model turns one picture into another instead of removing noise, and a gradient is weighed by the "
            "noise. Sample it without Classifier Guidance and Loss Guidance."
        )
    if shapes is not None and len(shapes) > 1:
        raise ValueError(
            "This model makes several things at once (such as a video and its sound), which a guide that looks at "
            "pictures cannot take apart. Use a model that makes pictures or video alone."
        )


def check_sight(run: Run) -> None:
    """Raise ValueError where a rule must see channels or places, and the latents are a pack of several in one row."""
    sighted = next((one.rule.title for one in run.may_act if one.rule.sees != "sample"), None)
    if sighted is not None and run.latent_shapes is not None and len(run.latent_shapes) > 1:
        raise ValueError(
            f"This model makes several things at once (such as a video and its sound), which lie in one row, so "
            f"{sighted} finds no channels and places in it. Choose a rule that needs none, such as CFG-Zero* or "
            f"RenormCFG."
        )


def check_regions(run: Run, shape: tuple[int, ...]) -> None:
    """Raise ValueError where a rule is held to a part of the picture that the latents [B, C, ...] have not."""
    packed = run.latent_shapes is not None and len(run.latent_shapes) > 1
    row = "several latents (such as a video and its sound) lie in one row" if packed else None
    for rule, region in ((rule, rule.region) for rule in run.guidance.rules):
        problem = None if region is None else row or region.problem(shape)
        if problem is not None:
            raise ValueError(f"{rule.title} has a mask that cannot be used: {problem}. Disconnect the mask.")
