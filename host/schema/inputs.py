"""From a rule's fields to the inputs of its node: a name, its words and its range are written once, in the rule."""

from __future__ import annotations

from dataclasses import Field, fields
from typing import Any

import torch
from comfy_api.latest import io

from ...guidance.region import Region
from ...guidance.rule import Rule
from ...guidance.rules.gradient import GradientGuidance
from ...guidance.schedule import Interval, Schedule, Unit
from ..common.decoders import DECODERS
from ..common.errors import quoted
from ..engine.plan import schedule_within
from ..engine.steer import PLACES
from .validation import Node, validation

ScheduleSocket = io.Custom("GUIDANCE_SCHEDULE")
GuideSocket = io.Custom("GUIDE")
PicturesSocket = io.Custom("GUIDANCE_PICTURES")
WeightsSocket = io.Custom("GUIDANCE_WEIGHTS")
UNITS = ["percent", "sigma"]
LARGEST_SIGMA = 100_000.0
USUAL_SCALE = 1000.0  # of a gradient, with room for losses whose gradients are small
SCORE_SHIFT, MEAN_SHIFT = "score shift", "mean shift"


def inputs_of(rule: type[Any]) -> list[io.Input]:
    """One number input per `param` of a rule, or of another dataclass, in its order."""
    return [_number(f, getattr(rule, f.name)) for f in fields(rule) if "min" in f.metadata]


def _number(f: Field, default: float) -> io.Input:
    told = {key: f.metadata[key] for key in ("min", "max", "step", "advanced")}
    if isinstance(default, int):
        return io.Int.Input(f.name, default=default, tooltip=f.metadata["doc"], **told)
    return io.Float.Input(f.name, default=default, round=0.001, tooltip=f.metadata["doc"], **told)


def words_of(rule: type[Rule], name: str) -> str:
    """What the rule says of one of its fields."""
    return next(f.metadata["doc"] for f in fields(rule) if f.name == name)


def gradient_inputs() -> list[io.Input]:
    """Where a gradient is taken and how it is used; the same for every node that steers by a guide."""
    return [
        *inputs_of(GradientGuidance),
        io.Combo.Input(
            "at", options=PLACES,
            tooltip="Which picture the guide looks at. noisy input: the noisy picture itself, for noise-aware guides "
            "(ADM, PPAP); cheapest. denoised: the model's estimate of the clean picture, held fixed; one backward "
            "through the guide (and the decoder). through denoiser: the same estimate, with the gradient through the "
            "model as well; two to three times the cost of a step, and its memory. auto: noisy input for noise-aware "
            "guides of models that work on pictures, else denoised.",
        ),
        io.Combo.Input(
            "decoder", options=DECODERS,
            tooltip="How a guide sees the pictures of a latent model. vae: through the connected VAE (a tiny one such "
            "as taesd is far cheaper). linear rgb: ComfyUI's preview colours at latent size, nearly free and coarse. "
            "Not used by models that work on pictures, or at = noisy input.",
        ),
        io.Boolean.Input(
            "normalise", default=False, advanced=True, tooltip=words_of(GradientGuidance, "normalise")
        ),
        io.Combo.Input(
            "form", options=[SCORE_SHIFT, MEAN_SHIFT], advanced=True,
            tooltip="score shift: what all samplers need. mean shift: weaker by the exact factor of ADM's DDPM "
            "sampler; use it with ancestral or DDPM samplers to repeat the papers' 250-step scales.",
        ),
        io.Vae.Input(
            "vae", optional=True, lazy=True, tooltip="Decodes the latents for the guide. Any VAE that fits the model."
        ),
    ]


def scale_remark(scale: float, cap: float) -> str | None:
    """What is worth a word about the strength of a gradient though it is allowed."""
    if abs(scale) <= USUAL_SCALE or cap:
        return None
    return f"scale is {scale:g}; papers use 0.5 to 10. Too strong a push leaves no picture: lower it, or set cap."


def interval_inputs() -> list[io.Input]:
    """Where a component acts: unit, noisy start, clean end, and a SCHEDULE socket."""
    return [
        io.Combo.Input(
            "unit", options=UNITS,
            tooltip="What start and end are: percent of the model's training timesteps (0 = pure noise, 1 = clean) or "
            "the model's own sigma (large = noisy).",
        ),
        io.Float.Input(
            "start", default=0.0, min=0.0, max=LARGEST_SIGMA, step=0.01, round=0.0001,
            tooltip="Noisy end of the interval, included. In percent 0 is the beginning; in sigma it is the larger "
            "number.",
        ),
        io.Float.Input(
            "end", default=1.0, min=0.0, max=LARGEST_SIGMA, step=0.01, round=0.0001,
            tooltip="Clean end of the interval, not included. In percent 1 is the end; in sigma it is the smaller "
            "number. Outside the interval the component is off and costs nothing.",
        ),
        ScheduleSocket.Input(
            "schedule", optional=True, tooltip="How strong the component is over noise (Guidance Schedule node)."
        ),
    ]


def mask_input() -> io.Input:
    """Where in the picture a component acts."""
    return io.Mask.Input(
        "mask", optional=True,
        tooltip="Where in the picture it acts: white = as set, black = off (weight 1, not the negative prompt), grey "
        "between. Any size; for a video one mask or one per frame.",
    )


def region_of(mask: torch.Tensor | None) -> Region | None:
    """The region of a node's mask, [N, H, W] or [H, W]."""
    return None if mask is None else Region(mask.reshape(-1, *mask.shape[-2:]))


def schedule_of(unit: Unit, start: float, end: float, schedule: Schedule | None) -> Schedule:
    """The schedule that a node's interval inputs describe."""
    return schedule_within(schedule, Interval(start, end, unit))


def interval_problem(unit: str | None, start: float | None, end: float | None) -> str | None:
    """What is wrong with interval widgets, in words; None if nothing is, or if a value is linked and not known yet.

    start and end: numbers inside their widgets' range.
    """
    if unit is not None and unit not in UNITS:
        return f"unit is {quoted(unit)}; it can be {' or '.join(UNITS)}."
    if unit is None or start is None or end is None:
        return None
    if unit == "percent" and not start <= end <= 1.0:
        way = "Swap them" if end < start <= 1.0 else "For numbers above 1 choose unit = sigma"
        return (
            f"In percent the interval goes from start to end, both 0 (pure noise) to 1 (clean), but start is {start:g} "
            f"and end is {end:g}. {way}."
        )
    if unit == "sigma" and start < end:
        return (
            f"In sigma the noisy start must be the larger number, but start is {start:g} and end is {end:g}. "
            f"Swap them, or choose unit = percent."
        )
    return None


def interval_validation(node: Node) -> Node:
    """The class decorator of every node with `interval_inputs`."""
    return validation(interval_problem, "unit", "start", "end")(node)
