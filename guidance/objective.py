"""Gradients: how a guide's opinion of a picture becomes a direction in which to change it.

The host gives what only it has (networks on their devices, the decoder, the denoiser, a scope in which autograd works);
which tensor is differentiated with respect to which is decided here, once, for every guide, loss and model family.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Literal, Protocol

import torch
from einops import rearrange
from torch import Tensor

from .cutouts import Cutouts
from .guide import Guide, variance_preserving, with_noise
from .loss import Loss
from .noise_level import NoiseLevel, expand
from .seeds import generator_of

At = Literal["noisy input", "denoised", "through denoiser"]
WHOLE = frozenset({"classification", "embedding", "score"})  # what is judged as a whole
# Means over pixels have gradients that half precision rounds to zero; they pass the networks enlarged. A power of two.
GAIN = 1024.0


@dataclass(frozen=True, eq=False)
class Objective:
    """What is asked of the picture: its log-probability, or minus its loss, rises along the gradient.

    Attributes:
        loss, guide: the loss of the guide's output; without a guide, of the picture itself.
        at: what the gradient is taken with respect to. "noisy input": x, by a guide that looks at x (ADM, PPAP).
            "denoised": the denoised estimate, held fixed. "through denoiser": x, by a guide that looks at the denoised
            estimate, through the denoiser.
        cutouts: random crops that the guide looks at instead of the whole picture.
        seed: of the noise that is added for a noise-aware guide that looks at the denoised estimate.
        words: what is asked, for reports.
    """

    loss: Loss
    at: At
    guide: Guide | None = None
    cutouts: Cutouts | None = None
    seed: int = 0
    words: str = ""


class GradientContext(Protocol):
    """What a rule that asks for gradients gets from the host: networks, decoder, denoiser, the scope of autograd."""

    def scope(self, objective: Objective) -> AbstractContextManager:
        """While inside, autograd works on everything that this objective touches."""

    def target(self, objective: Objective) -> Tensor | None:
        """What the loss compares with, [K, ...], dealt to the samples in turn; None where it wants none."""

    def picture(self, denoised: Tensor, objective: Objective) -> Tensor:
        """Decoded: [B, C, ...] -> [B, 3, H, W] in [-1, 1], or [B, 3, T, H, W] for a video. Differentiable."""

    def denoise(self, x: Tensor) -> Tensor:
        """The main network's denoised estimate of the positive prompt [B, ...]. Differentiable."""

    def network(self, objective: Objective, member: int):
        """The network of one member of the objective's guide, on its device (a `guide.Network`)."""


class ScoreWatch(Protocol):
    """Told of the scores that are differentiated, while a MODEL is inspected."""

    def scored(self, objective: Objective, scores: Tensor) -> None:
        """Minus the loss that a guide found, [B]."""


def gradient(
    objective: Objective, x: Tensor, denoised: Tensor, level: NoiseLevel, position: int, context: GradientContext,
    watch: ScoreWatch | None = None,
) -> Tensor:
    """The gradient [B, ...] of minus the loss, with respect to x or to the denoised estimate; detached.

    x, denoised: [B, ...]. position: numbers the sampler's steps, so that noise and cutouts can be drawn again.
    watch: told the scores that were differentiated.

    Raises:
        FloatingPointError: the gradient is not finite.
    """
    # Samples do not interact, so the gradient of the sum is every sample's own.
    gain = 1.0 if objective.loss.reads & WHOLE else GAIN
    with context.scope(objective):
        leaf = (denoised if objective.at == "denoised" else x).clone().requires_grad_()
        if objective.at == "noisy input":
            picture = leaf
        else:
            picture = context.picture(leaf if objective.at == "denoised" else context.denoise(leaf), objective)
        shown, rows = _views(objective, picture, level, position)
        seen, slope, heard = shown.detach().requires_grad_(), torch.zeros_like(shown), []
        # Each expert's backward follows its forward: experts of one bank share the weights that the backward needs.
        for score in _scores(objective, seen, rows, level[rows], context):
            heard.append(score.detach())
            slope += torch.autograd.grad(score, seen, torch.full_like(score, gain * len(x) / len(rows)))[0]
        (found,) = torch.autograd.grad(shown, leaf, slope)
    if watch is not None:
        watch.scored(objective, torch.stack(heard).float().sum(0).view(len(x), -1).mean(1))
    found = found.detach() / gain
    if not bool(torch.isfinite(found).all()):
        raise FloatingPointError(
            f"The gradient of {objective.words or objective.loss.title} is not finite at noise level "
            f"{float(level.sigma.max()):g}: the networks' half precision overflowed. Load guide and VAE in fp32, or "
            f"keep the guidance out of these noise levels with an interval."
        )
    return found


