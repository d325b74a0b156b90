"""Reading safetensors files of ours that others may write at the same moment."""

from __future__ import annotations

import json
import os
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load
from torch import Tensor

from .words import shown


def read_snapshot(path: str | Path) -> tuple[dict[str, str], dict[str, Tensor]]:
    """The strings in a file's header and its tensors, in memory of their own and of one state of the file.

    A mapped view would be of whatever lies in the file when it is looked at, and ends the process where a shorter file
    was copied over it; safetensors opens the name a second time for the numbers.

    Raises:
        SafetensorError: no such file's format, or it was changed while it was read.
        OSError: it cannot be read.
    """
    with open(path, "rb") as file:
        before = os.fstat(file.fileno())
        data = file.read()
        after = os.fstat(file.fileno())
    try:
        tensors = load(data)
    except (KeyError, RuntimeError) as error:  # a dtype that torch has not, or more dimensions than it can hold
        raise SafetensorError(f"a tensor in it is none of torch's: {shown(str(error))}") from None
    if (before.st_size, before.st_mtime_ns) != (after.st_size, after.st_mtime_ns):
        raise SafetensorError("it was changed while it was read")
    header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    return header.get("__metadata__", {}), tensors
