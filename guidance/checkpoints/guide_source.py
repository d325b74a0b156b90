"""What lies on disk as a guide: a transformers folder, one safetensors file, or a torch file that holds tensors only.

A .pt or .pth is read by torch's weights-only reader (`state_dicts`); every other pickle is left alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from torch import Tensor

from .json_text import read_json
from .state_dicts import Checkpoint, CheckpointError, open_checkpoint
from .weights import file_problem, number_problem, unwrapped
from .words import listed, shown

WEIGHTS = "model.safetensors"
INDEX = f"{WEIGHTS}.index.json"
TORCH = (".pt", ".pth")
SINGLE = (".safetensors", *TORCH)
PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle")
TOKENIZERS = ("tokenizer.json", "vocab.json", "vocab.txt", "spiece.model", "tokenizer.model", "sentencepiece.bpe.model")
_PICKLED = (b"PK\x03\x04", b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05")  # a torch zip file; a bare pickle
_SAFE_COPY = "Pickles can run any code, so they are not opened. Convert it to safetensors: "
_SAVE_FOLDER = _SAFE_COPY + "load it with transformers where you trust it and save_pretrained() it to a new folder."
_SAVE_FILE = _SAFE_COPY + "load its state dict where you trust it and write it with safetensors.torch.save_file."


class GuideFileError(ValueError):
    """A guide's folder or file that cannot be used; the message says what it is and what to do."""


