"""Every component of ours as its node makes it, switched on and switched off."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import host_models
import steering
import torch

WITH_NEGATIVE = frozenset({"cfg", "dual", "perp neg", "dual model"})
EVERYWHERE = WITH_NEGATIVE | {"basic"}
PERTURBATIONS = {  # of Degraded Model: strength
    "identity attention": 1.0, "blurred attention": 1.0, "pooled attention": 1.0, "skipped layers": 1.0,
    "random blocks": 0.5, "dropout": 0.2, "input noise": 0.3, "shuffled tokens": 1.0,
}  # fmt: skip


@dataclass(frozen=True)
class Models:
    """What components take: two networks of a family, and its prompts."""

    spec: host_models.HostModel
    main: Any
    guide: Any
    picture: torch.Tensor  # [1, H, W, 3] of the size that the family's latents become


@dataclass(frozen=True)
class Component:
    """One component, or one choice of it.

    Attributes:
        on: the MODEL with it.
        off: the MODEL with it at weight 1 or scale 0, which must be the plain one bit for bit.
        acts: the guiders under which it changes the picture, where it is not refused.
        masked: tried while the host inpaints a half of the latent.
    """

    on: Callable[[Models], Any]
    off: Callable[[Models], Any]
    acts: frozenset[str] = EVERYWHERE
    masked: bool = False


def use(node_id: str, **given):
    """The first output of a node, its widgets at their defaults unless given."""
    from guidance_pack.nodes import NODES

    node = next(node for node in NODES if node.GET_SCHEMA().node_id == node_id)
    widgets = {}
    for item in node.GET_SCHEMA().inputs:
        options, default = getattr(item, "options", None) or [None], getattr(item, "default", None)
        chosen = options[0] if default is None else default
        if chosen is not None:
            widgets[item.id] = chosen
    with torch.inference_mode():  # as execution.py runs every node
        made = node.execute(**{**widgets, **given}).result
    assert made, f"{node_id} gives nothing"
    return made[0]


def classifier():
    return steering.loaded(3)


def experts():
    guides = {"guide0": steering.loaded(3), "guide1": steering.loaded(4)}
    return use("GuidanceExpertSwitch", guides=guides)


def pair(make: Callable[..., Any], on: dict, off: dict, acts: frozenset[str] = EVERYWHERE) -> Component:
    """A component from a function of Models and settings, and its settings switched on and off."""
    return Component(functools.partial(make, **on), functools.partial(make, **off), acts)


def alone(node_id: str) -> Callable[..., Any]:
    """A node that takes a MODEL and settings."""
    return lambda models, **settings: use(node_id, model=models.main, **settings)


def classified(models: Models, scale: float, guide: Callable[[], Any] = classifier, **more):
    chosen = {"label": "dog", "decoder": "linear rgb", "at": "denoised", **more}
    return use("GuidanceClassifier", model=models.main, guide=guide(), scale=scale, **chosen)


def compared(models: Models, scale: float, **more):
    chosen = {"loss": "mse", "decoder": "linear rgb", "at": "denoised", "target": models.picture, **more}
    return use("GuidanceLoss", model=models.main, scale=scale, **chosen)


def steered(models: Models, weight: float, **more):
    return use("GuidanceAutoguidance", **{"model": models.main, "guide_model": models.guide, "weight": weight, **more})


def followed(models: Models, max_weight: float):
    given = {"model": models.main, "guide_model": models.guide, "method": "feedback", "max_weight": max_weight}
    return use("GuidanceAdaptiveWeight", **given)


def learned(models: Models):
    """Learned Weight with a network of its own."""
    import cases

    from guidance_pack.guidance.learned import LearnedWeights

    weights = LearnedWeights(cfg={"width": 8}).requires_grad_(False)
    weights.cfg = cases.trained_weights()
    return use("GuidanceLearnedWeight", model=models.main, weights=weights)


def unlearned(models: Models):
    """Its rule alone, of which nothing is used: the node leaves CFG at a constant."""
    from guidance_pack.guidance.rules.learned_weight import LearnedWeight
    from guidance_pack.host.engine.install import with_rule

    return with_rule(models.main, LearnedWeight(0.0))


def by_rule(models: Models, weight: float):
    """Autoguidance in the engine whatever its weight: the node leaves it out at weight 1."""
    from guidance_pack.guidance.rules.autoguidance import Autoguidance
    from guidance_pack.host.engine.install import with_autoguidance

    return with_autoguidance(models.main, models.guide, Autoguidance(weight))


def prompted(models: Models, weight: float):
    return steered(models, weight, guide_positive=models.spec.conditioning(5))


def kept_away(models: Models, weight: float):
    return use(
        "GuidanceNegativeAttention", model=models.main, weight=weight, negative=models.spec.conditioning(5)
    )


def scheduled(models: Models, weight: float):
    ramp = use("GuidanceSchedule", shape="linear", start_strength=0.2, end_strength=1.0)
    return steered(models, weight, schedule=ramp)


def mixed(models: Models, total: float):
    return use("GuidanceMix", model=models.main, guide_model=models.guide, total=total)


def weakened(models: Models, kind: str, strength: float, weight: float):
    weak = use("GuidanceDegrade", model=models.main, kind=kind, strength=strength)
    return steered(models, weight, guide_model=weak)


def chained(models: Models, weight: float, start: float, phi: float):
    """Autoguidance, CFG Combine, Guidance Rescale and Inspect."""
    out = use("GuidanceCFG", model=steered(models, weight), weight_from="sampler", start=start)
    return use("GuidanceInspect", model=use("GuidanceRescale", model=out, phi=phi))


def shaped(models: Models, rules: dict[str, dict], amount: float, **more):
    """Several Shape CFG nodes, each a rule with its own numbers."""
    out = models.main
    for rule, own in rules.items():
        out = use("GuidanceShape", model=out, rule={"rule": rule, **own}, amount=amount, **more)
    return out


def on_half(make: Callable[..., Any]) -> Callable[..., Any]:
    """The component with a mask over the left half of the picture."""
    def made(models: Models, **settings):
        mask = torch.zeros(models.picture.shape[:3])
        mask[..., : mask.shape[-1] // 2] = 1.0
        return make(models, mask=mask, **settings)

    return made


WHOLE = {"strength": 0.0, "weight": 1.0}
ON, OFF = {"scale": 2.0}, {"scale": 0.0}
NOISY = {**ON, "at": "noisy input", "guide": functools.partial(steering.loaded, 3, sees="timestep")}
THROUGH = {**ON, "at": "through denoiser"}
APG, NO_APG = (
    {"eta": eta, "norm_threshold": most, "momentum": share} for eta, most, share in ((0.0, 2.0, -0.5), (1.0, 0.0, 0.0))
)
MIMIC = {"mimic": 2.0, "quantile": 0.99}
SHAPES = {
    "shape push": (WITH_NEGATIVE, {"CFG-Zero*": {"zero_steps": 0}, "TCFG": {}, "skimmed CFG": {"skim": 2.0}}),
    "shape places": (WITH_NEGATIVE, {"FDG": {"low": 0.3, "high": 1.2}, "dynamic thresholding": MIMIC}),
    "shape estimate": (EVERYWHERE, {"momentum guidance": {"push": 0.5, "memory": 0.6}, "TAG": {"eta": 1.2}}),
    "shape weight": (WITH_NEGATIVE, {"CFG++": {"share": 0.6}}),
}
COMPONENTS: dict[str, Component] = {
    "cfg": pair(alone("GuidanceCFG"), {"weight_from": "node", "weight": 6.0}, {"weight_from": "sampler"}),
    "cfg interval": pair(alone("GuidanceCFG"), {"weight_from": "sampler", "start": 0.4, "end": 0.8},
                         {"weight_from": "sampler"}, WITH_NEGATIVE),
    "rescale": pair(alone("GuidanceRescale"), {"phi": 0.7}, {"phi": 0.0}, WITH_NEGATIVE),
    "apg": pair(alone("GuidanceAPG"), APG, NO_APG, WITH_NEGATIVE),
    **{
        name: pair(functools.partial(shaped, rules=rules), {"amount": 1.0}, {"amount": 0.0}, guiders)
        for name, (guiders, rules) in SHAPES.items()
    },
    "cfg mask": Component(
        functools.partial(on_half(alone("GuidanceCFG")), weight_from="node", weight=6.0),
        functools.partial(alone("GuidanceCFG"), weight_from="sampler"),
    ),
    "autoguidance mask": Component(
        functools.partial(on_half(steered), weight=2.0), functools.partial(by_rule, weight=1.0)
    ),
    "shape mask": pair(on_half(functools.partial(shaped, rules={"skimmed CFG": {"skim": 2.0}})), {"amount": 1.0},
                       {"amount": 0.0}, WITH_NEGATIVE),
    "negative attention": pair(kept_away, {"weight": 5.0}, {"weight": 1.0}),
    "clamp": pair(alone("GuidanceClamp"), {"limit": 0.5}, {"limit": 0.0}),
    "autoguidance": Component(functools.partial(steered, weight=2.0), functools.partial(by_rule, weight=1.0)),
    "autoguidance reuse": pair(steered, {"weight": 2.0, "reuse": 2}, {"weight": 1.0, "reuse": 2}),
    "autoguidance prompt": pair(prompted, {"weight": 2.0}, {"weight": 1.0}),
    "autoguidance schedule": pair(scheduled, {"weight": 2.0}, {"weight": 1.0}),
    "adaptive stop": pair(
        alone("GuidanceAdaptiveWeight"), {"similarity": 0.5}, {"similarity": 1.0}, frozenset()
    ),
    "feedback": pair(alone("GuidanceAdaptiveWeight"), {"method": "feedback"}, {"similarity": 1.0}, WITH_NEGATIVE),
    "feedback guide": pair(followed, {"max_weight": 10.0}, {"max_weight": 1.0}),
    "inpaint": Component(
        functools.partial(steered, weight=2.0), functools.partial(by_rule, weight=1.0), masked=True
    ),
    "learned weight": Component(learned, unlearned, WITH_NEGATIVE),
    "mix": Component(functools.partial(mixed, total=3.0), functools.partial(by_rule, weight=1.0)),
    "classifier": pair(classified, ON, OFF),
    "classifier noisy": pair(classified, NOISY, OFF),
    "classifier through": pair(classified, THROUGH, OFF),
    "experts": pair(classified, {**ON, "guide": experts}, OFF),
    "loss": pair(compared, ON, OFF),
    "loss through": pair(compared, THROUGH, OFF),
    **{
        kind: pair(functools.partial(weakened, kind=kind), {"strength": strength, "weight": 2.0}, WHOLE)
        for kind, strength in PERTURBATIONS.items()
    },
    "inspect": pair(alone("GuidanceInspect"), {}, {}, frozenset()),
    "loss weighting": pair(alone("GuidanceLossWeighting"), {}, {}, frozenset()),
    "chain": pair(chained, {"weight": 2.0, "start": 0.2, "phi": 0.5}, {"weight": 1.0, "start": 0.0, "phi": 0.0}),
}  # fmt: skip
