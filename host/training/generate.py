"""Pictures that a MODEL makes by itself, as training data: drawn by the host's own samplers into a folder.

PPAP trains its experts on such pictures (Go et al. 2023, Section 4). A set can be stopped at any time and taken up
again: picture i depends on the settings and on i alone.
"""

from __future__ import annotations

import io
import json
from collections.abc import Generator, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import comfy.model_management
import comfy.sample
import comfy.samplers
import comfy.sd
import comfy.utils
import torch
from comfy.model_patcher import ModelPatcher
from PIL import Image

from ...guidance.checkpoints.atomic import (
    NameInUseError,
    atomic_write,
    disk_words,
    make_folder,
    name_lock,
    publish,
    unfinished,
)
from ...guidance.checkpoints.json_text import LARGEST_SEED, read_json
from ...guidance.training.checkpoint import differences
from ..common.places import name_problem
from ..common.unfinished import show_unfinished
from ..common.waiting import wait_for_others
from .per_sample_noise import ALONE, generators, sampler_for, start_noise
from .pictures import MADE, PictureFolder, made_root
from .source import PictureSource, deal

FORMAT = "guidance-components/pictures/1"
MANIFEST = "manifest.json"
KEPT = "The pictures before it are whole and can be used: make room and run again to go on, or choose a smaller count."


@dataclass(frozen=True)
class Drawing:
    """How the pictures are drawn; width and height in pixels."""

    width: int
    height: int
    steps: int
    cfg: float
    sampler_name: str
    scheduler: str
    seed: int


def sampler_names() -> list[str]:
    """The samplers that the host knows at this moment; other packs may add theirs."""
    return list(comfy.samplers.SAMPLER_NAMES)


def set_name_problem(name: str) -> str | None:
    """What is wrong with the name of a set, in words; None if nothing is."""
    return name_problem(name, "shapes-64", f"ComfyUI's output/{MADE}")


def set_fingerprint(name: str) -> str:
    """Changes when pictures of the set of this name come or go otherwise than by being asked for.

    The page asks before a set is drawn and compares with the answer before the next time; what was drawn in between is
    what was asked for, so the answer stays.
    """
    now = _state_of(name)
    before, left = _left.get(name, ("", ""))
    _told[name] = before if now == left else now
    return _told[name]


_told: dict[str, str] = {}  # what was answered last, of each set
_left: dict[str, tuple[str, str]] = {}  # what was answered before a set was drawn, and its state afterwards


def _state_of(name: str) -> str:
    folder = made_root() / name
    if set_name_problem(name) or not folder.is_dir():
        return "nothing"
    files = sorted(entry.name for entry in folder.iterdir() if entry.suffix == ".png")
    return f"{folder} {len(files)} {files[-1:]} {folder.stat().st_mtime_ns}"


def make_pictures(
    model: ModelPatcher, positive: list | None, negative: list | None, vae: comfy.sd.VAE | None,
    name: str, count: int, batch_size: int, drawing: Drawing,
) -> PictureFolder:
    """The first `count` pictures of a set; those that are not there yet are drawn.

    Several processes, also of several machines, draw one set together: each takes the next pictures that are neither
    there nor being drawn, and what one leaves unfinished another takes up.

    Raises:
        ValueError: inputs that do not go together, a bad name, or a set of other settings, in words.
        OSError: the disk is full or cannot be written.
    """
    problem = set_name_problem(name)
    if problem:
        raise ValueError(problem)
    sigmas = comfy.samplers.KSampler(
        model, drawing.steps, model.load_device, drawing.sampler_name, drawing.scheduler, 1.0, model.model_options
    ).sigmas
    source = PictureSource.of(model, positive, negative, vae, (drawing.height, drawing.width), sigmas, drawing.cfg)
    made = _Set(made_root() / name, {**vars(drawing), **source.facts})
    files = tuple(f"{index:06d}.png" for index in range(count))
    if not (made.is_ours() and made.has(files)):
        made.open()
        _draw_missing(source, drawing, sigmas, made, files, batch_size)
    _left[name] = (_told.get(name, ""), _state_of(name))
    return PictureFolder(made.folder, files, (drawing.height, drawing.width))


def _draw_missing(
    source: PictureSource, drawing: Drawing, sigmas: torch.Tensor, made: _Set, files: Sequence[str], batch_size: int
) -> None:
    """Draw the pictures of a set that are not there, or wait for those that others are drawing."""
    bar = _Bar(len(files), len(sigmas) - 1)
    left = list(_batches(len(files), 1 if drawing.sampler_name in ALONE else batch_size))
    while left := [indices for indices in left if not made.has([files[index] for index in indices])]:
        drawn = 0
        for indices in left:
            with made.claim([files[index] for index in indices]) as missing:
                if missing:
                    pictures = dict(zip(indices, _draw(source, drawing, sigmas, indices, bar), strict=True))
                    for index in indices:
                        if files[index] in missing:
                            made.add(files[index], pictures[index])
                    made.note()
                    bar.show(indices, pictures[indices[0]])
                    drawn += 1
        if not drawn:
            wait_for_others()
    made.note()  # of the last one that is done: the others counted before


def _batches(count: int, size: int) -> Iterator[range]:
    """Always the same ones, so that a set that was stopped goes on with the batches it would have had."""
    for first in range(0, count, size):
        yield range(first, min(first + size, count))


