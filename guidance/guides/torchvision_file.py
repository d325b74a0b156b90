"""State dicts of torchvision's classification and segmentation networks, as one safetensors file."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any, get_args

from torch import Tensor, nn

from ..checkpoints.guide_source import GuideFileError, GuideSource
from ..guide import GuideFamily, GuideSpec, Sees, Task, family
from ..networks.tiny.files import NetworkFileError, check_tensors
from ..noise_schedule import NAMES, NoiseSchedule, noise_schedule
from ..preprocessing import Filter, Preprocessing

_EXAMPLE = '{"architecture": "resnet50"}'
_HEADS = ("heads.head.weight", "head.weight", "fc.weight", "classifier.low_classifier.weight", "classifier.weight")
_INNER = ("inception_v3", "googlenet")  # some of their weights want colours changed inside, which no file says
_MULTIPLE = 8  # of the size of pictures that a segmentation network maps whole
_OWN = ("size", "mean", "std", "filter", "antialias")


class TorchvisionNetwork(nn.Module):
    """One of torchvision's networks that gives a plain tensor."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, input: Tensor, timestep: Tensor | None = None) -> Tensor:
        """[B, 3, h, w] -> logits [B, K], or [B, K, h, w] of a segmentation network."""
        found = self.network(input)
        return found["out"] if isinstance(found, Mapping) else found


@family("torchvision")
@dataclass(frozen=True)
class TorchvisionFile(GuideFamily):
    """A state dict whose safetensors header says what it is. The header's metadata are strings:

    - "architecture" (required): torchvision's name, such as resnet50, convnext_tiny, vit_b_16, deeplabv3_resnet50,
      fcn_resnet101, lraspp_mobilenet_v3_large. The number of classes is read from the tensors.
    - "task": classification or segmentation; what the architecture does, so it need not be given.
    - "labels": a JSON list of the classes' names, by index.
    - "sees": clean (the default), or noisy: trained on pictures with VP noise, without a timestep.
    - "schedule": linear, cosine or stable diffusion: the noise that a noisy one was trained on.
    - "preprocessing": a JSON object with any of size (a number or [height, width], null = as they come), mean, std,
      filter (bilinear, bicubic), antialias. Otherwise as torchvision's own weights of this architecture want it.

    Such a file is written with `safetensors.torch.save_file(state_dict, path, metadata={"architecture": "resnet50"})`.
    """

    title = f"a torchvision state dict whose metadata name its architecture, such as {_EXAMPLE}"

    def recognises(self, source: GuideSource) -> bool:
        return not source.is_folder and "architecture" in source.metadata

    def load(self, source: GuideSource) -> tuple[nn.Module, GuideSpec]:
        architecture, task = _architecture(source)
        preprocessing = _preprocessing(source, architecture, task)
        classes = _classes(source, architecture)
        network = _built(source, architecture, task, classes, preprocessing)
        sees, schedule = _noise(source)
        spec = GuideSpec(
            source.name, task, sees=sees, preprocessing=preprocessing, labels=_labels(source, classes),
            schedule=schedule,
        )
        return TorchvisionNetwork(network).eval().requires_grad_(False), spec


def _architecture(source: GuideSource) -> tuple[str, Task]:
    from torchvision import models

    wanted = source.metadata["architecture"]
    of_maps = models.list_models(module=models.segmentation)
    known = [*(name for name in models.list_models(module=models) if name not in _INNER), *of_maps]
    if wanted not in known:
        near = get_close_matches(wanted, known, 3, 0.4) or known[:3]
        raise GuideFileError(
            f"{source.name}: its metadata ask for the architecture {wanted!r}; torchvision's networks that can be a "
            f"guide are named like {', '.join(near)}."
        )
    task: Task = "segmentation" if wanted in of_maps else "classification"
    if source.metadata.get("task", task) != task:
        raise GuideFileError(
            f"{source.name}: its metadata say task {source.metadata['task']!r}, but {wanted} does {task}."
        )
    return wanted, task


def _classes(source: GuideSource, architecture: str) -> int:
    """The number of classes: the rows of the last layer."""
    numbered = [key for key in source.shapes if key.startswith("classifier.") and key.split(".")[1].isdigit()]
    numbered = [key for key in numbered if key.endswith(".weight") and len(source.shapes[key]) > 1]
    last = max(numbered, key=lambda key: int(key.split(".")[1]), default="")
    found = [key for key in (*_HEADS, last) if key in source.shapes]
    if not found:
        raise GuideFileError(
            f"{source.name} has no last layer of a {architecture}: the tensors must have torchvision's own names, "
            f"without a prefix."
        )
    return source.shapes[found[0]][0]


