"""Published denoisers on disk: where they lie, which family they are of, and what comes with them.

Source: folder_paths.py. The list is that of models/diffusion_models and models/checkpoints; only their own families
are loaded, everything else is refused by what it seems to be.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from types import ModuleType

import comfy.sd
import folder_paths
from comfy.model_patcher import ModelPatcher
from comfy_execution.graph_utils import ExecutionBlocker

from ...guidance.checkpoints.state_dicts import Checkpoint, CheckpointError, open_checkpoint
from ...guidance.networks.adm.detect import looks_like
from ..common.places import is_text, nearest, shown_name
from . import adm as adm_model
from . import edm2 as edm2_model
from . import glide as glide_model

FOLDERS = ("diffusion_models", "checkpoints")
SUFFIXES = (".safetensors", ".pt", ".pkl")
FAMILIES: tuple[ModuleType, ...] = (adm_model, edm2_model, glide_model)
PLACE = f"models/{FOLDERS[0]} or models/{FOLDERS[1]}"
NOTHING = f"(no file yet: put one into models/{FOLDERS[0]})"
WANTED = (
    "an ADM or P2 denoiser (256x256_diffusion.pt), an EDM2 network (edm2-img512-s-2147483-0.130.pkl) or one of GLIDE's "
    "(base.pt)"
)


def denoiser_names() -> list[str]:
    """The files that may be denoisers, with the folder before a name that both folders have; NOTHING without any."""
    return sorted(_places()) or [NOTHING]


def denoiser_problem(name: str) -> str | None:
    """Why this file cannot be loaded, in words; None if it may. Of a safetensors file the header is read."""
    try:
        path = path_of(name)
        if path.suffix.lower() == ".safetensors":
            _family(name, open_checkpoint(path))
    except ValueError as error:
        return str(error)
    return None


def fingerprint(name: str) -> str:
    """Changes when the file does."""
    state = path_of(name).stat()
    return f"{state.st_mtime_ns} {state.st_size}"


def load_denoiser(
    name: str, vae: comfy.sd.VAE | None = None
) -> tuple[ModelPatcher, comfy.sd.VAE | ExecutionBlocker]:
    """A denoiser by its name in `denoiser_names`, and the VAE that belongs to its pictures.

    Args:
        vae: Stable Diffusion's, for a network that works on its latents; it comes back fitted to the network. Without
            one the result stops the nodes that would use it, in words.

    Raises:
        ValueError: there is no such file, or (CheckpointError) it cannot be used, in words.
    """
    path = path_of(name)
    # The checkpoint is opened anew by its family, which must be able to load it again without this function.
    model, own = _family(name, open_checkpoint(path)).load(str(path), name)
    if own is not None:
        return model, own
    if vae is not None:
        return model, edm2_model.unit_range_vae(vae)
    return model, ExecutionBlocker(
        f"{name} works on the latents of Stable Diffusion's VAE and brings none. Connect one (Load VAE: "
        f"sd-vae-ft-mse, or the VAE of a Stable Diffusion 1.5 checkpoint) to Load Denoiser's vae input."
    )


def _family(name: str, checkpoint: Checkpoint) -> ModuleType:
    for family in FAMILIES:
        if family.recognises(checkpoint):
            return family
    raise CheckpointError(f"{name} is {looks_like(checkpoint.shapes)}; what is needed here is {WANTED}.")


def _places() -> dict[str, Path]:
    """Where each file lies, by the name that people choose it by."""
    found = [
        (folder, name)
        for folder in FOLDERS
        for name in folder_paths.get_filename_list(folder)
        if name.lower().endswith(SUFFIXES) and is_text(name)
    ]
    often = Counter(name for _, name in found)
    return {
        name if often[name] == 1 else f"{folder}/{name}": Path(folder_paths.get_full_path_or_raise(folder, name))
        for folder, name in found
    }


def path_of(name: str) -> Path:
    """Raises ValueError, naming the nearest, for a name that is not in the list."""
    places = _places()
    if name in places:
        return places[name]
    if not places:
        raise ValueError(
            f"There is no denoiser in {PLACE} yet. Download one (this node's help page has the links) into "
            f"{folder_paths.get_folder_paths(FOLDERS[0])[0]}, then press R to refresh the list."
        )
    raise ValueError(f"There is no file {shown_name(name)} in {PLACE}{nearest(name, sorted(places))}")
