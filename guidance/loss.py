"""Loss: how far a guide's output, or the picture itself, is from what is wanted. And the register of losses."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from .preprocessing import resize
from .register import Register

Reads = Literal["classification", "depth", "segmentation", "embedding", "score", "picture"]


@dataclass(frozen=True)
class Loss:
    """One loss as frozen data, one file of `losses/`: its equation in the docstring, its numbers as fields.

    Losses of maps and pictures are means over their pixels, so that a scale means the same at every size.

    Class attributes:
        title: what people choose it by.
        reads: what it compares: outputs of guides by task, or "picture", the decoded picture [B, 3, H, W] in [-1, 1].
        wants_target: False for a loss of the picture alone, called with None.
        wants_text: True where the target can only be that of a text.
    """

    name: ClassVar[str]
    title: ClassVar[str]
    reads: ClassVar[frozenset[Reads]]
    wants_target: ClassVar[bool] = True
    wants_text: ClassVar[bool] = False

    def __call__(self, output: Tensor, target: Tensor | None) -> Tensor:
        """One number per sample, [B]; 0 or smallest where output and target agree.

        Computed in float32 or better; the dtype of the output is kept.

        output: [B, ...]. target: [B, ...] of the kind that the loss compares with; pictures have the output's size.
        """
        precise = output if output.dtype == torch.float64 else output.float()
        return self.compare(precise, None if target is None else target.to(precise)).to(output.dtype)

    def compare(self, output: Tensor, target: Any) -> Tensor:
        """The loss itself, [B], of tensors in float32 or float64. target: a Tensor, None where it wants none."""
        raise NotImplementedError


def fit(target: Tensor, output: Tensor, filter: Literal["bilinear", "nearest"] = "bilinear") -> Tensor:
    """A target map [B, h, w] or [B, 1, h, w] on the pixels of an output [B, K, H, W]: [B, 1, H, W].

    Maps of classes are resized by "nearest": classes cannot be blended.
    """
    target = target if target.ndim == 4 else target[:, None]
    size = (output.shape[-2], output.shape[-1])
    return target if tuple(target.shape[-2:]) == size else resize(target, size, filter)


loss: Register[Loss] = Register("loss", f"{__package__}.losses")


def losses() -> dict[str, type[Loss]]:
    """Every loss of the package `losses`, by name."""
    return loss.all()
