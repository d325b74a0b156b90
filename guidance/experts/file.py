"""The file of an expert bank: one safetensors file with the experts' adapters and a strict, versioned header.

The header's strings: "format"; "bank", a JSON object of what is needed to use it (the fields of `BankHeader`);
"training", a JSON object of how it was made (recipe and loss); and, where it was made in ComfyUI, "workflow" and
"prompt", which the page opens when the file is dropped on it.
The tensors are those of `bank.adapter_tensors`.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Generator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from ..checkpoints.atomic import atomic_save
from ..checkpoints.snapshot import read_snapshot
from ..checkpoints.weights import file_problem, shapes_of, trained_problem
from ..checkpoints.words import shown
from ..guide import LONGEST_LABEL
from ..networks.tiny.files import NetworkFileError, json_object
from ..preprocessing import Preprocessing
from .bank import Adapter, adapter_tensors, adapters_of

BANK = "guidance-components/expert-bank/1"
MOST_EXPERTS = 1000  # as many as the schedules have timesteps
WORKFLOW = ("workflow", "prompt")


@dataclass(frozen=True)
class BankHeader:
    """What a bank says of itself.

    Attributes:
        base, base_sha256: the network that the experts are changes of, as Load Guide names it, and its fingerprint.
        task, labels: as of the base (`guide.GuideSpec`).
        schedule: the named noise schedule that the experts were trained on.
        edges: between the experts, as SNR, from clean to noisy: falling, one fewer than experts.
        scale: of every low-rank change.
        preprocessing: from a noisy picture to the network's input.
        latents, head: of experts that look at latents, the latent format and the arguments of their `LatentHead`; the
            base is then the clean network that taught them, and need not be there.
    """

    base: str
    base_sha256: str
    task: str
    schedule: str
    edges: tuple[float, ...]
    scale: float
    labels: tuple[str, ...] = ()
    preprocessing: Preprocessing = field(default_factory=Preprocessing)
    latents: str = ""
    head: Mapping[str, Any] | None = None

    def __post_init__(self) -> None:
        right = all(isinstance(edge, float) and 0 < edge < math.inf for edge in self.edges)
        if not right or list(self.edges) != sorted(set(self.edges), reverse=True) or len(self.edges) >= MOST_EXPERTS:
            raise ValueError(f"its edges (SNR) must fall from clean to noisy, above 0, fewer than {MOST_EXPERTS}")
        words = (self.base, self.base_sha256, self.task, self.schedule, self.latents, *self.labels)
        right = all(isinstance(word, str) and len(word) <= LONGEST_LABEL for word in words)
        if not right or not isinstance(self.scale, float) or not math.isfinite(self.scale):
            raise ValueError("base, base_sha256, task, schedule, latents and labels must be words, scale a number")
        if bool(self.latents) != isinstance(self.head, dict) or not isinstance(self.head, dict | None):
            raise ValueError("it must have latents and a head, or neither")

    @property
    def count(self) -> int:
        return len(self.edges) + 1

    @property
    def sigmas(self) -> tuple[float, ...]:
        """The edges as VE sigmas, rising."""
        return tuple(edge**-0.5 for edge in self.edges)


@dataclass(frozen=True)
class BankFile:
    """What a file holds. `training` and `workflow` are for people and for reproduction; nothing depends on them."""

    name: str
    header: BankHeader
    adapters: tuple[Adapter, ...]
    training: Mapping[str, Any] = field(default_factory=dict)
    workflow: Mapping[str, str] = field(default_factory=dict)


def is_bank(format: str | None) -> bool:
    """Whether the format that a safetensors header names is a bank's, of whatever version."""
    return (format or "").rpartition("/")[0] == BANK.rpartition("/")[0]


def write_bank(path: str | Path, bank: BankFile, overwrite: bool = True) -> None:
    """Write a bank, replacing the file only once the new one is whole, or only where there is none.

    Raises:
        ValueError: the number of adapters is not the header's.
        FileExistsError: there is a file, and it is not to be overwritten.
        OSError: it cannot be written (a full disk, no permission); what was there before is untouched.
    """
    if len(bank.adapters) != bank.header.count:
        raise ValueError(f"{bank.name} has {len(bank.adapters)} experts and edges for {bank.header.count}.")
    header = {"format": BANK, "bank": _json(asdict(bank.header)), "training": _json(dict(bank.training))}
    header |= {key: bank.workflow[key] for key in WORKFLOW if key in bank.workflow}
    tensors = adapter_tensors(bank.adapters)
    atomic_save(path, {key: t.detach().cpu().contiguous() for key, t in tensors.items()}, header, overwrite)


