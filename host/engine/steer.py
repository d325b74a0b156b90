"""Adding a gradient to a MODEL: which picture the guide looks at, whether it can, and who owns the networks."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

import comfy.sd
from comfy.model_patcher import ModelPatcher

from ...guidance.cutouts import Cutouts
from ...guidance.guide import Guide
from ...guidance.loss import Loss, losses
from ...guidance.losses.cross_entropy import CrossEntropy
from ...guidance.objective import At, Objective
from ...guidance.rules.gradient import GradientGuidance
from ..common.autograd import check_weights, resident
from ..common.compatibility import describe
from ..common.decoders import PIXELS, VAE, Decoder, decoder_for, is_pixels, latents_of
from ..common.keys import KEY
from ..models.guides import LoadedGuide
from .gradients import SMALLER, THROUGH
from .install import with_plan
from .plan import GradientRequest, plan_of
from .targets import Target, class_target, picture_target

Place = At | Literal["auto"]
AUTO = "auto"
PLACES = [AUTO, "noisy input", "denoised", THROUGH]


def with_gradient(
    model: ModelPatcher, rule: GradientGuidance, loss: Loss, target: Target, *,
    guide: LoadedGuide | None = None, at: Place = AUTO, decoder: str = VAE, vae: comfy.sd.VAE | None = None,
    cutouts: Cutouts | None = None, seed: int = 0, words: str = "",
) -> ModelPatcher:
    """A clone of the MODEL that is steered by the gradient of a loss. The objective of `rule` is made here.

    Raises:
        ValueError: in words, whatever of this cannot work with this MODEL.
    """
    _check_task(loss, guide)
    _check_latents(model, guide, target)
    place = _place(at, model, guide)
    held = _Holder(model)
    seen = _decoder(model, place, guide, decoder, vae, held)
    if place == THROUGH:
        model = resident(model, "The model", SMALLER["model"])
        check_weights(model, "The model", SMALLER["model"])
    objective = Objective(loss, place, guide.guide if guide else None, cutouts, seed, words)
    request = GradientRequest(objective, target, seen, held.guide(guide) if guide else "", guide)
    plan = plan_of(model)
    guidance = replace(plan.guidance, rules=(*plan.guidance.rules, replace(rule, objective=objective)))
    out = with_plan(model, replace(plan, guidance=guidance, gradients=(*plan.gradients, request)))
    for key, patchers in held.added.items():
        out.set_additional_models(key, patchers)
    return out


def steer_to_class(
    model: ModelPatcher, guide: LoadedGuide, label: str, rule: GradientGuidance, *, at: Place, decoder: str,
    vae: comfy.sd.VAE | None,
) -> ModelPatcher:
    """Classifier guidance as its node describes it."""
    loss = CrossEntropy()
    if guide.guide.first.task not in loss.reads:
        raise ValueError(
            f"{guide.guide.name} gives {guide.guide.first.task}, and Classifier Guidance needs a classifier. Choose a "
            f"classifier in Load Guide, or connect this guide to Loss Guidance."
        )
    target = class_target(guide.guide, label)
    words = f"class {label.strip()} by {guide.guide.name}"
    return with_gradient(
        model, rule, loss, target, guide=guide, at=at, decoder=decoder, vae=vae, words=words
    )


def steer_to_target(
    model: ModelPatcher, name: str, guide: LoadedGuide | None, wanted: dict, rule: GradientGuidance, *, at: Place,
    decoder: str, vae: comfy.sd.VAE | None,
) -> ModelPatcher:
    """Loss guidance as its node describes it. wanted: images [K, H, W, C] or None, kind, text, cutouts, seed."""
    if name not in losses():
        raise ValueError(f"There is no loss {name!r}; there are {', '.join(losses())}.")
    loss = losses()[name]()
    _check_task(loss, guide)
    core = guide.guide if guide else None
    target = picture_target(core, loss, wanted["images"], wanted["kind"], wanted["text"])
    seed = wanted["seed"]
    cutouts = _cutouts(wanted["cutouts"], seed, core)
    words = loss.title + (f" by {core.name}" if core else "")
    return with_gradient(
        model, rule, loss, target, guide=guide, at=at, decoder=decoder, vae=vae, cutouts=cutouts,
        seed=seed, words=words,
    )


def _cutouts(count: int, seed: int, guide: Guide | None) -> Cutouts | None:
    if not count:
        return None
    if guide is None or guide.first.task != "embedding":
        raise ValueError(f"cutouts is {count}; only an embedding (CLIP, SigLIP) can judge crops. Set cutouts to 0.")
    size = guide.first.preprocessing.size
    return Cutouts(count, seed, size=size[0] if size else 224)


class _Holder:
    """Finds or makes the keys under which a MODEL holds guides and VAEs, so that one network is held once."""

    def __init__(self, model: ModelPatcher):
        self.requests = plan_of(model).gradients
        self.added: dict[str, list[ModelPatcher]] = {}

    def guide(self, guide: LoadedGuide) -> str:
        known = next((request.key for request in self.requests if request.guide is guide), None)
        return known or self._add("guide network", list(guide.patchers), "The guide", SMALLER["guide"])

    def vae(self, vae: comfy.sd.VAE) -> str:
        known = next((request.decoder.key for request in self.requests if request.decoder.source is vae), None)
        patcher = resident(vae.patcher, "The VAE", SMALLER["vae"])
        return known or self._add("vae", [patcher], "The VAE", SMALLER["vae"])

    def _add(self, kind: str, patchers: list[ModelPatcher], title: str, otherwise: str) -> str:
        for patcher in patchers:
            check_weights(patcher, title, otherwise)
        key = f"{KEY}/{kind} {len(self.requests) + 1}"
        self.added[key] = patchers
        return key


def _check_task(loss: Loss, guide: LoadedGuide | None) -> None:
    read = "picture" if guide is None else guide.guide.first.task
    if read not in loss.reads:
        wanted = " or ".join(sorted(loss.reads))
        came = "no guide is connected" if guide is None else f"{guide.guide.name} gives {read}"
        raise ValueError(
            f"The loss {loss.name!r} compares {wanted}, and {came}. "
            + ("Remove the guide" if "picture" in loss.reads else f"Connect a guide for {wanted} (Load Guide)")
            + ", or choose another loss."
        )


def _check_latents(model: ModelPatcher, guide: LoadedGuide | None, target: Target) -> None:
    """Raise ValueError for a guide that looks at other latents than this MODEL's, or that is shown a picture."""
    if guide is None or guide.guide.first.domain != "latent":
        return
    name, wanted = type(latents_of(model)).__name__, guide.guide.first.latents
    if wanted and wanted != name:
        raise ValueError(
            f"{guide.guide.name} looks at {wanted} latents, and {describe(model)} makes {name} latents. Train experts "
            f"for this model, or connect the model that they were trained for."
        )
    if target.reference is not None:
        raise ValueError(
            f"{guide.guide.name} looks at latents, so it cannot look at the reference picture. Let the clean network "
            f"make a map of it and connect that, with target_is = map."
        )


def _place(at: Place, model: ModelPatcher, guide: LoadedGuide | None) -> At:
    """Where the gradient is taken; "auto" is the papers' place where that is possible."""
    pixels = is_pixels(latents_of(model))
    looks_at_x = guide is not None and (pixels or guide.guide.first.domain == "latent")
    if at == AUTO:
        return "noisy input" if guide is not None and looks_at_x and guide.guide.sees_noise else "denoised"
    if at == "noisy input" and guide is None:
        raise ValueError("Without a guide there is no loss of a noisy picture; choose at = denoised.")
    if at == "noisy input" and not looks_at_x:
        raise ValueError(
            f"at = noisy input: the guide looks at pictures, and {describe(model)} works on latents, whose noise is no "
            f"noise of a picture. Choose at = denoised, or at = through denoiser."
        )
    return at


def _decoder(model, place, guide, kind, vae, held: _Holder) -> Decoder:
    if place == "noisy input" or (guide is not None and guide.guide.first.domain == "latent"):
        return Decoder(PIXELS)
    seen = decoder_for(model, kind, vae)
    return replace(seen, key=held.vae(vae), source=vae) if seen.kind == VAE else seen
