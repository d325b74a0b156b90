"""NVIDIA's EDM2 snapshots (.pkl): the weights and the settings of the network, without running the code they carry.

Such a file holds Python source that NVIDIA's own loader executes. Here the file is read as data (`inert_pickle`): the
source is never looked at, an object is only a record of its class's name and its state, and weights are found as places
in the file. Structure: a dict with `ema`, a persistent object of class Precond, whose state holds `_parameters`,
`_buffers` and `_modules` as every torch module does, and `_init_kwargs`, what it was built with.

Source: the layout of Karras et al. 2024 (EDM2), as its training code writes it; torch's storage format before 1.6,
which torch still writes inside a pickle.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from io import BufferedReader
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor

from .inert_pickle import PERSISTENT, Blob, CheckpointError, Global, Machine, PickleRecord, PickleSource
from .weights import shape_problem
from .words import shown_shape

STORAGE, TENSOR, PARAMETER = (
    "torch.storage._load_from_bytes", "torch._utils._rebuild_tensor_v2", "torch._utils._rebuild_parameter"
)  # fmt: skip
PERSISTENT_OBJECT = "torch_utils.persistence._reconstruct_persistent_obj"
# What the latents' statistics are made of, in a part of the file that is not looked at.
_NUMPY = (
    "numpy.core.multiarray._reconstruct", "numpy._core.multiarray._reconstruct", "numpy.core.numeric._frombuffer",
    "numpy._core.numeric._frombuffer", "numpy.ndarray", "numpy.dtype",
)  # fmt: skip
_CONTAINERS = (
    "dnnlib.util.EasyDict", "collections.OrderedDict", "torch.nn.modules.container.ModuleDict",
    "torch.nn.modules.container.Sequential", "builtins.set",
)  # fmt: skip
ALLOWED = frozenset({STORAGE, TENSOR, PARAMETER, PERSISTENT_OBJECT, *_CONTAINERS, *_NUMPY})
_DTYPES = {
    "torch.DoubleStorage": torch.float64, "torch.FloatStorage": torch.float32, "torch.HalfStorage": torch.float16,
    "torch.BFloat16Storage": torch.bfloat16,
}  # fmt: skip
_TORCH_MAGIC = 0x1950A86A20F9469CFC6C
MAX_BYTES = 16 * 2**30  # the largest released file has 3 GB
MAX_PARTS = 4096  # modules, and settings; a released network has some hundreds
MAX_DEPTH = 16  # of modules inside modules, and of settings inside settings
MAX_WORD = 1024  # characters of a name or of a setting


@dataclass(frozen=True)
class Place:
    """Where a tensor's numbers lie: `start`, in bytes from the start of the file."""

    start: int
    dtype: torch.dtype
    shape: tuple[int, ...]


@dataclass(frozen=True)
class EDM2Pickle:
    """What a snapshot holds.

    Attributes:
        class_name: of the network; "Precond" for EDM2.
        settings: what the network was built with: plain numbers, texts, lists and dicts.
        places: of every tensor, by the name it has in a state dict, in a state dict's order.
    """

    path: Path
    class_name: str
    settings: dict[str, Any]
    places: dict[str, Place] = field(repr=False)

    def tensors(self) -> dict[str, Tensor]:
        """Every tensor, in the dtype that it is stored in, on the CPU."""
        with open(self.path, "rb") as file:
            return {name: _read(file, place) for name, place in self.places.items()}


def read_edm2_pickle(path: str | Path) -> EDM2Pickle:
    """Find the network in an EDM2 snapshot. Nothing in the file is run, and no weight is read yet.

    Raises:
        CheckpointError: a file that asks for anything but an EDM2 snapshot's parts, is damaged, cut off, too large or
            too deep, or holds another network.
    """
    path = Path(path)
    size = path.stat().st_size
    if size > MAX_BYTES:
        raise CheckpointError(f"{path.name} has {size} bytes; an EDM2 snapshot has at most {MAX_BYTES}.")
    with open(path, "rb") as file:
        top = Machine(PickleSource(file, 0, size, path.name), ALLOWED).run()
        reader = _Reader(file, path.name)
        network = reader.entries(top, "the file").get("ema") if _is_mapping(top) else None
        if not isinstance(network, PickleRecord):
            raise CheckpointError(
                f"{path.name} is a pickle without a network under the name 'ema'; an EDM2 snapshot has one."
            )
        class_name, state = reader.module(network)
        places = dict(reader.walk("", network, 0))
        settings = reader.plain(state.get("_init_kwargs", {}), 0)
    if sum(math.prod(place.shape) * place.dtype.itemsize for place in places.values()) > size:
        raise reader.fail("its weights share their numbers, so that there are more of them than in the file")
    return EDM2Pickle(path, class_name, settings if isinstance(settings, dict) else {}, places)


