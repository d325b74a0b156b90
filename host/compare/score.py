"""What a guide says of finished pictures: how many are as asked, and each picture's own verdict."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import comfy.model_management
import torch
from comfy.model_patcher import ModelPatcher

from ...guidance.features import read_by_the_head
from ...guidance.guide import Guide, GuideSpec
from ...guidance.preprocessing import resize
from ..common.errors import quoted
from ..engine.targets import class_weights
from ..models.guides import LoadedGuide, clean_output

MOST_AT_ONCE = 64
Ask = Callable[[ModelPatcher, GuideSpec, torch.Tensor], torch.Tensor]


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
    _check_pixels(guide.guide)
    if task == "classification":
        return _classes(_output(images, guide), guide.guide, label)
    if task == "score":
        return _scores(_output(images, guide), guide.guide)
    if label.strip():
        raise ValueError(f"label is {quoted(label.strip())}, and {guide.guide.name} names no classes; leave it empty.")
    if target is None:
        raise ValueError(
            f"{guide.guide.name} ({task}) compares pictures with others: connect target, the picture that they should "
            f"agree with. A classifier needs none."
        )
    said, aim = _output(images, guide), _asked(images, guide, Wanted(target=target))
    return _agreement(said, aim[torch.arange(len(said)) % len(aim)], task)


@dataclass(frozen=True, eq=False)
class Wanted:
    """What pictures are asked to be: classes for a classifier, a target picture, or words for a guide that reads text.

    As for `score`: label and text as people write them (commas deal classes in turn), target [K, h, w, C] in [0, 1].
    """

    label: str = ""
    target: torch.Tensor | None = None
    text: str = ""


Said = dict[tuple[Wanted, tuple[int, ...]], torch.Tensor]  # of targets in a size of pictures, or of texts


def agreement(images: torch.Tensor, guide: LoadedGuide, wanted: Wanted, said: Said | None = None) -> torch.Tensor:
    """How far each of the pictures [B, H, W, C] in [0, 1] is as asked, float64 [B]; more is better.

    A classifier: the probability of the classes asked for. Segmentation: the share of right pixels. Depth and
    embeddings (of a picture, or of words): correlation or cosine, -1 to 1. A score: itself.

    said: where what this guide says of the target or the text is kept, for who asks again.

    Raises:
        ValueError: nothing asked for that this guide can judge by, in words.
    """
    core = guide.guide
    task = core.first.task
    _check_pixels(core)
    if task == "classification":
        if not wanted.label.strip():
            raise ValueError(f"label is empty, and {core.name} is a classifier. Write which class is asked for.")
        asked, places = class_weights(core, wanted.label) > 0, torch.arange(len(images))
        chances = _output(images, guide).double().softmax(1)
        return (chances * asked[places % len(asked)]).sum(1)
    if task == "score":
        return _output(images, guide).double().flatten(1).mean(1)
    said, key = {} if said is None else said, (wanted, tuple(images.shape[1:3]))
    if key not in said:
        said[key] = _asked(images, guide, wanted)
    known, seen = said[key], _output(images, guide)
    return _likeness(seen, known[torch.arange(len(seen)) % len(known)], task)


def _asked(images: torch.Tensor, guide: LoadedGuide, wanted: Wanted) -> torch.Tensor:
    """What the guide says of the text, or of each target in the pictures' size. Raises ValueError for neither."""
    core = guide.guide
    task = core.first.task
    if task == "embedding" and wanted.text.strip():
        return _words_of(guide, wanted.text)
    if wanted.target is None:
        more = ", or write text" if core.first.reads_text else ""
        raise ValueError(
            f"{core.name} ({task}) compares pictures with a target: connect target{more}. A classifier needs a label."
        )
    return _output(_sized(wanted.target, images), guide)


def _check_pixels(guide: Guide) -> None:
    if guide.first.domain == "latent":
        raise ValueError(f"{guide.name} sees latents, and these are pictures; choose a guide of pictures.")


