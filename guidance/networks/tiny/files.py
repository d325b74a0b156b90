"""Reading and writing the pack's own network files: safetensors with a strict, versioned JSON header.

The header of a file holds three strings: "format", one of the formats below; "config", the JSON object that the
network's class is built with; and "metadata", a JSON object of facts about the training, listed in REQUIRED.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from ...checkpoints.atomic import atomic_save
from ...checkpoints.snapshot import read_snapshot
from .guide import TinyGuide
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
) -> None:
    """Write a network in `dtype`, replacing the file only once the new one is complete.

    Raises:
        NetworkFileError: an unknown format, or metadata that lacks a required fact.
        OSError: it cannot be written.
    """
    _check_facts(Path(path).name, file_format, metadata)
    header = {"format": file_format, "config": json.dumps(dict(config)), "metadata": json.dumps(dict(metadata))}
    stored = {
        # Counters, such as BatchNorm's, are whole numbers and stay so.
        name: tensor.detach().to("cpu", dtype if tensor.is_floating_point() else tensor.dtype).contiguous()
        for name, tensor in tensors.items()
    }
    atomic_save(path, stored, header)


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
        raise NetworkFileError(f"{name} is not a readable safetensors file ({error}); get it again.") from error
    _check_format(name, header.get("format"), file_format)
    config, metadata = _json_object(name, header, "config"), _json_object(name, header, "metadata")
    _check_facts(name, file_format, metadata)
    return NetworkFile(name, file_format, config, metadata, tensors)


def format_of(path: str | Path) -> str | None:
    """The format that a file's header names, None where it names none. Reads the header alone."""
    try:
        with safe_open(path, framework="pt") as file:
            return (file.metadata() or {}).get("format")
    except SafetensorError:
        return None


def build(file: NetworkFile, operations: Any = nn, device: Any = None, dtype: torch.dtype = torch.float32) -> Any:
    """The file's network of `operations` and filled, in evaluation mode: a TinyUNet, a TinyGuide, or what was declared.

    Raises:
        NetworkFileError: its tensors are not the ones its config asks for.
    """
    try:
        network = _CLASSES[file.format](operations=operations, device=device, dtype=dtype, **file.config)
    except (TypeError, ValueError) as error:
        raise NetworkFileError(f"{file.name} has a config that this version cannot build ({error}).") from error
    check_tensors(file.name, network, file.tensors)
    network.load_state_dict(file.tensors)
    return network.eval().requires_grad_(False)


def check_tensors(name: str, network: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Raises NetworkFileError unless names and shapes are exactly those of the network's own tensors."""
    own = {key: tuple(value.shape) for key, value in network.state_dict().items()}
    found = {key: tuple(value.shape) for key, value in tensors.items()}
    problems = [f"lacks {key}" for key in own.keys() - found.keys()]
    problems += [f"has the unknown {key}" for key in found.keys() - own.keys()]
    problems += [
        f"has {key} of shape {list(found[key])} where the config asks for {list(own[key])}"
        for key in own.keys() & found.keys()
        if own[key] != found[key]
    ]
    if problems:
        more = f" (and {len(problems) - 3} more)" if len(problems) > 3 else ""
        raise NetworkFileError(f"{name} does not fit its own config: it {', it '.join(sorted(problems)[:3])}{more}.")


def _check_format(name: str, found: str | None, wanted: str) -> None:
    if found == wanted:
        return
    kind, version = wanted.rsplit("/", 1)
    if found is None or not found.startswith("guidance-components/"):
        raise NetworkFileError(f"{name} is not one of this pack's networks; it needs a file of format {wanted}.")
    if found.rsplit("/", 1)[0] == kind:
        raise NetworkFileError(
            f"{name} has format {found}, this version of the pack reads version {version}; update the pack or the file."
        )
    raise NetworkFileError(f"{name} has format {found}; what is needed here is {wanted}. Choose another file.")


def _check_facts(name: str, file_format: str, metadata: Mapping[str, Any]) -> None:
    if file_format not in REQUIRED:
        raise NetworkFileError(f"{name}: unknown format {file_format}; known are {', '.join(REQUIRED)}.")
    missing = [fact for fact in REQUIRED[file_format] if fact not in metadata]
    if missing:
        raise NetworkFileError(f"{name}: its metadata lacks {', '.join(missing)}.")


def _json_object(name: str, header: Mapping[str, str], key: str) -> dict[str, Any]:
    try:
        value = json.loads(header[key])
    except (KeyError, json.JSONDecodeError) as error:
        raise NetworkFileError(f"{name} has no readable {key} in its header; get the file again.") from error
    if not isinstance(value, dict):
        raise NetworkFileError(f"{name} has a {key} that is no JSON object; get the file again.")
    return value