class _Reader:
    """Walks the inert records of one file."""

    def __init__(self, file: BinaryIO, name: str) -> None:
        self.file, self.name = file, name
        self.modules = self.settings = 0
        self.storages: dict[Blob, tuple[int, int, torch.dtype]] = {}

    def fail(self, found: str) -> CheckpointError:
        return CheckpointError(f"{self.name} is not laid out as an EDM2 snapshot: {found}; download it again.")

    def entries(self, value: Any, what: str) -> Mapping[Any, Any]:
        """The entries of a dict or of a record of one."""
        if not _is_mapping(value):
            raise self.fail(f"{what} is not a dict")
        return value.items if isinstance(value, PickleRecord) else value

    def module(self, record: Any) -> tuple[str, Mapping[Any, Any]]:
        """Class name and state of a module's record."""
        if not isinstance(record, PickleRecord):
            raise self.fail("it has a module that is none")
        if str(record.of) == PERSISTENT_OBJECT:
            meta = self.entries(record.args[0] if record.args else None, "a persistent object")
            return self.word(meta.get("class_name")), self.entries(meta.get("state"), "a persistent object's state")
        return record.of.name, self.entries(record.state, f"the state of a {record.of.name}")

    def word(self, value: Any) -> str:
        """A name. Of anything else no text is made: that of lists that hold each other twice doubles at each level."""
        if not isinstance(value, str) or len(value) > MAX_WORD:
            raise self.fail(f"a name in it is no text of at most {MAX_WORD} characters")
        return value

    def walk(self, prefix: str, record: Any, depth: int) -> Iterator[tuple[str, Place]]:
        """Names and places of a module's tensors: its parameters, its buffers, then its modules'."""
        self.modules += 1
        if depth > MAX_DEPTH or self.modules > MAX_PARTS:
            raise self.fail(f"its modules are nested more than {MAX_DEPTH} deep or number more than {MAX_PARTS}")
        _, state = self.module(record)
        for kind in ("_parameters", "_buffers"):
            for name, value in self.entries(state.get(kind, {}), kind).items():
                if value is not None:
                    full = f"{prefix}{self.word(name)}"
                    yield full, self.tensor(full, value)
        for name, child in self.entries(state.get("_modules", {}), "_modules").items():
            if child is not None:
                yield from self.walk(f"{prefix}{self.word(name)}.", child, depth + 1)

    def tensor(self, name: str, value: Any) -> Place:
        """Where a tensor or parameter lies."""
        if isinstance(value, PickleRecord) and str(value.of) == PARAMETER and value.args:
            value = value.args[0]
        if not isinstance(value, PickleRecord) or str(value.of) != TENSOR or len(value.args) < 4:
            raise self.fail("a weight is not a tensor")
        storage, offset, shape, stride = value.args[:4]
        start, length, dtype = self.storage(storage)
        if not all(isinstance(part, tuple) and all(type(n) is int for n in part) for part in (shape, stride)):
            raise self.fail("a weight has no shape")
        if problem := shape_problem(name, shape):
            raise self.fail(problem)
        count = math.prod(shape)
        if type(offset) is not int or min(offset, *shape, 0) < 0 or offset + count > length:
            raise self.fail(f"a weight of shape {shown_shape(shape)} does not fit into its {length} stored numbers")
        if len(stride) != len(shape) or not _rows_first(shape, stride):
            raise self.fail(f"a weight of shape {shown_shape(shape)} is stored with the strides {shown_shape(stride)}")
        return Place(start + offset * dtype.itemsize, dtype, shape)

    def storage(self, record: Any) -> tuple[int, int, torch.dtype]:
        """Start in bytes, length in numbers and dtype of a storage, which is a torch file inside the pickle."""
        known = isinstance(record, PickleRecord) and str(record.of) == STORAGE
        blob = record.args[0] if known and record.args else None
        if not isinstance(blob, Blob):
            raise self.fail("a tensor has no storage")
        if blob not in self.storages:
            self.storages[blob] = self._opened(PickleSource(self.file, blob.start, blob.start + blob.size, self.name))
        return self.storages[blob]

    def _opened(self, source: PickleSource) -> tuple[int, int, torch.dtype]:
        parts = [Machine(source, _DTYPES).run() for _ in range(5)]  # magic, version, system, storage, keys
        system, storage = parts[2], parts[3]
        whole = isinstance(storage, PickleRecord) and storage.of == PERSISTENT and isinstance(storage.args[0], tuple)
        if parts[0] != _TORCH_MAGIC or not isinstance(system, dict) or not whole or len(storage.args[0]) < 5:
            raise self.fail("a tensor's storage is no torch storage")
        if system.get("little_endian") is not True:
            raise self.fail("its numbers are stored big end first")
        kind, length = storage.args[0][1], storage.args[0][4]
        dtype = _DTYPES.get(str(kind)) if isinstance(kind, Global) else None
        if dtype is None or type(length) is not int or source.number("<q") != length:
            raise self.fail("a tensor's storage contradicts itself")
        return source.skip(length * dtype.itemsize).start, length, dtype

    def plain(self, value: Any, depth: int) -> Any:
        """Settings as plain values; what is none of them (a class, a tensor) is left out as None."""
        self.settings += 1
        if depth > MAX_DEPTH or self.settings > MAX_PARTS:
            raise self.fail(f"its settings are nested more than {MAX_DEPTH} deep or number more than {MAX_PARTS}")
        if isinstance(value, str):
            return self.word(value)
        if isinstance(value, int | float):
            return value
        if isinstance(value, list | tuple):
            return [self.plain(entry, depth + 1) for entry in value]
        if _is_mapping(value):
            entries = self.entries(value, "a setting")
            return {self.word(key): self.plain(entry, depth + 1) for key, entry in entries.items()}
        return None


def _is_mapping(value: Any) -> bool:
    return isinstance(value, dict) or (isinstance(value, PickleRecord) and str(value.of) in _CONTAINERS)


def _rows_first(shape: tuple[int, ...], stride: tuple[int, ...]) -> bool:
    """Whether the numbers lie in the order of the indices, without gaps. The stride of a single entry says nothing."""
    return all(
        size < 2 or stride[axis] == math.prod(shape[axis + 1 :]) for axis, size in enumerate(shape)
    )


def _read(file: BufferedReader, place: Place) -> Tensor:
    buffer = bytearray(math.prod(place.shape) * place.dtype.itemsize)
    file.seek(place.start)
    file.readinto(buffer)
    return torch.frombuffer(buffer, dtype=place.dtype).reshape(place.shape)
