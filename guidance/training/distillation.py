"""What an expert learns from: the clean network's own opinion of the clean picture, or labels.

Each loss compares the student's output on the noisy picture with the teacher's, and gives one number per sample, [B].
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor

from ..guide import Task

Kind = Literal["task", "mse", "labels"]
KINDS: tuple[Kind, ...] = get_args(Kind)
DistillationLoss = Callable[[Tensor, Tensor], Tensor]


def distillation_loss(kind: Kind, task: Task, temperature: float) -> DistillationLoss:
    """The loss of a student against its teacher's output.

    task: the knowledge-transfer loss of the task. mse: the plain squared error between the outputs (PPAP's released
    code for depth). labels: cross-entropy to classes int64 [B] instead of the teacher's output.

    Args:
        temperature: divides the teacher's logits. PPAP: 0.25, which sharpens them.

    Raises:
        ValueError: an unknown kind, labels of anything but whole pictures, a temperature that is not above 0.
    """
    if kind not in KINDS:
        raise ValueError(f"learn_from is {kind!r}; it can be {', '.join(KINDS)}.")
    if not temperature > 0:
        raise ValueError(f"temperature is {temperature:g}; it must be above 0. PPAP: 0.25.")
    if kind == "labels" and task != "classification":
        raise ValueError(f"Labels are for classification, and the guide does {task}; let it learn from the guide.")
    if kind == "labels":
        return lambda output, classes: F.cross_entropy(output, classes, reduction="none")
    if kind == "mse" or task == "score":
        return lambda output, teacher_output: (output - teacher_output).square().flatten(1).mean(1)
    if task == "depth":
        return scale_and_shift
    if task == "embedding":
        return lambda output, teacher_output: 1 - F.cosine_similarity(output.flatten(1), teacher_output.flatten(1))
    return lambda output, teacher_output: soft_labels(output, teacher_output, temperature)


def soft_labels(output: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """KL(softmax(teacher / temperature) || softmax(output)) over axis 1; of maps [B, K, h, w], the mean over pixels.

    The temperature is the teacher's alone, as in PPAP's code; without its division by the number of classes.
    """
    teacher_output = (teacher / temperature).log_softmax(1)
    each = (teacher_output.exp() * (teacher_output - output.log_softmax(1))).sum(1)
    return each.flatten(1).mean(1) if each.ndim > 1 else each


def scale_and_shift(output: Tensor, teacher_output: Tensor) -> Tensor:
    """Mean absolute difference of two maps [B, 1, h, w], each brought to median 0 and mean absolute deviation 1.

    Ranftl et al. 2020 (1907.01341, MiDaS), Equations 5 and 6. A map that is inverted is wrong; one that is constant
    has no shape to compare, so it counts as 0 everywhere.
    """
    return (_standing(output) - _standing(teacher_output)).abs().mean(1)


def _standing(depth: Tensor) -> Tensor:
    flat = depth.flatten(1)
    flat = flat - flat.median(1, keepdim=True).values
    spread = flat.abs().mean(1, keepdim=True)
    return flat / torch.where(spread > 1e-6, spread, 1.0)
