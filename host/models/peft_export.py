"""A bank's experts as adapters of Hugging Face's peft, in ComfyUI's output folder."""

from __future__ import annotations

import json
import logging
import shutil
from dataclasses import asdict
from pathlib import Path
from typing import Any

import folder_paths

from ...guidance.experts.bank import ExpertBank
from ...guidance.experts.peft_files import write_adapter
from .guides import LoadedGuide

log = logging.getLogger(__name__)
INDEX = "experts.json"


def export_experts(guide: LoadedGuide, name: str) -> Path:
    """Write one adapter per expert into output/guidance/NAME, and an index of who is in charge where.

    Raises:
        ValueError: a guide that is no bank, experts without LoRA, or a folder that is there already, in words.
        OSError: it cannot be written; nothing is left of it then.
    """
    bank = guide.patchers[0].model
    if not isinstance(bank, ExpertBank):
        raise ValueError(
            f"{guide.guide.name} is no bank of experts; connect one from Train Experts, Import Experts or Load Guide."
        )
    folder = Path(folder_paths.get_output_directory()) / "guidance" / name
    index = json.dumps(_index(guide), indent=2, sort_keys=True) + "\n"
    if folder.exists():
        if (folder / INDEX).is_file() and (folder / INDEX).read_text("utf-8") == index:
            return folder
        raise ValueError(f"{folder} is there already. Choose another name, or delete it.")
    partial = folder.with_name(f"{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    try:
        for expert in range(len(bank.parts)):
            write_adapter(partial / f"expert-{expert}", bank, expert)
        (partial / INDEX).write_text(index, "utf-8")
        partial.rename(folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    log.info("Guidance Components: wrote %s", folder)
    return folder


def _index(guide: LoadedGuide) -> dict[str, Any]:
    """What peft's files do not say: the noise that each expert is for, and what it sees."""
    team, spec = guide.guide, guide.guide.first
    edges = [0.0, *team.experts.edges, None]
    return {
        "bank": team.name, "task": spec.task, "labels": list(spec.labels),
        "schedule": None if spec.schedule is None else spec.schedule.name, "preprocessing": asdict(spec.preprocessing),
        "experts": [
            {"folder": f"expert-{number}", "sigma_from": low, "sigma_below": high}
            for number, (low, high) in enumerate(zip(edges, edges[1:], strict=False))
        ],
    }
