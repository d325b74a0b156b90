"""Writing safetensors files: whole or not at all, and equal contents as equal bytes."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor


def atomic_save(path: str | Path, tensors: Mapping[str, Tensor], header: Mapping[str, str]) -> None:
    """A safetensors file that is there as a whole or not at all, and that those may read who may read new files.

    Raises:
        OSError: it cannot be written; safetensors' own error is turned into one.
    """
    partial = Path(path).with_suffix(".partial")
    try:
        partial.touch()
        mode = partial.stat().st_mode
        save_file(dict(tensors), partial, dict(header))
        partial.chmod(mode)  # safetensors from 0.8 on lets only the owner read, whatever the umask (its issue 782)
        _in_order(partial)
        os.replace(partial, path)
    except SafetensorError as error:
        raise OSError(f"{Path(path).name} could not be written: {error}") from error
    finally:
        partial.unlink(missing_ok=True)


def _in_order(path: Path) -> None:
    """Sort the header's strings, whose order safetensors leaves to chance."""
    with open(path, "r+b") as file:
        length = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(length))
        if "__metadata__" in header:
            header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
        file.seek(8)
        file.write(json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode().ljust(length))
