"""What a guide says of finished pictures: how many are as asked, and each picture's own verdict."""

from __future__ import annotations

from dataclasses import dataclass

import comfy.model_management
import torch

from ...guidance.guide import Guide
from ...guidance.preprocessing import resize
from ..common.errors import shown
from ..engine.targets import class_weights
from ..models.guides import LoadedGuide, clean_output

MOST_AT_ONCE = 64


@dataclass(frozen=True)
class Verdict:
    """The verdict on a batch of pictures.

    Attributes:
        marks: a few words for each picture: the class that the guide sees, the share of right pixels, ...
        right: for each picture whether it is as asked; None where nothing was asked or there is no right and wrong.
        value: one number for all: the share of right pictures, or the mean of what `marks` say.
        words: the same in a sentence.
    """

    marks: tuple[str, ...]
    right: tuple[bool | None, ...]
    value: float
    words: str


def score(images: torch.Tensor, guide: LoadedGuide, label: str, target: torch.Tensor | None) -> Verdict:
    """Judge pictures [B, H, W, C] in [0, 1], as clean ones, by a guide.

    label: for a classifier, the classes asked for, dealt to the pictures in turn; empty asks for none.
    target: pictures [K, h, w, C] that the others should agree with, dealt in turn; brought to their size.

    Raises:
        ValueError: a label that the guide does not have, a label or a target where it can do nothing with it, or none
            where it needs one, in words.
    """
    task = guide.guide.first.task
    if guide.guide.first.domain == "latent":
        raise ValueError(f"{guide.guide.name} sees latents, and these are pictures; choose a guide of pictures.")
    if task == "classification":
        return _classes(_output(images, guide), guide.guide, label)
    if label.strip():
        raise ValueError(f"label is {shown(label.strip())}, and {guide.guide.name} names no classes; leave it empty.")
    if target is None:
        raise ValueError(
            f"{guide.guide.name} ({task}) compares pictures with others: connect target, the picture that they should "
            f"agree with. A classifier needs none."
        )
    said = _output(images, guide)
    wanted = _output(_sized(target, images), guide)[torch.arange(len(images)) % len(target)]
    return _agreement(said, wanted, task)


def _sized(target: torch.Tensor, images: torch.Tensor) -> torch.Tensor:
    """The target in the pictures' size: a network says other things of a picture that is larger."""
    if target.shape[1:3] == images.shape[1:3]:
        return target
    return resize(target.movedim(-1, 1), (images.shape[1], images.shape[2]), "bilinear").movedim(1, -1)


@torch.inference_mode()
def _output(images: torch.Tensor, guide: LoadedGuide) -> torch.Tensor:
    """The guide's own output for pictures seen clean, on the CPU."""
    patcher, spec = guide.patchers[0], guide.guide.first
    comfy.model_management.load_models_gpu([patcher], force_full_load=True)
    pictures = images[..., :3].movedim(-1, 1) * 2.0 - 1.0
    parts = []
    for part in pictures.split(MOST_AT_ONCE):
        comfy.model_management.throw_exception_if_processing_interrupted()
        parts.append(clean_output(patcher, spec, part).float().cpu())
    return torch.cat(parts)


def _classes(logits: torch.Tensor, guide: Guide, label: str) -> Verdict:
    labels = guide.first.labels or tuple(map(str, range(logits.shape[1])))
    seen = logits.argmax(1)
    marks = tuple(labels[index].split(",")[0] for index in seen.tolist())
    if not label.strip():
        sure = logits.softmax(1).amax(1).mean().item()
        return Verdict(marks, (None,) * len(marks), sure, f"{guide.name} is {sure:.0%} sure of what it sees.")
    wanted = class_weights(guide, label) > 0
    right = tuple(bool(wanted[index % len(wanted), number]) for index, number in enumerate(seen.tolist()))
    words = f"{sum(right)} of {len(right)} are as asked ({label.strip()})."
    return Verdict(marks, right, sum(right) / len(right), words)


def _agreement(said: torch.Tensor, wanted: torch.Tensor, task: str) -> Verdict:
    """How far each output agrees with its own target: segmentation in pixels, maps and embeddings by correlation."""
    if task == "segmentation":
        shares = (said.argmax(1) == wanted.argmax(1)).double().flatten(1).mean(1)
        marks, what = tuple(f"{share:.0%}" for share in shares), "of the pixels are as in the target"
        return Verdict(marks, (None,) * len(marks), shares.mean().item(), f"{shares.mean():.0%} {what}.")
    if task == "depth":
        said, wanted = (map_ - map_.flatten(1).mean(1)[:, None, None, None] for map_ in (said, wanted))
    likeness = torch.cosine_similarity(said.flatten(1).double(), wanted.flatten(1).double())
    what = "correlation with the target's depth" if task == "depth" else "likeness to the target (cosine)"
    marks = tuple(f"{value:.2f}" for value in likeness)
    return Verdict(marks, (None,) * len(marks), likeness.mean().item(), f"{likeness.mean():.2f} is the {what}.")
