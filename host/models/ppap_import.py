"""PPAP's released experts in models/guides, as a bank."""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any

import comfy.model_management
from safetensors.torch import load_file
from torch import Tensor, nn

from ...guidance.checkpoints.atomic import disk_words, make_folder
from ...guidance.checkpoints.state_dicts import sha256_of
from ...guidance.experts.calibration import best_calibration, calibrations
from ...guidance.experts.file import BankFile, BankHeader, is_bank, read_bank, write_bank
from ...guidance.experts.guide import source_sha256
from ...guidance.experts.ppap_files import SCHEDULES, PpapExperts, inputs, read_ppap
from ...guidance.guide import GuideSpec
from ...guidance.networks.tiny.files import format_of
from ...guidance.noise_schedule import noise_schedule
from ...guidance.preprocessing import Preprocessing
from ...guidance.training.recipe import ExpertRecipe
from ..common.places import inside, is_text, shown_name, walk
from .folders import model_folders
from .guides import FOLDER, LoadedGuide, bank_name_problem, bank_path, build, load_bank, source_of
from .tiny import ASSETS

log = logging.getLogger(__name__)
# Of the embedded world; they settle how DeiT's experts are run, where no pictures are connected.
PICTURES = ASSETS / "shapes-pictures.safetensors"
_TORCH = (".ckpt", ".pt", ".pth")
_ALL_OF = re.compile(r"\*_max([1-9]\d?)(\.\w+)", re.ASCII)
_NUMBERED = re.compile(r"(\d+)_max([1-9]\d?)(\.(?:ckpt|pt|pth|safetensors))")


def expert_sets() -> list[str]:
    """What lies in models/guides and may be PPAP's: `folder/*_max5.ckpt` for a set of files, and torch files alone."""
    found: dict[str, None] = {}
    for root in model_folders(FOLDER):
        for place, folders, files in walk(root):
            folders.sort()
            for file in sorted(files):
                match = _NUMBERED.fullmatch(file)
                if match or file.lower().endswith(_TORCH):
                    name = f"*_max{match[2]}{match[3]}" if match else file
                    found[(place / name).relative_to(root).as_posix()] = None
    return [name for name in found if is_text(name)]


def experts_problem(experts: str | None, name: str | None) -> str | None:
    """What is wrong with the widgets, in words; None if nothing is, or if a value is linked and not known yet."""
    try:
        if experts is not None:
            files_of(experts)
    except ValueError as error:
        return str(error)
    return None if name is None else bank_name_problem(name)


def files_of(experts: str) -> list[Path]:
    """The files of a set, from the cleanest noise range to the noisiest.

    Raises:
        ValueError: there are none, or one of them is missing, in words.
    """
    within = PurePosixPath(experts)
    count = _ALL_OF.fullmatch(within.name)
    names = [f"{n}_max{count[1]}{count[2]}" for n in range(int(count[1]))] if count else [within.name]
    for root in model_folders(FOLDER):
        folder = root / within.parent
        try:
            there = [name for name in names if inside([root], (within.parent / name).as_posix()) is not None]
        except ValueError as error:
            raise ValueError(
                f"The files {shown_name(experts)} {error} models/{FOLDER}; choose them from the list."
            ) from None
        if there and there == names:
            return [folder / name for name in names]
        if there:
            missing = ", ".join(name for name in names if name not in there)
            raise ValueError(
                f"{folder} has {len(there)} of the {len(names)} files of {shown_name(experts)}; {missing} is missing. "
                f"Get it too, from where you got the others."
            )
    raise ValueError(
        f"There is nothing called {shown_name(experts)} in {model_folders(FOLDER)[0]}. Put PPAP's files (0_max5.ckpt "
        f"to 4_max5.ckpt) into a folder of their own there, and press R."
    )


def sets_fingerprint(experts: str) -> str:
    """Changes when the files do."""
    return "; ".join(f"{file} {file.stat().st_mtime_ns} {file.stat().st_size}" for file in files_of(experts))


