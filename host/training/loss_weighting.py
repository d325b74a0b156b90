"""Loss weighting for the host's own trainer: a MODEL whose denoised estimate sends weighted gradients back.

ComfyUI's Train LoRA (comfy_extras/nodes_train.py) takes the mean, over samples and values, of a loss between the
denoised estimate and the clean picture, at noise levels uniform in percent, whatever the model predicts. Multiplying
the gradient that enters the estimate of sample i by w_i is exactly the gradient of that mean with each sample's loss
times w_i, for every option of that node: it changes neither values nor anything inside the network.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import comfy.model_management as management
import torch
from comfy.model_patcher import ModelPatcher
from comfy.patcher_extension import WrappersMP
from comfy.samplers import CFGGuider

from ...guidance.noise_level import NoiseLevel, expand
from ...guidance.training.weighting import P2, TARGETS, LevelWeight, MinSNR, Plain, normalise_weight, on
from ..common.keys import LOSS_WEIGHTING
from ..common.noise_levels import convertible, level_of
from ..report.plot import draw_curves
from ..report.report import Series

WEIGHTINGS = ["p2", "min-SNR", *TARGETS]
LEVELS = 1000  # of the trainer's distribution, for a mean
SHOWN = 200  # of them in the plot
HOST = Plain("x0")  # what Train LoRA does by itself


@dataclass(frozen=True)
class LossWeighting:
    """What a MODEL carries: the weight of the loss on the denoised, and whether its mean is kept."""

    weight: LevelWeight
    normalise: bool = True

    @property
    def matters(self) -> bool:
        """Whether it differs from what the host does by itself."""
        return self.weight != HOST

    def at(self, model_sampling) -> LevelWeight:
        """The weight for a model with these noise levels."""
        if not self.normalise:
            return self.weight
        return normalise_weight(self.weight, trained_levels(model_sampling), "v", like=HOST)


@dataclass(frozen=True, eq=False)
class _Training:
    """One training run, kept in the guider's model_options while it lasts."""

    weight: LevelWeight
    model_sampling: Any


def weight_named(name: str, k: float, gamma: float, min_snr_gamma: float) -> LevelWeight:
    """The weight that a node's inputs describe. Raises ValueError in words for what cannot be."""
    if name == "p2":
        return P2(k, gamma)
    if name == "min-SNR":
        return MinSNR(min_snr_gamma)
    if name not in TARGETS:
        raise ValueError(f"weighting is {name!r}; it can be {', '.join(WEIGHTINGS)}.")
    return Plain(name)


def with_loss_weighting(model: ModelPatcher, weighting: LossWeighting) -> ModelPatcher:
    """A clone of the MODEL that trains with this weighting. Nothing acts on it for the host's own weighting.

    Raises:
        ValueError: the MODEL has a loss weighting already, or its noisy input is not picture plus noise.
    """
    if model.get_attachment(LOSS_WEIGHTING) is not None:
        raise ValueError(
            "This MODEL has a Loss Weighting already, and it is unclear which of the two is meant. Remove one."
        )
    _check(model)
    out = model.clone()
    out.set_attachments(LOSS_WEIGHTING, weighting)
    if weighting.matters:
        # Outermost: the loss sees the estimate with whatever other packs' wrappers did to it, in any order of nodes.
        for kind, wrapper in _WRAPPERS.items():
            out.wrappers[kind] = {LOSS_WEIGHTING: [wrapper], **out.wrappers.get(kind, {})}
    return out


def trained_levels(model_sampling, count: int = LEVELS) -> NoiseLevel:
    """The noise levels that the host trains on, noisy to clean: its percents are uniform, these are their middles."""
    sigmas = [float(model_sampling.percent_to_sigma((i + 0.5) / count)) for i in range(count)]
    return level_of(model_sampling, torch.tensor(sigmas, dtype=torch.float64))


def plot(model: ModelPatcher, weighting: LossWeighting, label: str) -> torch.Tensor:
    """How a training divides its attention, as an IMAGE: the weights on the v-loss, each with mean 1.

    v is the target on which an untrained network errs about equally at every noise level.
    """
    model_sampling: Any = model.get_model_object("model_sampling")
    everything, shown = trained_levels(model_sampling), trained_levels(model_sampling, SHOWN)
    others = {"ComfyUI's own (x0)": HOST, "plain eps": Plain("eps")}
    lines = {label: weighting.weight} | {name: w for name, w in others.items() if w != weighting.weight}
    series = tuple(
        Series(name, tuple(on("v", normalise_weight(weight, everything, "v"), shown).tolist()))
        for name, weight in lines.items()
    )
    sigmas = tuple(float(model_sampling.percent_to_sigma((i + 0.5) / SHOWN)) for i in range(SHOWN))
    return draw_curves(series, sigmas, "share of the training, mean 1")


def outer_sample(executor, *args, **kwargs):
    """In training: find the weight for the model's noise levels. In sampling: nothing."""
    guider: CFGGuider = executor.class_obj
    if not management.in_training:
        return executor(*args, **kwargs)
    model = guider.model_patcher
    _check(model)
    weighting: LossWeighting = model.get_attachment(LOSS_WEIGHTING)
    model_sampling = model.get_model_object("model_sampling")
    options: dict[str, Any] = guider.model_options
    options[LOSS_WEIGHTING] = _Training(weighting.at(model_sampling), model_sampling)
    try:
        return executor(*args, **kwargs)
    finally:
        options.pop(LOSS_WEIGHTING, None)


def predict_noise(executor, x, timestep, *args, **kwargs):
    """The estimate as it is; in training its gradient is weighted on the way back. timestep: the model's sigma [B]."""
    denoised = executor(x, timestep, *args, **kwargs)
    options: dict[str, Any] = executor.class_obj.model_options
    training: _Training | None = options.get(LOSS_WEIGHTING)
    if training is None or not denoised.requires_grad:
        return denoised
    return weigh(denoised, training.weight(level_of(training.model_sampling, timestep)))


def weigh(estimate: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """The same values; a gradient that comes back is multiplied by weights [B] per sample. estimate: [B, ...].

    In float32 or better, as the host's loss takes it: in half precision the product would be rounded, or overflow,
    before it is passed on.
    """
    exact = estimate if estimate.dtype == torch.float64 else estimate.float()
    same = exact.view_as(exact)  # a node of its own: whoever else holds the estimate gets the gradient unweighted
    same.register_hook(lambda gradient: gradient * expand(weights, gradient))
    return same


def _check(model: ModelPatcher) -> None:
    if not convertible(model.get_model_object("model_sampling")):
        raise ValueError(
            "This model's noisy input is not a picture plus noise, so a signal-to-noise ratio means nothing for it. "
            "Train it without Loss Weighting."
        )


_WRAPPERS = {WrappersMP.OUTER_SAMPLE: outer_sample, WrappersMP.PREDICT_NOISE: predict_noise}
