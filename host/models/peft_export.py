"""A bank's experts as adapters of Hugging Face's peft, in ComfyUI's output folder."""

from __future__ import annotations

import filecmp
import json
import logging
from dataclasses import asdict
from pathlib import Path
from typing import Any

import folder_paths

from ...guidance.checkpoints.atomic import disk_words, publish, unfinished
from ...guidance.experts.bank import ExpertBank
from ...guidance.experts.peft_files import write_adapter
from .guides import LoadedGuide

log = logging.getLogger(__name__)
INDEX = "experts.json"


def export_experts(guide: LoadedGuide, name: str) -> Path:
    """Write one adapter per expert into output/guidance/NAME, and an index of who is in charge where; the folder.

    A folder that holds the same files already, byte for byte, stays as it is.

    Raises:
        ValueError: a guide that is no bank, experts without LoRA, or a folder with something else, in words.
        OSError: it cannot be written, in words; nothing is left of it then.
    """
    bank = guide.patchers[0].model
    if not isinstance(bank, ExpertBank):
        raise ValueError(
            f"{guide.guide.name} is no bank of experts; connect one from Train Experts, Import Experts or Load Guide."
        )
    folder = Path(folder_paths.get_output_directory()) / "guidance" / name
    with unfinished(folder) as partial:
        try:
            with disk_words(folder.parent, "Nothing was written. Mend that and run this again."):
                _write(partial, guide, bank)
                publish(partial, folder)
        except FileExistsError:
            _require_same(partial, folder)
            return folder
    log.info("Guidance Components: wrote %s", folder)
    return folder


def _write(folder: Path, guide: LoadedGuide, bank: ExpertBank) -> None:
    for expert in range(len(bank.adapters)):
        write_adapter(folder / f"expert-{expert}", bank, expert)
    (folder / INDEX).write_text(json.dumps(_index(guide), indent=2, sort_keys=True) + "\n", "utf-8")


def _require_same(made: Path, folder: Path) -> None:
    """Raise ValueError unless every file that was made lies in the folder, byte for byte."""
    for file in sorted(entry.relative_to(made) for entry in made.rglob("*") if entry.is_file()):
        there = folder / file
        if not there.is_file() or not filecmp.cmp(made / file, there, shallow=False):
            raise ValueError(
                f"{folder} is there already, and {file.as_posix()} is {'another' if there.exists() else 'not'} in it. "
                f"Choose another name, or delete {folder}."
            )


def _index(guide: LoadedGuide) -> dict[str, Any]:
    """What peft's files do not say: the noise that each expert is for, and what it sees."""
    spec = guide.guide.first
    edges = [0.0, *guide.guide.experts.edges, None]
    return {
        "bank": guide.guide.name, "task": spec.task, "labels": list(spec.labels),
        "schedule": None if spec.schedule is None else spec.schedule.name, "preprocessing": asdict(spec.preprocessing),
        "experts": [
            {"folder": f"expert-{number}", "sigma_from": low, "sigma_below": high}
            for number, (low, high) in enumerate(zip(edges, edges[1:], strict=False))
        ],
    }
