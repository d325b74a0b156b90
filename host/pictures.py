"""Folders of pictures that networks are trained on: what travels on a PICTURES wire, and where such folders lie."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from difflib import get_close_matches
from functools import cached_property
from pathlib import Path, PurePosixPath, PureWindowsPath

import comfy.model_management
import folder_paths
import numpy as np
import torch
from PIL import Image, ImageOps

ENDINGS = (".jpg", ".jpeg", ".png", ".webp")
MADE = "guidance/pictures"  # inside ComfyUI's output folder
OUTPUT = " [output]"  # ComfyUI's own mark of a name inside its output folder (folder_paths.annotated_filepath)
SHOWN = 8
READERS = 8
UNREADABLE = (OSError, ValueError, SyntaxError, Image.DecompressionBombError)  # what PIL raises, by format and damage


@dataclass(frozen=True)
class PictureFolder:
    """What travels on a PICTURES wire. Pictures are read from disk when they are asked for.

    Attributes:
        path: the folder.
        files: inside it, sorted, with / between folders.
        size: height and width that every picture is brought to: the largest middle part of that shape, resized.
        labels: the names of the sub-folders; empty if the pictures do not all lie in sub-folders.
    """

    path: Path
    files: tuple[str, ...]
    size: tuple[int, int]
    labels: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.files)

    def batch(self, indices: Sequence[int] | torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Pictures float32 [B, 3, H, W] in [-1, 1], and their classes int64 [B]: places in `labels`, None without.

        Raises ValueError if a file is gone or cannot be read.
        """
        names = [self.files[int(index)] for index in indices]
        with ThreadPoolExecutor(READERS) as readers:  # decoding a file leaves Python's lock to the others
            pictures = torch.stack(list(readers.map(self._picture, names)))
        if not self.labels:
            return pictures, None
        return pictures, torch.tensor([self.labels.index(_class_of(name)) for name in names])

    @cached_property
    def fingerprint(self) -> str:
        """Of the names and sizes of the files, their order and the size of the pictures, in 64 hexadecimal digits."""
        digest = hashlib.sha256(repr(self.size).encode())
        for name in self.files:
            digest.update(f"\n{name} {(self.path / name).stat().st_size}".encode())
        return digest.hexdigest()

    def first(self, count: int = SHOWN) -> torch.Tensor:
        """The first pictures as an IMAGE [N, H, W, 3] in [0, 1]."""
        pictures, _ = self.batch(range(min(count, len(self))))
        return ((pictures + 1.0) / 2.0).movedim(1, -1)

    def _picture(self, name: str) -> torch.Tensor:
        height, width = self.size
        try:
            with Image.open(self.path / name) as file:
                picture = _rgb(ImageOps.exif_transpose(file))
        except UNREADABLE as error:
            raise ValueError(f"{self.path / name} cannot be read as a picture ({error}). Replace it.") from None
        if picture.size != (width, height):
            picture = ImageOps.fit(picture, (width, height), Image.Resampling.LANCZOS)
        return torch.from_numpy(np.array(picture)).movedim(-1, 0).float() / 127.5 - 1.0


def _rgb(picture: Image.Image) -> Image.Image:
    """8 bits of red, green and blue. PIL would clip the 16 bits of a grey picture instead of scaling them."""
    if picture.mode.startswith("I"):
        return Image.fromarray((np.asarray(picture) // 256).clip(0, 255).astype(np.uint8)).convert("RGB")
    return picture.convert("RGB")


def _class_of(name: str) -> str:
    return name.partition("/")[0]


def made_root() -> Path:
    """The folder of the sets that Make Pictures made."""
    return Path(folder_paths.get_output_directory()) / MADE


def folder_names() -> list[str]:
    """The folders that can be chosen: those inside ComfyUI's input folder, then the sets that Make Pictures made."""
    made = sorted(entry.name for entry in made_root().iterdir() if entry.is_dir()) if made_root().is_dir() else []
    return [*folder_paths.get_input_subfolders(), *(f"{MADE}/{name}{OUTPUT}" for name in made)]


def folder_problem(folder: str) -> str | None:
    """Why there is no folder of this name, in words; None if there is one. No picture is opened."""
    try:
        _path(folder)
    except ValueError as error:
        return str(error)
    return None


def folder_fingerprint(folder: str) -> str:
    """Changes when a picture of the folder comes, goes or is written anew."""
    path = _path(folder)
    digest = hashlib.sha256()
    for name in _files(path):
        found = (path / name).stat()
        digest.update(f"\n{name} {found.st_size} {found.st_mtime_ns}".encode())
    return digest.hexdigest()


def load_pictures(folder: str, height: int, width: int) -> PictureFolder:
    """The pictures of a folder by its name in `folder_names`, those of its sub-folders included.

    Raises ValueError, in words: no such folder, no pictures in it, or a file that is no picture.
    """
    path = _path(folder)
    files = _files(path)
    if not files:
        raise ValueError(f"There is no picture in {path}; a picture ends in {', '.join(ENDINGS)}.")
    for name in files:
        comfy.model_management.throw_exception_if_processing_interrupted()
        _check(path / name)
    classes = sorted({_class_of(name) for name in files}) if all("/" in name for name in files) else []
    return PictureFolder(path, files, (height, width), tuple(classes))


def _files(path: Path) -> tuple[str, ...]:
    """Every picture below a folder; nothing hidden. Linked folders are followed, as ComfyUI's models are."""
    found = []
    for place, folders, names in os.walk(path, followlinks=True):
        folders[:] = [name for name in folders if not name.startswith((".", "__"))]
        found += [
            (Path(place) / name).relative_to(path).as_posix() for name in names
            if name.lower().endswith(ENDINGS) and not name.startswith(".")
        ]
    return tuple(sorted(found))


def _check(file: Path) -> None:
    """Raise ValueError if a file does not begin as a picture does."""
    try:
        with Image.open(file):
            pass
    except UNREADABLE as error:
        raise ValueError(f"{file} cannot be read as a picture ({error}). Remove it.") from None


def _path(folder: str) -> Path:
    """Where a folder lies. Raises ValueError, naming the nearest, if there is none or it would lie outside."""
    made = folder.endswith(OUTPUT)
    name = folder.removesuffix(OUTPUT)
    root = Path(folder_paths.get_output_directory() if made else folder_paths.get_input_directory())
    inside = PurePosixPath(name)
    if inside.is_absolute() or ".." in inside.parts or "\\" in name or PureWindowsPath(name).drive:
        raise ValueError(
            f"folder is {folder!r}, which would lie outside ComfyUI's input folder. Copy or link the pictures into a "
            f"folder inside {folder_paths.get_input_directory()} and choose that."
        )
    if inside.parts and (root / inside).is_dir():
        return root / inside
    names = folder_names()
    near = get_close_matches(folder, names, 3, 0.5)
    hint = f"; did you mean {', '.join(near)}?" if near else f"; there are {', '.join(names[:20])}." if names else "."
    raise ValueError(f"There is no folder {name!r} in {root}{hint}")