def _built(source: GuideSource, architecture: str, task: Task, classes: int, preprocessing: Preprocessing) -> nn.Module:
    """The network with the file's own tensors, which must be exactly its own."""
    from torchvision import models

    options: dict[str, Any] = {} if task == "classification" else {"weights_backbone": None}
    if architecture.startswith("vit_") and preprocessing.size is not None:
        options["image_size"] = preprocessing.size[0]
    if any(key.startswith("aux_classifier.") for key in source.shapes):
        options["aux_loss"] = True
    tensors = source.tensors()
    try:
        network = models.get_model(architecture, weights=None, num_classes=classes, **options)
        check_tensors(source.name, network, tensors)
    except (NetworkFileError, ValueError, TypeError) as error:
        raise GuideFileError(f"{error} Its metadata say that it is torchvision's {architecture}.") from error
    network.load_state_dict(tensors)
    return network.float().eval()


def _preprocessing(source: GuideSource, architecture: str, task: Task) -> Preprocessing:
    """As torchvision's best weights of the architecture want it, and what the metadata say instead."""
    from torchvision import models

    weights: Any = models.get_model_weights(architecture)
    usual = weights.DEFAULT.transforms()
    side = _trained_size(source) or (usual.crop_size if task == "classification" else usual.resize_size)[0]
    given = {
        "size": side, "mean": usual.mean, "std": usual.std, "filter": usual.interpolation.value,
        **_json(source, "preprocessing", dict, {}),
    }
    if unknown := given.keys() - set(_OWN):
        raise GuideFileError(
            f"{source.name}: its preprocessing has {', '.join(sorted(unknown))}; it can have {', '.join(_OWN)}."
        )
    size, filter = given["size"], given["filter"]
    if isinstance(size, int):
        size = [size, size]
    numbers = [*given["mean"], *given["std"], *(size or ())] if _lists(given["mean"], given["std"], size) else [None]
    if not all(isinstance(number, int | float) for number in numbers) or filter not in get_args(Filter):
        raise GuideFileError(
            f"{source.name}: its preprocessing is {source.metadata.get('preprocessing')}; size is a number or "
            f"[height, width] or null, mean and std are three numbers each, filter is bilinear or bicubic."
        )
    return Preprocessing(
        size=None if size is None else (int(size[0]), int(size[1])), mean=tuple(given["mean"]), std=tuple(given["std"]),
        filter=filter, antialias=bool(given.get("antialias", True)), whole=task == "segmentation", multiple=_MULTIPLE,
    )


def _trained_size(source: GuideSource) -> int | None:
    """The only size that a ViT takes, from its position embeddings: one for every patch, and one for the class."""
    positions, patch = (source.shapes.get(key) for key in ("encoder.pos_embedding", "conv_proj.weight"))
    if positions is None or patch is None or len(positions) != 3:
        return None
    return math.isqrt(max(positions[1] - 1, 0)) * patch[-1]


def _lists(mean: Any, std: Any, size: Any) -> bool:
    """Whether the preprocessing's lists are lists of the right length."""
    colours = all(isinstance(values, list | tuple) and len(values) == 3 for values in (mean, std))
    return colours and (size is None or (isinstance(size, list) and len(size) == 2))


def _noise(source: GuideSource) -> tuple[Sees, NoiseSchedule | None]:
    sees, schedule = source.metadata.get("sees", "clean"), source.metadata.get("schedule")
    if sees not in ("clean", "noisy"):
        raise GuideFileError(
            f"{source.name}: its metadata say sees {sees!r}; a torchvision network sees clean or noisy pictures, and "
            f"takes no timestep."
        )
    if schedule is not None and schedule not in NAMES:
        raise GuideFileError(
            f"{source.name}: its metadata name the schedule {schedule!r}; there are {', '.join(NAMES)}."
        )
    return ("noisy" if sees == "noisy" else "clean"), None if schedule is None else noise_schedule(schedule)


def _labels(source: GuideSource, classes: int) -> tuple[str, ...]:
    labels = _json(source, "labels", list, [str(index) for index in range(classes)])
    if len(labels) != classes:
        raise GuideFileError(
            f"{source.name}: its metadata list {len(labels)} labels, and the network has {classes} classes."
        )
    return tuple(str(label) for label in labels)


def _json(source: GuideSource, key: str, kind: type, otherwise: Any) -> Any:
    if key not in source.metadata:
        return otherwise
    try:
        found = json.loads(source.metadata[key])
    except ValueError as error:
        raise GuideFileError(f"{source.name}: {key} in its metadata is not JSON ({error}).") from error
    if not isinstance(found, kind):
        wanted = "list" if kind is list else "object"
        raise GuideFileError(f"{source.name}: {key} in its metadata must be a JSON {wanted}.")
    return found
