"""Reading and writing the pack's own network files: safetensors with a strict, versioned JSON header.

The header of a file holds three strings: "format", one of the formats below; "config", the JSON object that the
network's class is built with; and "metadata", a JSON object of facts about the training, listed in REQUIRED.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from ...checkpoints.atomic import atomic_save
from ...checkpoints.json_text import parse_json
from ...checkpoints.snapshot import read_snapshot
from ...checkpoints.weights import misfit, number_problem, shapes_of
from ...checkpoints.words import shown
from .guide import TinyGuide
from .preconditioning import Prediction
from .unet import TinyUNet

DENOISER = "guidance-components/tiny-denoiser/1"
GUIDE = "guidance-components/tiny-guide/1"
COMMON = ("recipe", "labels", "data_seed", "training_seed", "steps", "batch", "pictures_seen", "parameters")
REQUIRED: dict[str, tuple[str, ...]] = {
    DENOISER: (*COMMON, "prediction", "sigma_data"),
    GUIDE: (*COMMON, "task", "sees", "schedule"),
}
_CLASSES: dict[str, type[nn.Module]] = {DENOISER: TinyUNet, GUIDE: TinyGuide}


class NetworkFileError(ValueError):
    """A file that cannot be used as the network that was asked for; the message says what it is and what to do."""


def declare(file_format: str, network: type[nn.Module], facts: tuple[str, ...]) -> None:
    """Make one more kind of network readable and writable; `facts` are what its metadata must hold."""
    REQUIRED[file_format] = facts
    _CLASSES[file_format] = network


@dataclass(frozen=True)
class NetworkFile:
    """What a file holds.

    Attributes:
        name: the file's name, for messages.
        format: DENOISER, GUIDE, or one that was declared.
        config: what the network's class is built with.
        metadata: facts about the training, at least those in REQUIRED[format].
        tensors: the state dict, in the dtype it is stored in.
    """

    name: str
    format: str
    config: dict[str, Any]
    metadata: dict[str, Any]
    tensors: dict[str, Tensor]

    @property
    def labels(self) -> tuple[str, ...]:
        """The classes' names, by index."""
        return tuple(self.metadata["labels"])

    @property
    def attributes(self) -> tuple[tuple[str, ...], ...]:
        """The words of each further part of a denoiser's condition, by index; most have none."""
        return tuple(map(tuple, self.metadata.get("attributes", ())))

    @property
    def prediction(self) -> str:
        """A denoiser's prediction family, "edm" or "flow"."""
        return self.metadata["prediction"]

    @property
    def sigma_data(self) -> float:
        """The standard deviation that a denoiser's preconditioning takes the data to have."""
        return float(self.metadata["sigma_data"])


def write_network(
    path: str | Path,
    file_format: str,
    config: Mapping[str, Any],
    metadata: Mapping[str, Any],
    tensors: Mapping[str, Tensor],
    dtype: torch.dtype = torch.float16,
    *,
    workflow: Mapping[str, str] | None = None,
    overwrite: bool = True,
) -> None:
    """Write a network in `dtype`, replacing the file only once the new one is complete.

    Args:
        workflow: the strings "workflow" and "prompt" of ComfyUI, where it was made there.

    Raises:
        NetworkFileError: an unknown format, or metadata that lacks a required fact.
        FileExistsError: there is a file, and it is not to be overwritten.
        OSError: it cannot be written.
    """
    _check_facts(Path(path).name, file_format, metadata)
    header = {"format": file_format, "config": json.dumps(dict(config)), "metadata": json.dumps(dict(metadata))}
    header |= workflow or {}
    stored = {
        # Counters, such as BatchNorm's, are whole numbers and stay so.
        name: tensor.detach().to("cpu", dtype if tensor.is_floating_point() else tensor.dtype).contiguous()
        for name, tensor in tensors.items()
    }
    atomic_save(path, stored, header, overwrite)


def read_denoiser(path: str | Path) -> NetworkFile:
    """A denoiser's file. Raises as `read_network` does."""
    return read_network(path, DENOISER)


def read_guide(path: str | Path) -> NetworkFile:
    """A guide's file. Raises as `read_network` does."""
    return read_network(path, GUIDE)


