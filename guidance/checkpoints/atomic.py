"""Writing files: whole or not at all, under a name that nobody else uses, and equal contents as equal bytes.

Several processes may write into one folder. What is not whole yet has a name of its own; `publish` gives it the final
one without ever overwriting; `name_lock` keeps a name to one process while it works for it.
"""

from __future__ import annotations

import errno
import json
import os
import re
import secrets
import shutil
from collections.abc import Generator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

_FULL = (errno.ENOSPC, errno.EDQUOT)
_NO_LINKS = (errno.EPERM, errno.EACCES, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EXDEV)  # FAT, some shares
_NO_LOCKS = (errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.ENOLCK)


class NameInUseError(ValueError):
    """Another process works for this name at the moment."""


def atomic_save(
    path: str | Path, tensors: Mapping[str, Tensor], header: Mapping[str, str], overwrite: bool = True
) -> None:
    """A safetensors file that is there as a whole or not at all, and that those may read who may read new files.

    Raises:
        FileExistsError: the file is there, and is not to be overwritten.
        OSError: it cannot be written; safetensors' own error is turned into one.
    """
    path = Path(path)
    with unfinished(path) as partial:
        partial.touch()
        mode = partial.stat().st_mode
        try:
            save_file(dict(tensors), partial, dict(header))
        except SafetensorError as error:
            raise _system_error(path, error) from error
        partial.chmod(mode)  # safetensors from 0.8 on lets only the owner read, whatever the umask (its issue 782)
        _in_order(partial)
        if overwrite:
            os.replace(partial, path)
        else:
            publish(partial, path)


def atomic_write(path: Path, data: bytes) -> None:
    """A file of these bytes, whole or not at all, in the place of what was there. Raises OSError."""
    with unfinished(path) as partial:
        partial.write_bytes(data)
        os.replace(partial, path)


@contextmanager
def unfinished(path: Path) -> Generator[Path]:
    """A free name beside a file or folder, for what is not whole yet; what is left under it at the end is removed."""
    partial = path.with_name(f"{path.name[:40]}.{secrets.token_hex(6)}.partial")
    try:
        yield partial
    finally:
        if partial.is_dir():
            shutil.rmtree(partial, ignore_errors=True)
        else:
            partial.unlink(missing_ok=True)


def publish(partial: Path, path: Path) -> None:
    """Give a file or folder that is whole its name, unless something has it.

    Raises:
        FileExistsError: something is there already; it stays as it is.
    """
    if os.name == "nt" or partial.is_dir():
        if path.exists():  # a rename would take the place of an empty folder
            raise FileExistsError(errno.EEXIST, "exists already", str(path))
        try:
            partial.rename(path)
        except OSError as error:
            if error.errno in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR):
                raise FileExistsError(errno.EEXIST, "exists already", str(path)) from error
            raise
        return
    try:
        os.link(partial, path)
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
        path.open("xb").close()  # the name is ours from here on, and empty for a moment
        os.replace(partial, path)


@contextmanager
def name_lock(path: Path) -> Generator[None]:
    """Keep a name to this process; the system frees it when the process dies. The folder is made where it is missing.

    On a disk without locks nothing is kept, and `publish` alone guards the name.

    Raises:
        NameInUseError: another process, or another part of this one, has it.
        OSError: the folder cannot be written.
    """
    make_folder(path.parent)
    lock = path.with_name(f".{path.name}.lock")
    handle = _open_locked(lock)
    if handle is None:
        raise NameInUseError(
            f"Another ComfyUI or command is at work on {path}. Wait until it is done and run this again, or choose "
            f"another name."
        )
    try:
        yield
    finally:
        if os.name != "nt":
            lock.unlink(missing_ok=True)  # while it is locked: whoever waits for it looks whether it is still there
        handle.close()
        if os.name == "nt":
            with suppress(PermissionError):  # another has opened it since
                lock.unlink(missing_ok=True)


def make_folder(folder: Path) -> None:
    """A folder, with those around it, unless it is there. Raises OSError, but never FileExistsError."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except FileExistsError as error:
        raise NotADirectoryError(errno.ENOTDIR, "a file is in the way", str(folder)) from error


@contextmanager
def disk_words(place: Path, kept: str) -> Generator[None]:
    """Let what the system says of a disk leave in words. kept: what is there nevertheless, and what to do.

    Raises:
        FileExistsError: as it came: it is about names.
        OSError: every other one, in words, with its number.
    """
    try:
        yield
    except FileExistsError:
        raise
    except OSError as error:
        why = "The disk is full at" if error.errno in _FULL else "Nothing can be written at"
        said = OSError(f"{why} {place} ({error.strerror or error}). {kept}")
        said.errno = error.errno
        raise said from error


def require_room(folder: Path, needed: int, what: str) -> None:
    """Raise OSError in words if a folder's disk has fewer bytes left than are needed for certain."""
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise OSError(
            f"{folder} has {free / 2**20:.1f} MB left, and {what} needs {needed / 2**20:.1f} MB. Make room there and "
            f"run this again."
        )


def _open_locked(lock: Path) -> BinaryIO | None:
    """The lock's file, locked; None if another has it."""
    while True:
        with ExitStack() as opened:
            handle = opened.enter_context(lock.open("a+b"))
            if not _lock(handle):
                return None
            with suppress(FileNotFoundError):  # its last owner removed it in the meantime
                if os.path.samestat(os.fstat(handle.fileno()), lock.stat()):
                    opened.pop_all()
                    return handle


def _lock(handle: BinaryIO) -> bool:
    """Whether a file could be locked for this handle alone."""
    try:
        if os.name == "nt":
            import msvcrt

            handle.seek(0)
            msvcrt.locking(handle.fileno(), msvcrt.LK_NBLCK, 1)
        else:
            import fcntl

            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):
        return False
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise
    return True


def _system_error(path: Path, error: SafetensorError) -> OSError:
    """safetensors names the system's error by its number in its words alone."""
    number = re.search(r"os error (\d+)", str(error))
    said = OSError(f"{path.name} could not be written: {error}")
    said.errno = int(number[1]) if number else None
    return said


def _in_order(path: Path) -> None:
    """Sort the header's strings, whose order safetensors leaves to chance."""
    with open(path, "r+b") as file:
        length = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(length))
        if "__metadata__" in header:
            header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
        file.seek(8)
        file.write(json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode().ljust(length))
