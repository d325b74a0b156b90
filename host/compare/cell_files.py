"""Finished cells as files of a name: they outlast ComfyUI, and several ComfyUIs fill one grid together.

A cell is found by what decides it (settings, MODEL, prompts, latents), so a grid that grew, or another grid of the same
name, takes from there what it has in common. Kept is what the sampler gave; the VAE decodes it anew.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import folder_paths
from comfy.model_patcher import ModelPatcher
from safetensors import SafetensorError
from torch import Tensor

from ...guidance.checkpoints.atomic import NameInUseError, atomic_save, disk_words, name_lock
from ...guidance.checkpoints.snapshot import read_snapshot
from ..common.places import name_problem
from ..report.identity import digest, facts_of_model
from .settings import NAMES, SAMPLER, Settings

CELLS = "guidance/cells"  # inside ComfyUI's output folder
FORMAT = "guidance-components/cell/1"
KEPT = "The cells before it are kept: make room and run again to go on, or leave name empty."


@dataclass(frozen=True, eq=False)
class Sampled:
    """What the sampler gave for a cell: latents as the VAE takes them; weight: that at which plain CFG is as strong,
    where that was measured."""

    latents: Tensor
    weight: float | None = None


def cells_name_problem(name: str | None) -> str | None:
    """What is wrong with the name of a set of cells, in words; None if nothing is. Empty: nothing is kept on disk."""
    return name_problem(name, "weights-of-portraits", f"ComfyUI's output/{CELLS}") if name else None


@dataclass(frozen=True)
class CellFiles:
    """The cells of a name. folder: None for those that are not kept on disk. scene: digest of what all cells share."""

    folder: Path | None
    scene: str

    @classmethod
    def of(cls, name: str, *scene: Any) -> CellFiles:
        """Raises ValueError for what is no name, in words."""
        problem = cells_name_problem(name)
        if problem:
            raise ValueError(problem)
        if not name:
            return cls(None, "")
        return cls(Path(folder_paths.get_output_directory()) / CELLS / name, digest(scene))

    def sampled(
        self, model: ModelPatcher, settings: Settings, measured: bool, sample: Callable[[], Sampled]
    ) -> Sampled | None:
        """What is there, or what the sampler gives now; None while another ComfyUI samples it.

        Args:
            model: with these settings.
            measured: whether the weight is asked for.

        Raises:
            ValueError: the file is none of ours, in words.
            OSError: the disk is full or cannot be written, in words.
        """
        if self.folder is None:
            return sample()
        path = self._path(model, settings, measured)
        if path.exists():
            return _read(path)
        with ExitStack() as held:
            try:
                with disk_words(path, KEPT):
                    held.enter_context(name_lock(path))
            except NameInUseError:
                return None
            if path.exists():  # it came in between
                return _read(path)
            found = sample()
            _write(path, found)
            return found

    def keep(self, model: ModelPatcher, settings: Settings, cell: Sampled) -> None:
        """Write down a cell that is not there. Raises OSError as `sampled`."""
        measured = cell.weight is not None
        if not self._path(model, settings, measured).exists():
            self.sampled(model, settings, measured, lambda: cell)

    def _path(self, model: ModelPatcher, settings: Settings, measured: bool) -> Path:
        assert self.folder is not None, "kept on disk"
        numbers = [getattr(settings, name) for name in (*SAMPLER, *NAMES)]
        return self.folder / f"{digest([self.scene, facts_of_model(model), numbers, measured])}.safetensors"


def _write(path: Path, cell: Sampled) -> None:
    header = {"format": FORMAT} | ({} if cell.weight is None else {"weight": repr(cell.weight)})
    with disk_words(path, KEPT):
        atomic_save(path, {"latents": cell.latents.contiguous()}, header)


def _read(path: Path) -> Sampled:
    try:
        header, tensors = read_snapshot(path)
    except SafetensorError:
        header, tensors = {}, {}
    if header.get("format") != FORMAT or "latents" not in tensors:
        raise ValueError(f"{path} is damaged, or no cell of Compare Guidance. Delete it, or choose another name.")
    return Sampled(tensors["latents"], float(header["weight"]) if "weight" in header else None)
