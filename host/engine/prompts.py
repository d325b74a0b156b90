"""What the pictures of a run are asked to be, for rules that read it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from ...guidance.asked import Asked
from ...guidance.compose import Guidance
from ..common.labels import LABELS_KEY


def asked_in(cond: Mapping[str, Any]) -> Asked:
    """Of one entry of a CONDITIONING: its classes (of several words for a picture the first), its pooled vector."""
    classes, pooled = cond.get(LABELS_KEY), cond.get("pooled_output")
    if classes is not None:
        classes = classes.reshape(len(classes), -1)[:, 0].cpu()
    return Asked(classes, pooled.flatten(1).cpu() if isinstance(pooled, torch.Tensor) and pooled.ndim > 1 else None)


def asked_of_run(guidance: Guidance, positive: Sequence[Mapping[str, Any]]) -> Asked | None:
    """What the positive prompt asks for; None where no rule reads it.

    Raises:
        ValueError: a rule cannot read it, in words.
    """
    readers = [rule for rule in guidance.rules if rule.reads_prompt and not rule.inert]
    if not readers:
        return None
    if len(positive) != 1:
        raise ValueError(
            f"{readers[0].title} has weights that were learned by class or prompt, and the positive prompt is a "
            f"combination of {len(positive)}. Connect one prompt, or weights that were learned without by_prompt."
        )
    asked = asked_in(positive[0])
    for rule in readers:
        rule.check_prompt(asked)
    return asked
