"""Where in a picture a rule acts: a mask, resized to the latents of a run."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor

ROUNDING = 1e-6  # of a resized mask, which must be 0 and 1 exactly where the mask is


@dataclass(frozen=True, eq=False)
class Region:
    """A mask over a picture. A region equals itself alone, so that rules stay values that can be compared.

    mask: [N, H, W], from 0 (the rule is off there) to 1 (it acts); of any size; one for all pictures or frames, one for
        every picture of a batch, or a video's frames.
    """

    mask: Tensor
    _made: dict[tuple, Tensor] = field(default_factory=dict, repr=False)

    def problem(self, shape: tuple[int, ...]) -> str | None:
        """Why it fits no latents of this shape [B, C, ...], in words; None if it does."""
        if len(shape) not in (4, 5):
            return f"a mask lies over pictures or video, and this model's latents are {len(shape) - 1}-dimensional"
        if len(shape) == 4 and len(self.mask) not in (1, shape[0]):
            return f"the mask has {len(self.mask)} pictures and the batch {shape[0]}: use one mask, or one for each"
        return None

    def over(self, like: Tensor) -> Tensor:
        """The mask for a tensor [B, C, (T,) H, W]: [1 or B, 1, (T,) H, W] with its dtype and device.

        Height and width are resized with soft edges, frame by frame; frames are taken in between where their numbers
        differ, as a video's latents have fewer.
        """
        key = (tuple(like.shape[2:]), like.dtype, like.device)
        if key not in self._made:
            found = self.mask.detach().float().cpu()[:, None]
            found = F.interpolate(found, tuple(like.shape[-2:]), mode="bilinear", antialias=True)
            found = ((found - ROUNDING) / (1.0 - 2 * ROUNDING)).clamp(0.0, 1.0)
            if like.ndim == 5:
                found = _frames(found, like.shape[2])
            self._made[key] = found.to(like.dtype).to(like.device)
        return self._made[key]


def _frames(masks: Tensor, count: int) -> Tensor:
    """[N, 1, H, W] -> [1, 1, count, H, W]."""
    if len(masks) == 1:
        return masks[None].expand(1, 1, count, *masks.shape[-2:])
    place = torch.linspace(0, len(masks) - 1, count)
    below = place.long().clamp(max=len(masks) - 2)
    between = (place - below)[:, None, None, None]
    return masks[below].lerp(masks[below + 1], between).transpose(0, 1)[None]