def import_experts(experts: str, base: str, name: str, pictures: Tensor | None) -> tuple[LoadedGuide, str]:
    """Write released experts as a bank into models/guides; the bank as a guide, and what was found, in words.

    Args:
        experts: one of `expert_sets`.
        base: the clean network that they were made of, as Load Guide names it.
        name: of the bank, without its ending.
        pictures: clean ones [B, H, W, 3] in [0, 1], by which it is found how DeiT's are run; the embedded ones without.

    Raises:
        ValueError: files, a base or a name that cannot be used, in words.
        OSError: the bank cannot be written.
    """
    files, path, source = files_of(experts), bank_path(name), source_of(base)
    network, spec = build(source)
    if spec.sees != "clean":
        raise ValueError(f"{base} sees noise already; choose the clean network that the experts were made of.")
    facts = {
        "source": "PPAP", "files": {file.name: sha256_of(file) for file in files}, "base_sha256": source_sha256(source)
    }
    if path.exists():
        return _written_before(path, facts)
    found = read_ppap(files, network)
    way, words = _calibrate(found, network, spec, pictures)
    schedule = SCHEDULES[found.backbone]
    edges = ExpertRecipe(experts=len(files), iterations=len(files), schedule=schedule).edges
    header = BankHeader(
        base, facts["base_sha256"], spec.task, schedule, edges, way[0], spec.labels, way[1]
    )
    report = [_summary(found, base, len(files)), *words]
    bank = BankFile(path.stem, header, found.rescaled(way[0]).adapters, {**facts, "report": report})
    try:
        with disk_words(path.parent, "Nothing was imported. Mend that and run this again."):
            make_folder(path.parent)
            write_bank(path, bank, overwrite=False)
    except FileExistsError:  # another process was faster
        return _written_before(path, facts)
    log.info("Guidance Components: %s Wrote %s.", " ".join(report), path)
    return load_bank(bank), "\n".join([*report, f"Wrote {path.name}, {path.stat().st_size / 2**20:.1f} MB."])


def _written_before(path: Path, facts: Mapping[str, Any]) -> tuple[LoadedGuide, str]:
    """The bank that the same files gave earlier. Raises ValueError if another file is in the way."""
    bank = read_bank(path) if is_bank(format_of(path)) else None
    if bank is None or any(bank.training.get(key) != value for key, value in facts.items()):
        raise ValueError(
            f"{path.name} is in models/{FOLDER} already and is something else. Choose another name, or delete {path}."
        )
    report = bank.training.get("report")
    said = [line for line in report if isinstance(line, str)] if isinstance(report, list) else []
    return load_bank(bank), "\n".join([*said, f"{path.name} was written before."])


def _calibrate(
    found: PpapExperts, network: nn.Module, spec: GuideSpec, pictures: Tensor | None
) -> tuple[tuple[float, Preprocessing], list[str]]:
    """The scale and preprocessing that the experts are run with, and why, in words."""
    ways = inputs(found.backbone, found.efficient, spec.preprocessing)
    words = []
    if found.dead:
        words.append("Every LoRA in the files is zero (PPAP's DeiT of before 2023-07-17): their biases alone differ.")
    if len(ways) * len(found.scales) == 1:
        return (found.scales[0], ways[0]), words
    shown = load_file(PICTURES)["images"] if pictures is None else pictures[..., :3].movedim(-1, 1).float() * 2 - 1
    comfy.model_management.throw_exception_if_processing_interrupted()
    tried = calibrations(network, spec, found, ways, shown, noise_schedule(SCHEDULES[found.backbone]))
    best = best_calibration(tried)
    words.append(f"Run with {best.words} nats from the clean network on {len(shown)} lightly noised pictures, against")
    words += [f"  {other.words}" for other in tried if other is not best]
    return (best.scale, best.preprocessing), words


def _summary(found: PpapExperts, base: str, count: int) -> str:
    kind = "parameter-efficient" if found.efficient else "fine-tuned"
    schedule = SCHEDULES[found.backbone]
    edges = [str(n * len(noise_schedule(schedule)) // count) for n in range(count + 1)]
    return (
        f"{count} {kind} {found.backbone} expert{'s' if count > 1 else ''} of {base}, from clean to noisy, for the "
        f"timesteps {', '.join(edges)} of the {schedule} schedule."
    )