@torch.inference_mode()
def _words_of(guide: LoadedGuide, text: str) -> torch.Tensor:
    """[1, E] on the CPU. Raises ValueError for a guide that reads no text."""
    patcher = guide.patchers[0]
    if not guide.guide.first.reads_text:
        raise ValueError(f"{guide.guide.name} reads no text; choose a CLIP or SigLIP folder, or connect target.")
    comfy.model_management.load_models_gpu([patcher], force_full_load=True)
    return patcher.model.embed_text([text.strip()]).float().cpu()


def _sized(target: torch.Tensor, images: torch.Tensor) -> torch.Tensor:
    """The target in the pictures' size: a network says other things of a picture that is larger."""
    if target.shape[1:3] == images.shape[1:3]:
        return target
    return resize(target.movedim(-1, 1), (images.shape[1], images.shape[2]), "bilinear").movedim(1, -1)


def features_of(images: torch.Tensor, guide: LoadedGuide) -> torch.Tensor:
    """What a guide sees in pictures [B, H, W, C] in [0, 1], by which they can be compared: float32 [B, F] on the CPU.

    Of an embedding its vector, of a classifier what its last layer reads.

    Raises:
        ValueError: a guide that has nothing of the kind, in words.
    """
    _check_pixels(guide.guide)
    if guide.guide.first.task not in ("embedding", "classification"):
        raise _no_features(guide.guide)
    return _output(images, guide, clean_output if guide.guide.first.task == "embedding" else _features)


def _features(patcher: ModelPatcher, spec: GuideSpec, pictures: torch.Tensor) -> torch.Tensor:
    found = read_by_the_head(patcher.model, lambda: clean_output(patcher, spec, pictures))
    if found is None:
        raise _no_features(Guide((spec,)))
    return found


def _no_features(guide: Guide) -> ValueError:
    return ValueError(
        f"{guide.name} ({guide.first.task}) gives no features by which sets of pictures could be compared. Choose "
        f"CLIP, SigLIP or a classifier that ends in a linear layer, such as a ResNet."
    )


@torch.inference_mode()
def _output(images: torch.Tensor, guide: LoadedGuide, ask: Ask = clean_output) -> torch.Tensor:
    """What a guide says of pictures seen clean, on the CPU: its own output, or what `ask` makes of it."""
    patcher, spec = guide.patchers[0], guide.guide.first
    comfy.model_management.load_models_gpu([patcher], force_full_load=True)
    pictures = images[..., :3].movedim(-1, 1) * 2.0 - 1.0
    parts = []
    for part in pictures.split(MOST_AT_ONCE):
        comfy.model_management.throw_exception_if_processing_interrupted()
        parts.append(ask(patcher, spec, part).float().cpu())
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


def _scores(said: torch.Tensor, guide: Guide) -> Verdict:
    """The guide's own number for each picture."""
    values = said.flatten(1).mean(1)
    marks = tuple(f"{value:.2f}" for value in values)
    mean = values.mean().item()
    return Verdict(marks, (None,) * len(marks), mean, f"{mean:.2f} is the mean score by {guide.name}.")


def _agreement(said: torch.Tensor, wanted: torch.Tensor, task: str) -> Verdict:
    """How far each output agrees with its own target: segmentation in pixels, maps and embeddings by correlation."""
    likeness = _likeness(said, wanted, task)
    mean, none = likeness.mean().item(), (None,) * len(likeness)
    if task == "segmentation":
        marks = tuple(f"{share:.0%}" for share in likeness)
        return Verdict(marks, none, mean, f"{mean:.0%} of the pixels are as in the target.")
    what = "correlation with the target's depth" if task == "depth" else "likeness to the target (cosine)"
    return Verdict(tuple(f"{value:.2f}" for value in likeness), none, mean, f"{mean:.2f} is the {what}.")


def _likeness(said: torch.Tensor, wanted: torch.Tensor, task: str) -> torch.Tensor:
    """Of each output to its own target, [B] float64: a share of pixels, or a correlation."""
    if task == "segmentation":
        return (said.argmax(1) == wanted.argmax(1)).double().flatten(1).mean(1)
    if task == "depth":
        said, wanted = (map_ - map_.flatten(1).mean(1)[:, None, None, None] for map_ in (said, wanted))
    return torch.cosine_similarity(said.flatten(1).double(), wanted.flatten(1).double())
