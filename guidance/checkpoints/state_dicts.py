"""Checkpoints of the papers' networks as they are published: safetensors, torch files, EDM2's snapshots.

What a file is, its bytes say, not its name's ending. Torch files are read as plain tensors only (torch's weights-only
reader, which refuses everything else); EDM2's snapshots as data (`edm2_pickle`). Nothing that a file carries is run.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
import struct
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from pickle import UnpicklingError  # only its name: it is what torch's weights-only reader raises
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from .atomic import atomic_save
from .edm2_pickle import read_edm2_pickle
from .inert_pickle import CheckpointError as CheckpointError
from .json_text import parse_json
from .weights import file_problem, number_problem, shapes_of, unwrapped
from .words import listed, shown, shown_shape

CONVERTED = "guidance-components/checkpoint/1"  # the "format" in the header of what `convert` writes
SUFFIXES = (".safetensors", ".pt", ".pth", ".ckpt", ".pkl")
_EXPECTED = f"expected is a network's weights as {', '.join(SUFFIXES[:-1])} or an EDM2 snapshot ({SUFFIXES[-1]})"
_DTYPES = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16,
           "F8_E4M3": torch.float8_e4m3fn, "F8_E5M2": torch.float8_e5m2}  # fmt: skip
_TORCH_BEFORE_1_6 = b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19."
# What torch's reader raises for bytes that are damaged or no torch file, depending on where it meets them: its own
# messages (RuntimeError), the zip's and the pickle's structure (the others). The bytes are all that can be wrong here.
_OF_TORCH = (
    RuntimeError, OSError, EOFError, ValueError, LookupError, AttributeError, TypeError, AssertionError, OverflowError,
    struct.error,
)
_SHARED = 4  # as many times its own size a file's tensors may have in all, since layers may share a weight
_LORA = re.compile(r"\.(lora_(up|down|A|B|mid)\b.*|lokr_.*|hada_.*|alpha|dora_scale|diff(_b)?)$")


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint that was opened. The weights of a safetensors file or snapshot are read when they are asked for.

    Attributes:
        name: the file's name, for messages.
        source: "safetensors", "torch" or "EDM2 snapshot".
        shapes: of every tensor, by name.
        dtype: the floating dtype that most numbers are stored in.
        metadata: the strings in a safetensors file's header; for a snapshot "class_name" and "config", the JSON object
            that the network was built with.
    """

    path: Path
    name: str
    source: str
    shapes: dict[str, tuple[int, ...]] = field(repr=False)
    dtype: torch.dtype
    metadata: dict[str, str]
    read: Callable[[], dict[str, Tensor]] = field(repr=False)

    def tensors(self) -> dict[str, Tensor]:
        """Every tensor on the CPU, in the dtype that it is stored in."""
        return self.read()

    def weights(self, own: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The tensors, once their numbers are known to be weights.

        Args:
            own: the network's, of the same names; they may lie on the meta device.

        Raises:
            CheckpointError: numbers that are no weights (NaN, whole numbers, complex ones), in words.
        """
        tensors = self.read()
        if problem := number_problem(tensors, own):
            raise CheckpointError(f"{self.name} is no usable network: {problem}. Get it again, or choose another file.")
        return tensors

    @property
    def config(self) -> dict[str, Any]:
        """The JSON object in the metadata's "config"; empty where there is none. Raises CheckpointError for no such."""
        try:
            return parse_json(self.metadata.get("config", "{}"), dict)
        except ValueError as error:
            raise CheckpointError(f"{self.name} has a config in its header that {error}; get it again.") from None


def open_checkpoint(path: str | Path) -> Checkpoint:
    """Open a checkpoint, whatever its kind.

    Raises:
        CheckpointError: nothing there, a folder, a web page or another file that is no checkpoint, one that was not
            copied whole, a pickle that wants to run code, no tensors, or a LoRA; each in one sentence.
    """
    path = Path(path)
    start = _start(path)
    if start.startswith(b"PK\x03\x04") or start.startswith(_TORCH_BEFORE_1_6):
        opened = _open_torch(path, mapped=start.startswith(b"PK"))
    elif start[:1] == b"\x80" and path.suffix.lower() != ".safetensors":
        opened = _open_snapshot(path)
    elif start[8:9] == b"{":
        opened = _open_safetensors(path)
    else:
        raise CheckpointError(f"{path.name} is {_what(start)}; {_EXPECTED}.")
    if not opened.shapes:
        raise CheckpointError(f"{path.name} holds no tensors; {_EXPECTED}.")
    if problem := file_problem(opened.shapes):
        raise CheckpointError(f"{path.name} is no network: {problem}; {_EXPECTED}.")
    if all(_LORA.search(name) for name in opened.shapes):
        raise CheckpointError(
            f"{path.name} is a LoRA, a change to a network's weights; load the network here, it with Load LoRA."
        )
    return replace(opened, shapes=unwrapped(opened.shapes), read=lambda: unwrapped(opened.read()))


def sha256_of(path: str | Path) -> str:
    """The SHA-256 of a file, in hexadecimal."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(2**20):
            digest.update(block)
    return digest.hexdigest()


def convert(checkpoint: Checkpoint, path: str | Path) -> None:
    """Write a checkpoint as safetensors, with `converted_metadata` as its header."""
    write_tensors(path, checkpoint.tensors(), converted_metadata(checkpoint))


def converted_metadata(checkpoint: Checkpoint) -> dict[str, str]:
    """The header of a checkpoint as safetensors: it names the source, its SHA-256 and the network's config."""
    return checkpoint.metadata | {
        "format": CONVERTED,
        "source": checkpoint.name,
        "source_sha256": sha256_of(checkpoint.path),
        "config": json.dumps(checkpoint.config),
    }


def write_tensors(
    path: str | Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str], overwrite: bool = True
) -> None:
    """Write tensors as they are, replacing the file only once the new one is complete. Raises OSError."""
    kept = {name: tensor.detach().clone().contiguous() for name, tensor in tensors.items()}
    atomic_save(path, kept, metadata, overwrite)