def _draw(
    source: PictureSource, drawing: Drawing, sigmas: torch.Tensor, indices: range, bar: _Bar
) -> list[Image.Image]:
    """The pictures of these numbers. Raises ValueError if they are none."""
    own = generators(drawing.seed, indices)
    noise = start_noise(source.shape, own)
    samples = comfy.sample.sample_custom(
        source.model, noise, drawing.cfg, sampler_for(drawing.sampler_name, sigmas, source.shape, own), sigmas,
        deal(source.positive, indices), deal(source.negative, indices), torch.zeros_like(noise),
        callback=lambda step, *_: bar.step(indices, step + 1), disable_pbar=True, seed=drawing.seed % 2**32,
    )
    images = source.vae.decode(samples)
    if images.shape[1:] != (drawing.height, drawing.width, 3):
        raise ValueError(
            f"The model and its VAE make pictures of shape {tuple(images.shape[1:])} instead of "
            f"{(drawing.height, drawing.width, 3)} (height, width, colours). Choose another width and height, or "
            f"connect the VAE that belongs to the model."
        )
    if not bool(torch.isfinite(images).all()):
        raise ValueError(
            f"Pictures {indices[0]} to {indices[-1]} are not numbers (NaN). Try another sampler, a smaller cfg, or a "
            f"model or VAE in a wider dtype (start ComfyUI with --fp32-vae or --force-fp32)."
        )
    return [Image.fromarray(image.numpy()) for image in (images.clamp(0, 1) * 255).round().to(torch.uint8).cpu()]


class _Set:
    """The folder of a set: pictures, and a manifest that says how they are made."""

    def __init__(self, folder: Path, settings: dict[str, Any]):
        self.folder, self.settings = folder, json.loads(json.dumps(settings))

    def open(self) -> None:
        """Begin the set where there is none. Raises ValueError and OSError in words."""
        if not self.is_ours():
            make_folder(self.folder)
            with disk_words(self.folder / MANIFEST, KEPT), unfinished(self.folder / MANIFEST) as partial:
                partial.write_bytes(self._about())
                with suppress(FileExistsError):  # another has just begun it
                    publish(partial, self.folder / MANIFEST)
            self.is_ours()

    def is_ours(self) -> bool:
        """Whether it was begun with these settings. Raises ValueError if the folder holds anything else."""
        manifest = self.folder / MANIFEST
        if not manifest.exists():
            if self.folder.exists() and any(map(_is_foreign, self.folder.iterdir())):
                raise ValueError(
                    f"{self.folder} holds files that Make Pictures did not write. Choose another name, or empty it."
                )
            return False
        differs = differences(self.settings, _settings_of(manifest), longest=80)  # a prompt says something
        if differs:
            raise ValueError(
                f"The pictures in {self.folder} were made otherwise ({differs}). Choose another name, or delete that "
                f"folder."
            )
        return True

    def has(self, files: Sequence[str]) -> bool:
        return all((self.folder / file).exists() for file in files)

    @contextmanager
    def claim(self, files: Sequence[str]) -> Generator[list[str]]:
        """Those of the files that are not there, kept to this process; none if another has one of them."""
        with ExitStack() as held:
            try:
                for file in files:
                    if not self.has([file]):
                        with disk_words(self.folder / file, KEPT):
                            held.enter_context(name_lock(self.folder / file))
            except NameInUseError:
                held.close()
                yield []
                return
            yield [file for file in files if not self.has([file])]

    def add(self, file: str, picture: Image.Image) -> None:
        """Raises OSError in words if the disk is full."""
        data = io.BytesIO()
        picture.save(data, "PNG")
        self._write(file, data.getvalue())

    def note(self) -> None:
        """Write down how far the set is."""
        self._write(MANIFEST, self._about())

    def _about(self) -> bytes:
        done = sum(entry.suffix == ".png" for entry in self.folder.iterdir())
        return json.dumps({"format": FORMAT, "done": done, "settings": self.settings}, indent=1).encode()

    def _write(self, file: str, data: bytes) -> None:
        """A file is there as a whole or not at all."""
        with disk_words(self.folder / file, KEPT):
            atomic_write(self.folder / file, data)


class _Bar:
    """Progress over all steps of all pictures, and the first picture of the last batch."""

    def __init__(self, count: int, steps: int):
        self.steps = steps
        self.bar = comfy.utils.ProgressBar(count * steps)

    def step(self, indices: Sequence[int], step: int) -> None:
        comfy.model_management.throw_exception_if_processing_interrupted()
        self.bar.update_absolute(indices[0] * self.steps + min(step, self.steps) * len(indices))

    def show(self, indices: Sequence[int], picture: Image.Image) -> None:
        self.bar.update_absolute((indices[-1] + 1) * self.steps)
        show_unfinished(picture)


def _is_foreign(entry: Path) -> bool:
    """Whether a file in a folder without a manifest is not what another process, which begins the set, has there."""
    return entry.suffix != ".partial" and entry.name != MANIFEST


def _settings_of(manifest: Path) -> dict[str, Any]:
    try:
        found = read_json(manifest, dict, LARGEST_SEED)
    except (OSError, ValueError):
        found = {}
    if found.get("format") == FORMAT and isinstance(found.get("settings"), dict):
        return found["settings"]
    raise ValueError(
        f"{manifest} is damaged or of another version. Choose another name, or delete {manifest.parent}."
    )
