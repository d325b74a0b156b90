"""What a loss compares with: classes by name, a map, a reference picture, or words; settled before sampling starts."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from comfy.model_patcher import ModelPatcher

from ...guidance.guide import Guide, GuideSpec
from ...guidance.loss import Loss, losses
from ...guidance.preprocessing import resize
from ..common.labels import index_of
from ..models.guides import clean_output

MAP, REFERENCE = "map", "picture"
TARGETS = [REFERENCE, MAP]


@dataclass(frozen=True, eq=False)
class Target:
    """A target as the user gave it. Exactly one of the three is set; none for a loss that wants no target.

    Attributes:
        value: finished, [K, ...]: class weights [K, classes], or maps and pictures [K, C, H, W].
        reference: pictures [K, 3, H, W] in [-1, 1]; the guide's own output on them is the target.
        texts: what the picture should show, in words, for a guide that reads text.
        spatial: whether it must lie over the generated picture, pixel for pixel.
        classes: whether its numbers are classes, which cannot be blended.
    """

    value: torch.Tensor | None = None
    reference: torch.Tensor | None = None
    texts: tuple[str, ...] = ()
    spatial: bool = False
    classes: bool = False

    def check_size(self, size: tuple[int, int]) -> None:
        """Raise ValueError if the target does not lie over pictures of this size (height, width)."""
        given = self.value if self.value is not None else self.reference
        if self.spatial and given is not None and tuple(given.shape[-2:]) != size:
            raise ValueError(
                f"target is {given.shape[-1]}x{given.shape[-2]} pixels, and the picture being made is "
                f"{size[1]}x{size[0]}. Resize the target (Upscale Image), or make a picture of its size."
            )


def losses_of_pictures() -> list[str]:
    """The names of the losses that compare with a picture: all but those of classes."""
    return [name for name, loss in losses().items() if loss.reads != {"classification"}]


def losses_reading(*outputs: str) -> list[str]:
    """The names of the losses that read what guides of these kinds give: depth, embedding, ..."""
    return [name for name, loss in losses().items() if loss.reads & {*outputs}]


def class_target(guide: Guide, text: str) -> Target:
    """The classes that a text names as a target. Raises ValueError as `class_weights` does."""
    return Target(value=class_weights(guide, text))


def class_weights(guide: Guide, text: str) -> torch.Tensor:
    """The classes that a text names: "heart", "3", "cat:0.7 + dog:0.3"; commas deal several to the pictures in turn.

    [K, classes], one row for each that is dealt.

    Raises:
        ValueError: a class that the guide does not have, naming the nearest; a weight that is no number.
    """
    labels = guide.first.labels
    wanted = [part for part in text.split(",") if part.strip()]
    if not wanted:
        raise ValueError(f"label is empty; name a class of {guide.name}, for instance {labels[0]!r}." if labels else
                         "label is empty; give the number of a class.")
    return torch.stack([_weights(part, guide) for part in wanted])


def _weights(text: str, guide: Guide) -> torch.Tensor:
    labels = guide.first.labels
    out = torch.zeros(len(labels))
    for part in text.split("+"):
        name, _, weight = part.strip().partition(":")
        try:
            out[index_of(name.strip(), labels, guide.name)] += float(weight) if weight.strip() else 1.0
        except ValueError as error:
            if weight.strip() and not _is_number(weight):
                raise ValueError(
                    f"label has {part.strip()!r}; a weighted class is name:number, for instance {labels[0]}:0.5."
                ) from None
            raise error
    return out


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def picture_target(guide: Guide | None, loss: Loss, images: torch.Tensor | None, kind: str, text: str) -> Target:
    """The target that a loss node's inputs describe. images: [K, H, W, C] in [0, 1].

    Raises:
        ValueError: nothing to compare with, or something that this loss cannot be compared with.
    """
    if not loss.wants_target:
        return Target()
    if text.strip():
        return _text_target(guide, text)
    if loss.wants_text:
        raise ValueError(
            f"The loss {loss.name!r} compares with words: write into text what the picture should show. For a "
            f"reference picture choose the loss embedding."
        )
    if images is None:
        otherwise = ", or write text" if guide is not None and guide.first.reads_text else ""
        raise ValueError(
            f"The loss {loss.name!r} compares with a target, and none is connected. Connect a picture to "
            f"target{otherwise}."
        )
    pictures = images[..., :3].movedim(-1, 1).contiguous() * 2.0 - 1.0
    if guide is None:
        return Target(value=pictures, spatial=True)
    if kind == REFERENCE:
        return Target(reference=pictures, spatial=guide.first.task in ("depth", "segmentation"))
    grey = images[..., :3].mean(-1)[:, None]
    if guide.first.task == "depth":
        return Target(value=grey, spatial=True)
    if guide.first.task == "segmentation":
        return Target(value=_class_map(grey, guide), spatial=True, classes=True)
    raise ValueError(f"{guide.name} gives no map; choose target_is = picture.")


def _class_map(grey: torch.Tensor, guide: Guide) -> torch.Tensor:
    classes = (grey * 255.0).round()
    count = len(guide.first.labels)
    if count and int(classes.max()) >= count:
        raise ValueError(
            f"target has grey level {int(classes.max())}, and {guide.name} has classes 0 to {count - 1}. In a "
            f"segmentation map the grey level (0 to 255) is the number of the class; for an ordinary picture choose "
            f"target_is = picture."
        )
    return classes


def _text_target(guide: Guide | None, text: str) -> Target:
    if guide is None or not guide.first.reads_text:
        raise ValueError(
            "text is compared by a guide that reads text (a CLIP or SigLIP folder in Load Guide). Connect one, or "
            "leave text empty."
        )
    return Target(texts=(text.strip(),))


def resolve_target(
    target: Target, guide: Guide | None, patcher: ModelPatcher | None, decoded: tuple[int, int]
) -> torch.Tensor | None:
    """The target as a tensor that the loss compares with; the guide's first network does what has to be computed.

    patcher: of the guide's first member, on its device; None without a guide. decoded: height and width of the
    pictures that the loss will see. Call it outside inference mode.
    """
    if target.texts and patcher is not None:
        return patcher.model.embed_text(list(target.texts))
    if target.reference is not None and guide is not None and patcher is not None:
        return _reference_output(_resize(target.reference.clone(), decoded, target), guide.first, patcher)
    if target.value is None or not target.spatial:
        return None if target.value is None else target.value.clone()
    value = _resize(target.value.clone(), decoded, target)
    return value if guide is None else guide.first.preprocessing.frame(value, "nearest" if target.classes else None)


def _resize(picture: torch.Tensor, size: tuple[int, int], target: Target) -> torch.Tensor:
    """A decoder may show the picture smaller than it will be; what lies over it must be as small."""
    if not target.spatial or tuple(picture.shape[-2:]) == size:
        return picture
    return resize(picture, size, "nearest" if target.classes else "bilinear")


@torch.no_grad()
def _reference_output(picture: torch.Tensor, spec: GuideSpec, patcher: ModelPatcher) -> torch.Tensor:
    """A guide's own output on reference pictures, where and as precise as it is."""
    output = clean_output(patcher, spec, picture.to(next(patcher.model.parameters())))
    return output.argmax(1, keepdim=True).to(output) if spec.task == "segmentation" else output