def _start(path: Path) -> bytes:
    if path.is_dir():
        raise CheckpointError(f"{path.name} is a folder; {_EXPECTED}.")
    if not path.is_file():
        raise CheckpointError(f"There is no file {path}; {_EXPECTED}.")
    if path.suffix.lower() not in SUFFIXES:
        raise CheckpointError(f"{path.name} ends in {path.suffix or 'nothing'}; {_EXPECTED}.")
    with open(path, "rb") as file:
        return file.read(64)


def _what(start: bytes) -> str:
    words = start.lstrip().lower()
    if not start:
        return "empty, so its download failed"
    if words.startswith((b"<!doctype", b"<html", b"<?xml", b"<head")):
        return "a web page, so what was downloaded is a login or error page and not the file"
    if words.startswith(b"version https://git-lfs"):
        return "a Git LFS pointer, which only names the file; download the file itself"
    return "no checkpoint or was not copied whole"


def _open_safetensors(path: Path) -> Checkpoint:
    try:
        with safe_open(path, framework="pt") as file:
            slices = {key: file.get_slice(key) for key in file.keys()}  # noqa: SIM118 - not a dict
            shapes = {key: tuple(part.get_shape()) for key, part in slices.items()}
            dtype = _main_dtype({key: _DTYPES.get(part.get_dtype()) for key, part in slices.items()}, shapes)
            metadata = dict(file.metadata() or {})
    except SafetensorError as error:
        raise CheckpointError(
            f"{path.name} is damaged or was not copied whole ({shown(str(error), 120)}); download it again."
        ) from None
    return Checkpoint(path, path.name, "safetensors", shapes, dtype, metadata, lambda: _read_safetensors(path))


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    with safe_open(path, framework="pt") as file:
        return {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 - not a dict


def _open_snapshot(path: Path) -> Checkpoint:
    found = read_edm2_pickle(path)
    shapes = {name: place.shape for name, place in found.places.items()}
    dtype = _main_dtype({name: place.dtype for name, place in found.places.items()}, shapes)
    metadata = {"class_name": found.class_name, "config": json.dumps(found.settings)}
    return Checkpoint(path, path.name, "EDM2 snapshot", shapes, dtype, metadata, found.tensors)


def _open_torch(path: Path, mapped: bool) -> Checkpoint:
    try:
        loaded = torch.load(path, map_location="cpu", weights_only=True, mmap=mapped)
    except UnpicklingError as error:
        asked = re.search(r"GLOBAL ([\w.]+)", str(error))
        what = shown(asked[1]) if asked else "code or classes"
        raise CheckpointError(
            f"{path.name} is a pickle that wants more than tensors ({what}), and could run any code, so it was not "
            f"opened; {_EXPECTED}."
        ) from error
    except _OF_TORCH as error:
        if "TorchScript" in str(error):
            raise CheckpointError(f"{path.name} is a TorchScript program; {_EXPECTED}.") from None
        raise CheckpointError(
            f"{path.name} is no torch file or was not copied whole ({shown(str(error), 120)}); download it again."
        ) from None
    tensors = _plain(path.name, loaded)
    _check_storage(path, tensors)
    shapes = shapes_of(tensors)
    dtypes = {name: tensor.dtype if tensor.is_floating_point() else None for name, tensor in tensors.items()}
    return Checkpoint(path, path.name, "torch", shapes, _main_dtype(dtypes, shapes), {}, lambda: dict(tensors))


def _plain(name: str, loaded: Any) -> dict[str, Tensor]:
    """The state dict in what a torch file holds."""
    if isinstance(loaded, dict) and isinstance(loaded.get("state_dict"), dict):
        loaded = loaded["state_dict"]
    if not isinstance(loaded, dict):
        raise CheckpointError(f"{name} holds a {type(loaded).__name__}, not a dict of tensors; {_EXPECTED}.")
    other = [shown(key) for key, value in loaded.items() if not (isinstance(key, str) and isinstance(value, Tensor))]
    if other:
        raise CheckpointError(
            f"{name} holds more than tensors ({listed(other)}), as a training state does; {_EXPECTED}."
        )
    return loaded


def _check_storage(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Raise CheckpointError for a tensor without numbers of its own: sparse, nowhere, or one number repeated."""
    total = 0
    for name, tensor in tensors.items():
        if tensor.layout != torch.strided or tensor.is_quantized or tensor.is_meta:
            raise CheckpointError(f"{path.name}: its tensor {shown(name)} is sparse, quantised or empty; {_EXPECTED}.")
        size = tensor.numel() * tensor.element_size()
        total += size
        if size > tensor.untyped_storage().nbytes() or total > _SHARED * path.stat().st_size:
            raise CheckpointError(
                f"{path.name}: its tensor {shown(name)} of shape {shown_shape(tuple(tensor.shape))} repeats numbers; "
                f"weights have all of their own. {_EXPECTED}."
            )


def _main_dtype(dtypes: Mapping[str, torch.dtype | None], shapes: Mapping[str, tuple[int, ...]]) -> torch.dtype:
    numbers: Counter[torch.dtype] = Counter()
    for name, dtype in dtypes.items():
        if dtype is not None:
            numbers[dtype] += max(math.prod(shapes[name]), 1)
    return numbers.most_common(1)[0][0] if numbers else torch.float32