def scores(objective: Objective, picture: Tensor, level: NoiseLevel, position: int, context: GradientContext) -> Tensor:
    """Minus the loss per sample, [B]. picture: [B, C, H, W], or [B, C, T, H, W], whose score is the mean of frames.

    No gradient may be taken of it where the guide is an expert bank: see `gradient`.
    """
    shown, rows = _views(objective, picture, level, position)
    total = torch.zeros(len(rows), dtype=shown.dtype, device=shown.device)
    for score in _scores(objective, shown, rows, level[rows], context):
        total = total + score
    return total.view(len(picture), -1).mean(1)


def _views(objective: Objective, picture: Tensor, level: NoiseLevel, position: int) -> tuple[Tensor, Tensor]:
    """The pictures that the guide looks at, [R, C, H, W]: frames and cutouts of every sample; and whose, int64 [R]."""
    batch, frames = len(picture), 1
    if picture.ndim == 5:
        frames = picture.shape[2]
        picture = rearrange(picture, "b c t h w -> (b t) c h w")
    rows = torch.arange(batch).repeat_interleave(frames)
    if objective.cutouts is not None:
        picture = objective.cutouts(picture, position)
        rows = rows.repeat_interleave(objective.cutouts.count)
    return _as_seen(objective, picture, level[rows], position), rows


def _as_seen(objective: Objective, picture: Tensor, level: NoiseLevel, position: int) -> Tensor:
    """The picture as the guide's networks are to see it: with the noise that they know."""
    if objective.at == "noisy input":
        return variance_preserving(picture, level)
    if objective.guide is None or not objective.guide.sees_noise:
        return picture
    # One noise for all samples, so that a picture does not depend on the batch it is in.
    noise = torch.randn(picture.shape[1:], generator=generator_of(objective.seed, position)).to(picture)
    return with_noise(picture, noise, level)


def _scores(
    objective: Objective, picture: Tensor, rows: Tensor, level: NoiseLevel, context: GradientContext
) -> Iterator[Tensor]:
    """Minus the loss of every picture, [R], as a sum of one part for each expert that is in charge of any."""
    wanted = context.target(objective)
    target = None if wanted is None else wanted[rows % len(wanted)]
    if objective.guide is None:
        yield -objective.loss(picture, None if target is None else target.to(picture.device))
        return
    charge = objective.guide.experts.gate_weights(level)
    for index, member in enumerate(objective.guide.members):
        mine = charge[:, index].nonzero().squeeze(1)
        if len(mine):
            on_device = mine.to(picture.device)
            output = member.output(context.network(objective, index), picture[on_device], level[mine])
            found = objective.loss(output, None if target is None else target[mine].to(output.device))
            share = charge[mine, index].to(found.dtype).to(found.device)
            nothing = torch.zeros(len(picture), dtype=picture.dtype, device=picture.device)
            yield nothing.index_add(0, on_device, -(share * found).to(picture.dtype))


def step_size(objective: Objective | None, level: NoiseLevel) -> Tensor:
    """r, from a gradient of log p to a displacement of the denoised estimate, float64 [B]; 0 where a = 0.

    At x: b^2 / a (Tweedie). At the denoised estimate: b^2 / (a^2 + b^2), the variance that is left.
    """
    if objective is not None and objective.at == "denoised":
        return 1 - level.alpha_bar
    return torch.where(level.a > 0, level.b**2 / level.a, 0.0)


def noise_left(level: NoiseLevel, like: Tensor) -> Tensor:
    """The length of noise of the posterior's standard deviation, b / sqrt(a^2 + b^2) per element: [B, 1, ...]."""
    return expand((1 - level.alpha_bar).sqrt() * like[0].numel() ** 0.5, like)