class GuideSource:
    """A guide on disk. Reading it opens headers and JSON only; tensors are read when they are asked for.

    Attributes:
        path, name: where it lies, and what people call it.
        is_folder: a transformers folder; otherwise one safetensors or torch file.
        files: its files with tensors.
        shapes: of every tensor, by name.
        metadata: the strings in the header of a single file; empty for a folder.
        config: config.json of a folder; empty for a single file.
        preprocessor: preprocessor_config.json (or processor_config.json's image_processor) of a folder; None without.
        has_tokenizer: whether a folder brings its own tokenizer.
        backbone: the network whose features this one reads; None where it looks at pictures itself.
    """

    def __init__(self, path: str | Path, name: str = "", backbone: GuideSource | None = None) -> None:
        """Raises GuideFileError: nothing there, a pickle, or a damaged file, in words."""
        self.path = Path(path)
        self.name = name or self.path.stem
        self.backbone = backbone
        self.is_folder = self.path.is_dir()
        self.config: dict[str, Any] = {}
        self.preprocessor: dict[str, Any] | None = None
        self.has_tokenizer = False
        if self.is_folder:
            self.config = self._json(self.path / "config.json")
            self.preprocessor = self._preprocessor()
            self.has_tokenizer = any((self.path / file).is_file() for file in TOKENIZERS)
            self.files = self._weights()
        else:
            self.files = (self._single(),)
        self.metadata: dict[str, str] = {}
        self.shapes: dict[str, tuple[int, ...]] = {}
        self._torch: Checkpoint | None = None
        if not self.is_folder and self.path.suffix.lower() in TORCH:
            self._open_torch()
            return
        for file in self.files:
            self._read_header(file)
        if problem := file_problem(self.shapes):
            raise GuideFileError(f"{self.name} is no network: {problem}. Get it again, or choose another guide.")
        self.shapes = self.shapes if self.is_folder else unwrapped(self.shapes)

    @cached_property
    def architecture(self) -> str:
        """The class that a folder's config.json names first; "" where it names none."""
        named = self.config.get("architectures")
        return shown(named[0]) if isinstance(named, list) and named else ""

    def tensors(self) -> dict[str, Tensor]:
        """Every tensor, in the dtype that it is stored in."""
        if self._torch is not None:
            return self._torch.tensors()
        found = {}
        for path in self.files:
            with safe_open(path, framework="pt") as file:
                found |= {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 - not a dict
        return found if self.is_folder else unwrapped(found)

    def weights(self, own: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The tensors, once their numbers are known to be weights of the network with these tensors of its own.

        Raises:
            GuideFileError: numbers that are no weights (NaN, whole numbers, complex ones), in words.
        """
        tensors = self.tensors()
        if problem := number_problem(tensors, own):
            raise GuideFileError(f"{self.name} is no usable network: {problem}. Get it again, or choose another guide.")
        return tensors

    def _single(self) -> Path:
        if not self.path.is_file():
            raise GuideFileError(f"There is no guide {self.name}: {self.path} does not exist.")
        ending = self.path.suffix.lower()
        if ending in PICKLES and ending not in TORCH:
            raise GuideFileError(f"{self.name} is a pickle. {_SAVE_FILE}")
        if ending not in SINGLE:
            raise GuideFileError(
                f"{self.name} is no guide: it must be a {', '.join(SINGLE[:-1])} or {SINGLE[-1]} file, or a "
                f"transformers folder."
            )
        return self.path

    def _weights(self) -> tuple[Path, ...]:
        if (self.path / WEIGHTS).is_file():
            return (self.path / WEIGHTS,)
        if (self.path / INDEX).is_file():
            return self._shards()
        there = sorted(entry.name for entry in self.path.iterdir() if entry.is_file())
        other = [file for file in there if file.endswith(".safetensors")]
        if other:
            raise GuideFileError(f"{self.name} has no {WEIGHTS}; if {other[0]} is the network, rename it to {WEIGHTS}.")
        pickles = [file for file in there if file.lower().endswith(PICKLES)]
        if pickles:
            raise GuideFileError(f"{self.name} has no {WEIGHTS}, only the pickle {pickles[0]}. {_SAVE_FOLDER}")
        raise GuideFileError(f"{self.name} has no {WEIGHTS}; copy it from where you got its config.json.")

    def _shards(self) -> tuple[Path, ...]:
        placed = self._json(self.path / INDEX).get("weight_map")
        files = list(placed.values()) if isinstance(placed, dict) else []
        names = sorted({file for file in files if isinstance(file, str)})
        plain = all(Path(file).name == file and file.endswith(".safetensors") and file.isprintable() for file in names)
        if not names or not plain or not all(isinstance(file, str) for file in files):
            raise GuideFileError(f"{self.name}: its {INDEX} lists no safetensors files beside it; get it again.")
        missing = [file for file in names if not (self.path / file).is_file()]
        if missing:
            raise GuideFileError(f"{self.name} lacks {listed(missing)}, which its {INDEX} lists; get them too.")
        return tuple(self.path / file for file in names)

    def _preprocessor(self) -> dict[str, Any] | None:
        if (self.path / "preprocessor_config.json").is_file():
            return self._json(self.path / "preprocessor_config.json")
        if (self.path / "processor_config.json").is_file():
            found = self._json(self.path / "processor_config.json").get("image_processor")
            return found if isinstance(found, dict) else None
        return None

    def _open_torch(self) -> None:
        try:
            self._torch = open_checkpoint(self.path)
        except CheckpointError as error:
            raise GuideFileError(str(error)) from error
        self.shapes = self._torch.shapes

    def _json(self, path: Path) -> dict[str, Any]:
        if not path.is_file():
            raise GuideFileError(
                f"{self.name} has no {path.name}; copy it into {self.path} from where you got the network."
            )
        try:
            return read_json(path, dict)
        except ValueError as error:
            raise GuideFileError(f"{self.name}: its {path.name} {error}; get it again.") from None

    def _read_header(self, path: Path) -> None:
        try:
            with safe_open(path, framework="pt") as file:
                self.shapes |= {key: tuple(file.get_slice(key).get_shape()) for key in file.keys()}  # noqa: SIM118
                if not self.is_folder:
                    self.metadata = dict(file.metadata() or {})
        except SafetensorError as error:
            with open(path, "rb") as file:
                if file.read(4).startswith(_PICKLED):
                    raise GuideFileError(
                        f"{self.name}: {path.name} is a pickle under the name of a safetensors file. "
                        f"{_SAVE_FOLDER if self.is_folder else _SAVE_FILE}"
                    ) from error
            raise GuideFileError(
                f"{self.name}: {path.name} is damaged or was not copied whole ({shown(str(error), 120)}); get it again."
            ) from None
