"""A folder of pictures on disk, read when they are asked for. Nothing here needs ComfyUI: the training command uses it.
"""

from __future__ import annotations

import hashlib
import math
import struct
import zlib
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps

from ...guidance.checkpoints.state_dicts import sha256_of
from ...guidance.checkpoints.words import shown
from ...guidance.guide import GuideSpec
from ...guidance.training.experts import Pictures
from ..common.places import is_text, shown_name, walk

ENDINGS = (".jpg", ".jpeg", ".png", ".webp")
SHOWN, SHOWN_PIXELS = 8, 2**22  # pictures of a preview, and pixels of each
READERS = 8
FORMATS = ("JPEG", "PNG", "WEBP")  # whatever a file's name says: other readers of PIL start programs
MOST_PIXELS = 2**26  # of one picture, as a phone takes at most
# What PIL raises for damaged bytes, depending on the format and on where it meets them.
UNREADABLE = (OSError, ValueError, SyntaxError, LookupError, TypeError, EOFError, struct.error, zlib.error,
              Image.DecompressionBombError)  # fmt: skip


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
        return pictures, self.classes(indices)

    def classes(self, indices: Sequence[int] | torch.Tensor) -> torch.Tensor | None:
        """Their classes int64 [B], places in `labels`; None without."""
        if not self.labels:
            return None
        return torch.tensor([self.labels.index(_class_of(self.files[int(index)])) for index in indices])

    @cached_property
    def sha256(self) -> str:
        """Of the files, names and contents in order, and the size of the pictures, in 64 hexadecimal digits."""
        return self.take_sha256()

    def take_sha256(self, pause: Callable[[], None] | None = None) -> str:
        """`sha256`, for which every file is read. pause: called between files; it may raise to stop."""
        digest = hashlib.sha256(repr(self.size).encode())
        for name in self.files:
            if pause is not None:
                pause()
            try:
                content = sha256_of(self.path / name)
            except OSError as error:
                raise ValueError(f"{self.path / name} cannot be read ({error.strerror}). Put it back.") from None
            digest.update(f"\n{name} {content}".encode())
        return digest.hexdigest()

    def first(self, count: int = SHOWN) -> torch.Tensor:
        """The first pictures as an IMAGE [N, H, W, 3] in [0, 1], reduced where each has more than SHOWN_PIXELS."""
        height, width = self.size
        scale = min(1.0, math.sqrt(SHOWN_PIXELS / (height * width)))
        reduced = replace(self, size=(max(1, round(height * scale)), max(1, round(width * scale))))
        pictures, _ = reduced.batch(range(min(count, len(self))))
        return pictures.add_(1.0).div_(2.0).movedim(1, -1)

    def _picture(self, name: str) -> torch.Tensor:
        height, width = self.size
        try:
            with opened(self.path / name) as file:
                picture = _rgb(ImageOps.exif_transpose(file))
        except UNREADABLE as error:
            raise ValueError(f"{self.path / name} cannot be read as a picture ({_words(error)}). Replace it.") from None
        if picture.size != (width, height):
            picture = ImageOps.fit(picture, (width, height), Image.Resampling.LANCZOS)
        return torch.from_numpy(np.array(picture)).movedim(-1, 0).float() / 127.5 - 1.0


def read_folder(path: Path, height: int, width: int, pause: Callable[[], None] | None = None) -> PictureFolder:
    """The pictures of a folder, those of its sub-folders included. pause: called between files; it may raise to stop.

    Raises ValueError, in words: no such folder, no pictures in it, or a file that is no picture.
    """
    if not path.is_dir():
        raise ValueError(f"There is no folder {path}; make one and put pictures into it.")
    files = picture_files(path)
    if not files:
        raise ValueError(
            f"There is no picture in {path}; a picture ends in {', '.join(ENDINGS)}. Put some into it, or choose "
            f"another folder."
        )
    for name in files:
        if pause is not None:
            pause()
        _check(path / name)
    classes = sorted({_class_of(name) for name in files}) if all("/" in name for name in files) else []
    return PictureFolder(path, files, (height, width), tuple(classes))


def picture_files(path: Path) -> tuple[str, ...]:
    """Every picture below a folder; nothing hidden. Linked folders are followed, as ComfyUI's models are.

    Raises ValueError for a name that is not UTF-8.
    """
    found = []
    for place, folders, names in walk(path):
        folders[:] = [name for name in folders if not name.startswith((".", "__"))]
        found += [
            (place / name).relative_to(path).as_posix() for name in names
            if name.lower().endswith(ENDINGS) and not name.startswith(".")
        ]
    wrong = next((name for name in found if not is_text(name)), None)
    if wrong is not None:
        raise ValueError(f"{path} holds {shown_name(wrong)}, whose name is not UTF-8; give it another name.")
    return tuple(sorted(found))


def training_pictures(pictures: PictureFolder, spec: GuideSpec, learn_from: str) -> Pictures:
    """The pictures by index; where labels are learnt, each with the guide's own number of its folder's class.

    Raises ValueError where labels are asked for and the folders are not named as the guide names its classes.
    """
    if learn_from != "labels":
        return lambda indices: (pictures.batch(indices)[0], None)
    unknown = [label for label in pictures.labels if label not in spec.labels]
    if unknown or not pictures.labels:
        came = f"a folder {unknown[0]!r}" if unknown else "no folders of classes"
        raise ValueError(
            f"learn_from = labels: the pictures have {came}; name the folders as {spec.name} names its classes "
            f"({', '.join(spec.labels[:4])}, ...), or let the experts learn from the guide."
        )
    numbers = torch.tensor([spec.labels.index(label) for label in pictures.labels])

    def labelled(indices: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None]:
        shown, classes = pictures.batch(indices)
        return shown, None if classes is None else numbers[classes]

    return labelled


def opened(file: Path) -> Image.Image:
    """A picture, not yet decoded. Raises one of UNREADABLE."""
    if not file.is_file():
        raise OSError("it is no file, or a link that leads nowhere")
    picture = Image.open(file, formats=FORMATS)
    if picture.width * picture.height > MOST_PIXELS:
        picture.close()
        raise OSError(f"it has {picture.width} x {picture.height} pixels; at most {MOST_PIXELS} are read")
    return picture


def _words(error: Exception) -> str:
    return shown(str(error), 160) or type(error).__name__


def _rgb(picture: Image.Image) -> Image.Image:
    """8 bits of red, green and blue. PIL would clip the 16 bits of a grey picture instead of scaling them."""
    if picture.mode.startswith("I"):
        return Image.fromarray((np.asarray(picture) // 256).clip(0, 255).astype(np.uint8)).convert("RGB")
    return picture.convert("RGB")


def _class_of(name: str) -> str:
    return name.partition("/")[0]


def _check(file: Path) -> None:
    """Raise ValueError if a file does not begin as a picture does."""
    try:
        with opened(file):
            pass
    except UNREADABLE as error:
        raise ValueError(f"{file} cannot be read as a picture ({_words(error)}). Remove it.") from None
