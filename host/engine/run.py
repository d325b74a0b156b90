"""One sampling run: opened before the host samples, closed in `finally`. All state of a run lives here."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import comfy.model_management
import comfy.sampler_helpers
import torch
from comfy.samplers import CFGGuider

from ...guidance.branch import NEGATIVE
from ...guidance.compose import Guidance, Memory
from ...guidance.inspection import Watch
from ...guidance.noise_level import NoiseLevel
from ...guidance.rule import is_one
from ...guidance.rules.cfg import CFG
from ...guidance.sigma_list import SigmaList
from ..common.compatibility import check_pair
from ..common.keys import KEY
from ..common.noise_levels import ModelPositions, level_of
from ..lora import sharing
from ..recording.inspection import inspections_of
from ..recording.recorder import Recorder
from .gradients import Gradients, gradients_of
from .guide_model import GuideModel
from .plan import check_combines, guides_of, plan_of


@dataclass
class Run:
    """The engine's state for one run of one guider."""

    guidance: Guidance
    model_sampling: Any
    sigmas: SigmaList  # the sampler's noise levels
    guides: dict[str, GuideModel]
    latent_shapes: list | None
    own_conds: dict[str, list[dict]]  # conditioning that only guides use, for the host to load what it needs
    host_weights: tuple[float, ...]  # what the guider combined with before the run
    gradients: Gradients | None = None
    memory: Memory = field(default_factory=Memory)
    recorder: Recorder | None = None  # of an inspected MODEL
    watch: Watch | None = None  # on the evaluation that is going on, if it is recorded

    def level(self, sigma: torch.Tensor) -> NoiseLevel:
        """The noise level of the model's own sigma [B], on the CPU."""
        return level_of(self.model_sampling, sigma)

    def move_to(self, sigma: torch.Tensor) -> NoiseLevel:
        """An evaluation at sigma [B] begins: the run goes to its position. Its noise level, on the CPU."""
        here = sigma.cpu()
        self.memory.move_to(self.sigmas.position(float(here[0]), self.memory.position))
        return self.level(here)

    @property
    def position(self) -> int:
        """Of the evaluation that is going on, in the sampler's list of noise levels; 1 = the first."""
        return self.memory.position

    def following(self, level: NoiseLevel) -> NoiseLevel | None:
        """The sampler's next noise level, for every sample of `level`; None at the last."""
        sigma = self.sigmas.following(self.position)
        return None if sigma is None else self.level(torch.full_like(level.b, sigma))

    @contextmanager
    def watching(self, timestep: torch.Tensor):
        """While inside, the run has a watch; what it saw is written down. Nothing without a recorder."""
        if self.recorder is None:
            yield
            return
        sigma, meter = self.recorder.begin(timestep)
        self.watch = watch = Watch()
        try:
            yield
            self.recorder.end(sigma, meter, watch)
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
    patchers = guides_of(model)
    for patcher in patchers.values():
        check_pair(model, patcher)
    others = [o for o in (getattr(guider, "uncond_model_patcher", None),) if o is not None]
    over = sharing.check_at_run(model, {guide.name: patcher for guide, patcher in patchers.items()}, others)
    own = {g.key: comfy.sampler_helpers.convert_cond(g.positive) for g in patchers if g.positive is not None}
    guides = {
        g.name: GuideModel(
            g.name, patcher, {"positive": own[g.key]} if g.key in own else guider.original_conds, over.get(g.name)
        )
        for g, patcher in patchers.items()
    }
    guidance = plan.guidance.resolve(positions)
    gradients = gradients_of(model)
    check_latents(gradients, latent_shapes)
    levels = SigmaList.of(sigmas.tolist())
    run = Run(guidance, model_sampling, levels, guides, latent_shapes, own, host_weights(guider), gradients)
    run.recorder = Recorder(model, run, inspections) if inspections else None
    options: dict[str, Any] = guider.model_options
    options[KEY] = run
    return run


def run_of(guider: CFGGuider) -> Run | None:
    """The open run of a guider."""
    options: dict[str, Any] = guider.model_options
    return options.get(KEY)


def weight_names(guider: CFGGuider) -> tuple[str, ...]:
    """Where the guider keeps the weights that it combines with: one, or the two of a dual-prompt guider."""
    return ("cfg1", "cfg2") if hasattr(guider, "cfg1") else ("cfg",)


def host_weights(guider: CFGGuider) -> tuple[float, ...]:
    """The guider's weights now."""
    return tuple(float(getattr(guider, name)) for name in weight_names(guider))


def is_plain(guider: CFGGuider) -> bool:
    """Whether the guider combines one positive and one negative branch, as KSampler and CFGGuider do."""
    return type(guider).predict_noise is CFGGuider.predict_noise and "negative" in guider.original_conds


def check_latents(gradients: Gradients | None, shapes: list | None) -> None:
    """Raise ValueError if the latents are a pack of several, such as a video with its sound."""
    if gradients is not None and shapes is not None and len(shapes) > 1:
        raise ValueError(
            "This model makes several things at once (such as a video and its sound), which a guide that looks at "
            "pictures cannot take apart. Use a model that makes pictures or video alone."
        )


def check_guider(guider: CFGGuider, guidance: Guidance) -> None:
    """Raise ValueError if the rules ask of this guider what it does not have."""
    kind = type(guider).__name__
    title = kind.removeprefix("Guider_") + "Guider" if kind.startswith("Guider_") else kind  # the name of its node
    own_weights = [rule for rule in guidance.combines if rule.weight is not None and not is_one(rule.weight)]
    if own_weights and "negative" not in guider.original_conds:
        raise ValueError(
            f"CFG Combine (or CFG + Autoguidance) needs a negative prompt, and {title} takes none. Use CFGGuider or "
            f"KSampler instead of it, or remove CFG Combine."
        )
    if own_weights and hasattr(guider, "cfg1"):
        raise ValueError(
            f"{title} mixes two prompts with two weights of its own, so CFG Combine cannot set one weight. Choose "
            f"weight_from = sampler in CFG Combine (its interval then applies to both), or use CFGGuider."
        )
    if is_plain(guider):
        return
    for rule in guidance.rules:
        if NEGATIVE in rule.uses and not isinstance(rule, CFG):
            raise ValueError(
                f"{rule.name} works on the difference between one positive and one negative prompt, and {title} "
                f"combines its prompts in another way. Use KSampler or CFGGuider, or remove this component."
            )
