"""Files of post-hoc averages: two or more stored averages of one training in, one of another width out."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ...checkpoints import state_dicts
from . import posthoc_ema


@dataclass(frozen=True)
class Averaged:
    """What was written, and each source's share in it."""

    path: Path
    shares: tuple[tuple[str, float], ...]


def average_files(files: Sequence[Path], std: float, out: Path | None = None) -> Averaged:
    """Write the average of width `std` at the time of the latest file, beside it unless `out` names another place.

    Raises:
        ValueError: names that do not say time and width, an impossible width, or (CheckpointError) files that cannot be
            read, or a file of that name that exists.
    """
    snapshots = [posthoc_ema.snapshot_of(file.name) for file in files]
    # The last one gives the buffers, and the time of the result.
    order = sorted(range(len(files)), key=lambda index: snapshots[index].time)
    files, snapshots = [files[index] for index in order], [snapshots[index] for index in order]
    shares = posthoc_ema.coefficients(snapshots, posthoc_ema.Snapshot(snapshots[-1].time, std))
    out = out or files[-1].with_name(f"{files[-1].stem.rsplit('-', 1)[0]}-{std:.3f}.safetensors")
    require_new(out)
    opened = [state_dicts.open_checkpoint(file) for file in files]
    tensors = posthoc_ema.combined((checkpoint.tensors() for checkpoint in opened), shares)
    stored = {name: tensor.to(opened[-1].dtype) for name, tensor in tensors.items()}
    sources = [
        {"source": checkpoint.name, "source_sha256": state_dicts.sha256_of(checkpoint.path), "share": share}
        for checkpoint, share in zip(opened, shares, strict=True)
    ]
    facts = {"format": state_dicts.CONVERTED, "config": json.dumps(opened[-1].config), "ema": json.dumps(sources)}
    state_dicts.write_tensors(out, stored, opened[-1].metadata | facts)
    return Averaged(out, tuple((file.name, share) for file, share in zip(files, shares, strict=True)))


def convert_file(file: Path, folder: Path | None = None) -> Path:
    """Write a checkpoint as safetensors beside itself, or into a folder; where it was written.

    Raises:
        CheckpointError: a file that cannot be read, or one of that name that exists.
    """
    checkpoint = state_dicts.open_checkpoint(file)
    out = (folder or file.parent) / f"{file.stem}.safetensors"
    require_new(out)
    state_dicts.convert(checkpoint, out)
    return out


def require_new(path: Path) -> None:
    """Raises CheckpointError if the file exists: nothing is ever overwritten."""
    if path.exists():
        raise state_dicts.CheckpointError(f"{path} exists already; move it away first.")
