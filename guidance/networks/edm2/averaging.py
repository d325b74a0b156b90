"""Files of post-hoc averages: two or more stored averages of one training in, one of another width out."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from torch import Tensor

from ...checkpoints import state_dicts
from ...checkpoints.atomic import disk_words
from . import posthoc_ema


@dataclass(frozen=True)
class Averaged:
    """The file, and each source's share in it."""

    path: Path
    shares: tuple[tuple[str, float], ...]


def average_files(files: Sequence[Path], std: float, out: Path | None = None) -> Averaged:
    """Write the average of width `std` at the time of the latest file, beside it unless `out` names another place.

    A file of that name which was made of the same files at the same shares stays as it is.

    Raises:
        ValueError: names that do not say time and width, an impossible width, or (CheckpointError) files that cannot be
            read, or another file of that name.
        OSError: it cannot be written, in words.
    """
    snapshots = [posthoc_ema.snapshot_of(file.name) for file in files]
    # The last one gives the buffers, and the time of the result.
    order = sorted(range(len(files)), key=lambda index: snapshots[index].time)
    files, snapshots = [files[index] for index in order], [snapshots[index] for index in order]
    shares = posthoc_ema.coefficients(snapshots, posthoc_ema.Snapshot(snapshots[-1].time, std))
    out = out or files[-1].with_name(f"{files[-1].stem.rsplit('-', 1)[0]}-{std:.3f}.safetensors")
    opened = [state_dicts.open_checkpoint(file) for file in files]
    sources = [
        {"source": checkpoint.name, "source_sha256": state_dicts.sha256_of(checkpoint.path), "share": share}
        for checkpoint, share in zip(opened, shares, strict=True)
    ]
    facts = {"format": state_dicts.CONVERTED, "config": json.dumps(opened[-1].config), "ema": json.dumps(sources)}

    def tensors() -> Mapping[str, Tensor]:
        averaged = posthoc_ema.combine_states((checkpoint.tensors() for checkpoint in opened), shares)
        return {name: tensor.to(opened[-1].dtype) for name, tensor in averaged.items()}

    _write_once(out, opened[-1].metadata | facts, opened[-1].shapes, tensors)
    return Averaged(out, tuple((file.name, share) for file, share in zip(files, shares, strict=True)))


def convert_file(file: Path, folder: Path | None = None, settings: Mapping[str, str] | None = None) -> Path:
    """Write a checkpoint as safetensors beside itself, or into a folder; where it lies.

    A file of that name which was made of the same checkpoint with the same settings stays as it is.

    settings: more strings for its header.

    Raises:
        CheckpointError: a file that cannot be read, or another file of that name.
        OSError: it cannot be written, in words.
    """
    checkpoint = state_dicts.open_checkpoint(file)
    out = (folder or file.parent) / f"{file.stem}.safetensors"
    if out == file:
        raise state_dicts.CheckpointError(f"{file.name} is safetensors already; it can be loaded as it is.")
    said = replace(checkpoint, metadata=checkpoint.metadata | dict(settings or {}))
    _write_once(out, state_dicts.converted_metadata(said), checkpoint.shapes, checkpoint.tensors)
    return out


def _write_once(
    out: Path, metadata: Mapping[str, str], shapes: Mapping[str, tuple[int, ...]],
    tensors: Callable[[], Mapping[str, Tensor]],
) -> None:
    """Write a file unless the same one is there. Raises CheckpointError where another is: nothing is overwritten."""
    if not out.exists():
        with suppress(FileExistsError), disk_words(out.parent, "Nothing was written. Mend that and run this again."):
            state_dicts.write_tensors(out, tensors(), metadata, overwrite=False)
            return
    try:
        there = state_dicts.open_checkpoint(out)
        same = there.metadata == metadata and there.shapes == shapes
    except state_dicts.CheckpointError:
        same = False
    if not same:
        raise state_dicts.CheckpointError(
            f"{out} exists already and was made of something else or otherwise; move it away first."
        )
