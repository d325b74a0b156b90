"""A negative prompt in the attention of a network, for models that are evaluated once (Chen et al. 2025, NAG)."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from .noise_level import expand
from .rule import Schedule, Within, param, schedule_field

TINY = 1e-12


@dataclass(frozen=True)
class NegativeAttention(Within):
    """z' = alpha min(1, tau |z+|_1 / |z~|_1) z~ + (1 - alpha) z+,  z~ = z+ + (w - 1)(z+ - z-)   2505.21179

    z+ and z- are what a layer's attention gives a picture's token with the positive and the negative prompt, before the
    layer's output projection; |z|_1 is over the channels of a token. As in its authors' code; w is their nag_scale.
    """

    name, title, paper = "negative_attention", "Negative in Attention", "2505.21179"
    off, neutral = {"weight": 1.0}, 1.0

    weight: float = param(
        5.0, "How far from the negative prompt. 1 = off. What others call nag_scale.", low=1.0, high=50.0, step=0.1
    )
    tau: float = param(
        2.5, "How many times larger attention may become by it. Lower = gentler.", low=1.0, high=10.0, step=0.1
    )
    alpha: float = param(
        0.25, "How much of the result is used, the rest stays as it was. Lower = gentler; 0 = nothing.",
        low=0.0, high=1.0,
    )  # fmt: skip
    schedule: Schedule = schedule_field()

    def steer(self, positive: Tensor, negative: Tensor, weight: Tensor) -> Tensor:
        """z' of z+ and z-, [B, tokens, channels] each. weight: of every sample, [B]."""
        far = positive + expand(weight - 1.0, positive) * (positive - negative)
        allowed = self.tau * _size(positive) / _size(far).clamp_min(TINY)
        return positive.lerp(far * allowed.clamp_max(1.0).to(far.dtype), self.alpha)


def _size(tokens: Tensor) -> Tensor:
    """|z|_1 of every token, in float32: half precision overflows on wide layers. [B, tokens, 1]"""
    return tokens.float().abs().sum(-1, keepdim=True)
