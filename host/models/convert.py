"""Published checkpoints turned into files of the pack's own making, from a node."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import get_args

import comfy.model_management

from ...guidance.checkpoints.state_dicts import open_checkpoint
from ...guidance.networks.adm.config import Schedule
from ...guidance.networks.adm.detect import settings_header
from ...guidance.networks.edm2.averaging import average_files, convert_file
from .denoisers import path_of

KNOWN = "as known"
SCHEDULES = [KNOWN, *get_args(Schedule)]
log = logging.getLogger(__name__)


def convert(name: str, heads: int = 0, schedule: str = KNOWN, diffusion_steps: int = 0) -> str:
    """A denoiser's file as safetensors beside it; its name.

    heads, schedule, diffusion_steps: of an ADM network, kept in the file; 0 and KNOWN = nothing is said of it.

    Raises ValueError and OSError in words.
    """
    path = path_of(name)
    checkpoint = open_checkpoint(path)
    settings = {
        "heads": heads or None, "schedule": None if schedule == KNOWN else schedule,
        "diffusion_steps": diffusion_steps or None,
    }
    out = convert_file(path, settings=settings_header(name, checkpoint.shapes, settings))
    log.info("Guidance Components: %s is there", out)
    return out.name


def average(names: Sequence[str], std: float) -> tuple[str, str]:
    """The post-hoc average of snapshots: its file's name, and the shares in words. Raises ValueError and OSError."""
    comfy.model_management.throw_exception_if_processing_interrupted()
    made = average_files([path_of(name) for name in names], std)
    log.info("Guidance Components: %s is there", made.path)
    return made.path.name, "\n".join(f"{share:+.4f}  {name}" for name, share in made.shares)