def read_bank(path: str | Path) -> BankFile:
    """Read a bank; its tensors are copies, so that the file may be overwritten.

    Raises:
        FileNotFoundError: there is no such file.
        NetworkFileError: not a bank, another version, or a header or tensors that cannot be right, in words.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"there is no file {path}.")
    with _in_words(path):
        found, tensors = read_snapshot(path)
    metadata = _metadata(path.name, found)
    header = _header(path.name, metadata)
    if problem := file_problem(shapes_of(tensors)):
        raise NetworkFileError(f"{path.name} is no bank: {problem}. Get the file again.")
    adapters = _adapters(path.name, tensors, header)
    workflow = {key: metadata[key] for key in WORKFLOW if key in metadata}
    return BankFile(path.stem, header, adapters, json_object(path.name, metadata, "training"), workflow)


def read_header(path: str | Path) -> BankHeader:
    """What a bank says of itself, without its tensors. Raises NetworkFileError as `read_bank` does."""
    path = Path(path)
    with _in_words(path), safe_open(path, framework="pt") as file:
        found = file.metadata()
    return _header(path.name, _metadata(path.name, found or {}))


def map_tensors(path: str | Path, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The same tensors as views of a file that is written for it: they occupy memory only while they are read.

    Where the system allows it the file has no name any more when this returns: nobody can write over what is in use,
    and its room is free as soon as the last view is. Where it does not, a file that is there already is used again.

    Args:
        path: named by this process and by `contents_sha256`.
    """
    path = Path(path)
    if not path.exists():
        atomic_save(path, {key: tensor.cpu().contiguous() for key, tensor in tensors.items()}, {})
    try:
        with safe_open(path, framework="pt") as file:
            return {key: file.get_tensor(key) for key in tensors}
    finally:
        with suppress(PermissionError):  # Windows keeps the name of a file that is in use
            path.unlink()


def contents_sha256(tensors: Mapping[str, Tensor]) -> str:
    """Of names, dtypes, shapes and numbers, in hexadecimal, whatever their order and device."""
    digest = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


@contextmanager
def _in_words(path: Path) -> Generator[None]:
    try:
        yield
    except SafetensorError as error:
        words = shown(str(error), 120)
        raise NetworkFileError(f"{path.name} is damaged or was not copied whole ({words}); get it again.") from None


def _metadata(name: str, metadata: dict[str, str]) -> dict[str, str]:
    """The header's strings, of a version that can be read."""
    found = metadata.get("format", "")
    if not is_bank(found):
        raise NetworkFileError(f"{name} is no expert bank; Train Experts writes them (format {BANK}).")
    if found != BANK:
        raise NetworkFileError(
            f"{name} has format {shown(found)}, this version of the pack reads version {BANK.rpartition('/')[2]}; "
            f"update the pack or train the bank again."
        )
    return metadata


def _header(name: str, metadata: Mapping[str, str]) -> BankHeader:
    given: dict[str, Any] = json_object(name, metadata, "bank")
    try:
        lists = given["preprocessing"].items()
        prepared: dict[str, Any] = {key: tuple(value) if isinstance(value, list) else value for key, value in lists}
        given |= {"edges": tuple(given["edges"]), "labels": tuple(given["labels"])}
        given["preprocessing"] = Preprocessing(**prepared)
        return BankHeader(**given)
    except (TypeError, ValueError, KeyError, AttributeError) as error:  # fields missing, unknown or of another kind
        words = shown(str(error), 200)
        raise NetworkFileError(f"{name}: its header cannot be right ({words}); get the file again.") from None


def _adapters(name: str, tensors: Mapping[str, Tensor], header: BankHeader) -> tuple[Adapter, ...]:
    for key, tensor in tensors.items():
        if problem := trained_problem(key, tensor):
            raise NetworkFileError(f"{name}: its tensor {shown(key)} {problem}; train the bank again.")
    try:
        adapters = tuple(adapters_of(tensors, header.count, header.scale))
    except KeyError as error:
        raise NetworkFileError(f"{name}: its {shown(error.args[0], 200)}; get the file again.") from None
    empty = [index for index, adapter in enumerate(adapters) if not adapter.names()]
    unknown = tensors.keys() - adapter_tensors(adapters).keys()
    if empty or unknown:
        what = f"has nothing of expert {empty[0]}" if empty else f"has the unknown tensor {shown(min(unknown))}"
        raise NetworkFileError(f"{name} {what}, with edges for {header.count} experts; get the file again.")
    return adapters


def _json(value: Mapping[str, Any]) -> str:
    return json.dumps(value, sort_keys=True, allow_nan=False)
