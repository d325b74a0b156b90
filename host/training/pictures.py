"""Folders of pictures that networks are trained on, by name: where in ComfyUI they lie, and which there are."""

from __future__ import annotations

import hashlib
from pathlib import Path

import comfy.model_management
import folder_paths

from ..common.places import inside, nearest, shown_name
from .dataset import PictureFolder, picture_files, read_folder

MADE = "guidance/pictures"  # inside ComfyUI's output folder
OUTPUT = " [output]"  # ComfyUI's own mark of a name inside its output folder (folder_paths.annotated_filepath)


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
    for name in picture_files(path):
        if (path / name).is_file():  # a link that leads nowhere is told when the pictures are read
            found = (path / name).stat()
            digest.update(f"\n{name} {found.st_size} {found.st_mtime_ns}".encode())
    return digest.hexdigest()


def load_pictures(folder: str, height: int, width: int) -> PictureFolder:
    """The pictures of a folder by its name in `folder_names`, those of its sub-folders included.

    Raises ValueError, in words: no such folder, no pictures in it, or a file that is no picture.
    """
    return read_folder(_path(folder), height, width, comfy.model_management.throw_exception_if_processing_interrupted)


def _path(folder: str) -> Path:
    """Where a folder lies. Raises ValueError, naming the nearest, if there is none or it would lie outside."""
    made = folder.endswith(OUTPUT)
    name = folder.removesuffix(OUTPUT)
    root = Path(folder_paths.get_output_directory() if made else folder_paths.get_input_directory())
    try:
        found = inside([root], name)
    except ValueError as error:
        raise ValueError(
            f"folder is {shown_name(folder)}, which {error} ComfyUI's input folder. Copy or link the pictures into a "
            f"folder inside {folder_paths.get_input_directory()} and choose that."
        ) from None
    if found is None or not found.is_dir():
        raise ValueError(f"There is no folder {shown_name(name)} in {root}{nearest(folder, folder_names())}")
    return found
