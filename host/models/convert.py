"""Published checkpoints turned into files of the pack's own making, from a node."""

from __future__ import annotations

import logging
from collections.abc import Sequence

import comfy.model_management

from ...guidance.networks.edm2.averaging import average_files, convert_file
from .denoisers import path_of

log = logging.getLogger(__name__)


def convert(name: str) -> str:
    """A denoiser's file as safetensors beside it; its name. Raises ValueError and OSError in words."""
    out = convert_file(path_of(name))
    log.info("Guidance Components: %s is there", out)
    return out.name


def average(names: Sequence[str], std: float) -> tuple[str, str]:
    """The post-hoc average of snapshots: its file's name, and the shares in words. Raises ValueError and OSError."""
    comfy.model_management.throw_exception_if_processing_interrupted()
    made = average_files([path_of(name) for name in names], std)
    log.info("Guidance Components: %s is there", made.path)
    return made.path.name, "\n".join(f"{share:+.4f}  {name}" for name, share in made.shares)
