"""Folders of pictures that networks are trained on, by name: where in ComfyUI they lie, and which there are."""

from __future__ import annotations

import hashlib
from difflib import get_close_matches
from pathlib import Path, PurePosixPath, PureWindowsPath

import comfy.model_management
import folder_paths

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
