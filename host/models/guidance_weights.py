"""Learned weights of guidance on disk: which there are, where they lie and which of them is meant."""

from __future__ import annotations

import os
from pathlib import Path

import folder_paths

from ...guidance.learned import LearnedWeights
from ...guidance.networks.tiny.files import format_of
from ...guidance.training.weights import WEIGHTS, read_weights
from ..common.places import is_text, name_problem, placed, walk
from .folders import model_folders
from .tiny import ASSETS

FOLDER = "guidance_weights"

folder_paths.add_model_folder_path(FOLDER, os.path.join(folder_paths.models_dir, FOLDER))


def weights_names() -> list[str]:
    """The embedded ones, then what lies in models/guidance_weights."""
    embedded = _embedded_names()
    found = {
        (place / file).relative_to(root).as_posix()
        for root in model_folders(FOLDER)
        for place, _, files in walk(root)
        for file in files
        if file.endswith(".safetensors")
    }
    return [*embedded, *sorted(name for name in found if is_text(name) and name not in embedded)]


def weights_file_problem(name: str) -> str | None:
    """Why there are no weights of this name, in words; None if there are. Nothing of them is read."""
    try:
        _path(name)
    except ValueError as error:
        return str(error)
    return None


def weights_fingerprint(name: str) -> str:
    """Changes when the file does."""
    found = _path(name).stat()
    return f"{found.st_mtime_ns} {found.st_size}"


def load_weights(name: str) -> LearnedWeights:
    """The weights by their name in `weights_names`. Raises ValueError (NetworkFileError) for none or others."""
    return read_weights(str(_path(name)))[0]


def weights_path(name: str) -> Path:
    """Where weights of this name will lie. Raises ValueError for a name that is none or points elsewhere."""
    if problem := weights_name_problem(name):
        raise ValueError(problem)
    return model_folders(FOLDER)[0] / f"{name}.safetensors"


def weights_name_problem(name: str) -> str | None:
    """What is wrong with the name of a file of weights, in words."""
    return name_problem(name, "mine/weights-sdxl", f"models/{FOLDER}", ".safetensors")


def _embedded_names() -> list[str]:
    return sorted(path.stem for path in ASSETS.glob("*.safetensors") if format_of(path) == WEIGHTS)


def _path(name: str) -> Path:
    """Where weights lie. Raises ValueError, naming the nearest, if there are none or they would lie outside."""
    if name in _embedded_names():
        return ASSETS / f"{name}.safetensors"
    return placed(model_folders(FOLDER), name, "file of weights", f"models/{FOLDER}", weights_names)
