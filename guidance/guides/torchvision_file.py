"""State dicts of torchvision's classification and segmentation networks, as one safetensors file."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any, get_args

import torch
from torch import Tensor, nn

from ..checkpoints.guide_source import GuideFileError, GuideSource
from ..checkpoints.json_text import Kind, parse_json
from ..checkpoints.weights import misfit, shapes_of
from ..checkpoints.words import listed, quoted, shown
from ..guide import GuideFamily, GuideSpec, Sees, Task, family
from ..noise_schedule import NAMES, NoiseSchedule, noise_schedule
from ..preprocessing import Filter, Preprocessing

_EXAMPLE = '{"architecture": "resnet50"}'
_HEADS = ("heads.head.weight", "head.weight", "fc.weight", "classifier.low_classifier.weight", "classifier.weight")
_NUMBERED = re.compile(r"classifier\.[0-9]{1,3}\.weight")
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
        near = get_close_matches(shown(wanted), known, 3, 0.4) or known[:3]
        raise GuideFileError(
            f"{source.name}: its metadata ask for the architecture {quoted(wanted)}; torchvision's networks that can "
            f"be a guide are named like {', '.join(near)}."
        )
    task: Task = "segmentation" if wanted in of_maps else "classification"
    if source.metadata.get("task", task) != task:
        raise GuideFileError(
            f"{source.name}: its metadata say task {quoted(source.metadata['task'])}, but {wanted} does {task}."
        )
    return wanted, task


def _classes(source: GuideSource, architecture: str) -> int:
    """The number of classes: the rows of the last layer."""
    numbered = [key for key in source.shapes if _NUMBERED.fullmatch(key)]
    last = max(numbered, key=lambda key: int(key.split(".")[1]), default="")
    found = [key for key in (*_HEADS, last) if len(source.shapes.get(key, ())) > 1]
    if not found:
        raise GuideFileError(
            f"{source.name} has no last layer of a {architecture}: the tensors must have torchvision's own names, "
            f"without a prefix."
        )
    return source.shapes[found[0]][0]


def _built(source: GuideSource, architecture: str, task: Task, classes: int, preprocessing: Preprocessing) -> nn.Module:
    """The network with the file's own tensors, which must be exactly its own."""
    options: dict[str, Any] = {} if task == "classification" else {"weights_backbone": None}
    if architecture.startswith("vit_") and preprocessing.size is not None:
        options["image_size"] = preprocessing.size[0]
    if any(key.startswith("aux_classifier.") for key in source.shapes):
        options["aux_loss"] = True
    options |= {"weights": None, "num_classes": classes}
    with torch.device("meta"):  # nothing is allocated for a network that the file does not hold
        own = _made(source, architecture, options).state_dict()
    if problem := misfit(shapes_of(own), source.shapes):
        raise GuideFileError(
            f"{source.name} does not fit: {problem}. Its metadata say that it is torchvision's {architecture}."
        )
    tensors = source.weights(own)
    network = _made(source, architecture, options)
    network.load_state_dict(tensors)
    return network.float().eval()


def _made(source: GuideSource, architecture: str, options: Mapping[str, Any]) -> nn.Module:
    from torchvision import models

    try:
        return models.get_model(architecture, **options)
    except (ValueError, TypeError, RuntimeError) as error:  # what torchvision says of a size that it cannot take
        raise GuideFileError(
            f"{source.name}: torchvision cannot build a {architecture} with the preprocessing of its metadata "
            f"({shown(str(error), 160)}); get it again."
        ) from None


def _preprocessing(source: GuideSource, architecture: str, task: Task) -> Preprocessing:
    """As torchvision's best weights of the architecture want it, and what the metadata say instead."""
    from torchvision import models

    weights: Any = models.get_model_weights(architecture)
    usual = weights.DEFAULT.transforms()
    side = _trained_size(source) or (usual.crop_size if task == "classification" else usual.resize_size)[0]
    given: dict[str, Any] = {
        "size": side, "mean": usual.mean, "std": usual.std, "filter": usual.interpolation.value,
        **_json(source, "preprocessing", dict, {}),
    }
    if unknown := given.keys() - set(_OWN):
        raise GuideFileError(
            f"{source.name}: its preprocessing has {listed(sorted(unknown))}; it can have {', '.join(_OWN)}."
        )
    size: Any = given["size"]
    size = (size, size) if type(size) is int else tuple(size) if isinstance(size, list) else size
    mean, std = (tuple(given[key]) if isinstance(given[key], list) else given[key] for key in ("mean", "std"))
    try:
        return Preprocessing(
            size=size, mean=mean, std=std, filter=given["filter"], antialias=bool(given.get("antialias", True)),
            whole=task == "segmentation", multiple=_MULTIPLE,
        )
    except ValueError as error:
        raise GuideFileError(
            f"{source.name}: {error}. size is a number or [height, width] or null, mean and std are three numbers "
            f"each, filter is {' or '.join(get_args(Filter))}."
        ) from None


def _trained_size(source: GuideSource) -> int | None:
    """The only size that a ViT takes, from its position embeddings: one for every patch, and one for the class."""
    positions, patch = (source.shapes.get(key) for key in ("encoder.pos_embedding", "conv_proj.weight"))
    if positions is None or patch is None or len(positions) != 3:
        return None
    return math.isqrt(max(positions[1] - 1, 0)) * patch[-1]


def _noise(source: GuideSource) -> tuple[Sees, NoiseSchedule | None]:
    sees, schedule = source.metadata.get("sees", "clean"), source.metadata.get("schedule")
    if sees not in ("clean", "noisy"):
        raise GuideFileError(
            f"{source.name}: its metadata say sees {quoted(sees)}; a torchvision network sees clean or noisy pictures, "
            f"and takes no timestep."
        )
    if schedule is not None and schedule not in NAMES:
        raise GuideFileError(
            f"{source.name}: its metadata name the schedule {quoted(schedule)}; there are {', '.join(NAMES)}."
        )
    return ("noisy" if sees == "noisy" else "clean"), None if schedule is None else noise_schedule(schedule)


def _labels(source: GuideSource, classes: int) -> tuple[str, ...]:
    labels = _json(source, "labels", list, [str(index) for index in range(classes)])
    if len(labels) != classes:
        raise GuideFileError(
            f"{source.name}: its metadata list {len(labels)} labels, and the network has {classes} classes."
        )
    if not all(isinstance(label, str) for label in labels):
        raise GuideFileError(f"{source.name}: labels in its metadata must be a JSON list of names.")
    return tuple(labels)


def _json(source: GuideSource, key: str, kind: type[Kind], otherwise: Kind) -> Kind:
    if key not in source.metadata:
        return otherwise
    try:
        return parse_json(source.metadata[key], kind)
    except ValueError as error:
        raise GuideFileError(f"{source.name}: {key} in its metadata {error}.") from None