def read_network(path: str | Path, file_format: str) -> NetworkFile:
    """Read a file of the given format, tensors in the dtype they are stored in.

    Raises:
        FileNotFoundError: there is no such file.
        NetworkFileError: not safetensors, not ours, another kind or version, or an incomplete header.
    """
    name = Path(path).name
    if not Path(path).is_file():
        raise FileNotFoundError(f"there is no file {path}; check the name, or install the pack again.")
    try:
        header, tensors = read_snapshot(path)
    except SafetensorError as error:
        words = shown(str(error), 120)
        raise NetworkFileError(f"{name} is not a readable safetensors file ({words}); get it again.") from None
    _check_format(name, header.get("format"), file_format)
    config, metadata = json_object(name, header, "config"), json_object(name, header, "metadata")
    _check_facts(name, file_format, metadata)
    return NetworkFile(name, file_format, config, metadata, tensors)


def format_of(path: str | Path) -> str | None:
    """The format that a file's header names, None where it names none. Reads the header alone."""
    try:
        with safe_open(path, framework="pt") as file:
            return (file.metadata() or {}).get("format")
    except SafetensorError:
        return None


def facts_of(path: str | Path) -> dict[str, Any]:
    """The metadata of one of our own files. Reads the header alone; raises NetworkFileError where it has none."""
    with safe_open(path, framework="pt") as file:
        return json_object(Path(path).name, file.metadata() or {}, "metadata")


def build(file: NetworkFile, operations: Any = nn, device: Any = None, dtype: torch.dtype = torch.float32) -> Any:
    """The file's network of `operations` and filled, in evaluation mode: a TinyUNet, a TinyGuide, or what was declared.

    Raises:
        NetworkFileError: its tensors are not the ones its config asks for.
    """
    check(file)
    network = _CLASSES[file.format](operations=operations, device=device, dtype=dtype, **file.config)
    network.load_state_dict(file.tensors)
    return network.eval().requires_grad_(False)


def check(file: NetworkFile) -> None:
    """Raises NetworkFileError unless the file's tensors are weights of what its config describes; nothing is built."""
    try:
        empty = _CLASSES[file.format](device="meta", **file.config)
    except (TypeError, ValueError) as error:
        raise NetworkFileError(
            f"{file.name} has a config that this version cannot build ({shown(str(error), 200)})."
        ) from None
    check_tensors(file.name, empty, file.tensors)


def check_tensors(name: str, network: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Raises NetworkFileError unless names, shapes and kinds of number are exactly those of the network's own tensors.

    network: may lie on the meta device.
    """
    own = network.state_dict()
    problem = misfit(shapes_of(own), shapes_of(tensors)) or number_problem(tensors, own)
    if problem:
        raise NetworkFileError(f"{name} does not fit its own config: {problem}.")


def _check_format(name: str, found: str | None, wanted: str) -> None:
    if found == wanted:
        return
    kind, version = wanted.rsplit("/", 1)
    if found is None or not found.startswith("guidance-components/"):
        raise NetworkFileError(f"{name} is not one of this pack's networks; it needs a file of format {wanted}.")
    if found.rsplit("/", 1)[0] == kind:
        raise NetworkFileError(
            f"{name} has format {shown(found)}, this version of the pack reads version {version}; update the pack or "
            f"the file."
        )
    raise NetworkFileError(f"{name} has format {shown(found)}; what is needed here is {wanted}. Choose another file.")


def _check_facts(name: str, file_format: str, metadata: Mapping[str, Any]) -> None:
    if file_format not in REQUIRED:
        raise NetworkFileError(f"{name}: unknown format {file_format}; known are {', '.join(REQUIRED)}.")
    missing = [fact for fact in REQUIRED[file_format] if fact not in metadata]
    if missing:
        raise NetworkFileError(f"{name}: its metadata lacks {', '.join(missing)}.")
    if metadata.get("prediction", "edm") not in get_args(Prediction):
        known = ", ".join(get_args(Prediction))
        raise NetworkFileError(f"{name}: prediction in its metadata can be {known}; get the file again.")
    labels, sigma = metadata.get("labels", []), metadata.get("sigma_data", 1.0)
    if not isinstance(labels, list) or not all(isinstance(label, str) for label in labels):
        raise NetworkFileError(f"{name}: labels in its metadata must be a list of names; get the file again.")
    if type(sigma) not in (int, float) or not 0 < sigma < math.inf:
        raise NetworkFileError(f"{name}: sigma_data in its metadata must be a number above 0; get the file again.")


def json_object(name: str, header: Mapping[str, str], key: str) -> dict[str, Any]:
    """A JSON object among a header's strings. Raises NetworkFileError, in words, for none or no such."""
    try:
        return parse_json(header[key], dict)
    except KeyError:
        raise NetworkFileError(f"{name} has no readable {key} in its header; get the file again.") from None
    except ValueError as error:
        raise NetworkFileError(f"{name}: the {key} in its header {error}; get the file again.") from None
