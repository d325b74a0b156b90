"""From a name that a person or a workflow gives to a place on disk: one check for names, one way to a file.

Nothing here follows a name out of its folder, and every refusal says what came and what is allowed.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from difflib import get_close_matches
from pathlib import Path, PurePosixPath, PureWindowsPath

_FORBIDDEN = frozenset('\\/:*?"<>|')
_SUPERSCRIPTS = "\N{SUPERSCRIPT ONE}\N{SUPERSCRIPT TWO}\N{SUPERSCRIPT THREE}"
_PORTS = (f"{port}{digit}" for port in ("COM", "LPT") for digit in f"123456789{_SUPERSCRIPTS}")
_DEVICES = frozenset({"CON", "PRN", "AUX", "NUL", "CONIN$", "CONOUT$", *_PORTS})
LONGEST = 100  # characters of a part of a name; with an ending of ours it must fit into the 255 bytes of most disks
_BYTES = 200
_SHOWN = 60
_FOLDERS = 100_000  # below one folder; more are a tree of links


def name_problem(name: str, example: str, place: str, ending: str = "") -> str | None:
    """What is wrong with the name of a file or folder that is to be made, in words; None if nothing is.

    Args:
        example: a good name; one with a / means that the name may lie in folders of its own.
        place: where it will lie, for people.
        ending: what the pack puts behind it, which the name itself must not have.
    """
    parts = name.split("/") if "/" in example else [name]
    wrong = next((words for part in parts if (words := _part_problem(part))), None)
    if wrong is None and len(name) > 2 * LONGEST:
        wrong = f"has {len(name)} characters; it can have {2 * LONGEST}"
    if wrong is None and ending and name.lower().endswith(ending):
        wrong = f"ends in {ending}, which is put behind it anyway"
    if wrong is None:
        return None
    return f"name is {shown_name(name)}; it {wrong}. Choose a plain name such as {example}; it will lie in {place}."


def _part_problem(part: str) -> str | None:
    if not part or part in (".", "..") or set(part) & _FORBIDDEN:
        return "is empty or holds one of " + " ".join(sorted(_FORBIDDEN)) + ", or is . or .."
    if not part.isprintable():
        return "holds characters that are no text"
    if part != part.strip(" ") or part.endswith("."):
        return "begins or ends with a space, or ends with a full stop"
    if part.partition(".")[0].upper().rstrip() in _DEVICES:
        return "is the name of a device on Windows"
    if len(part) > LONGEST or len(part.encode()) > _BYTES:
        return f"is longer than {LONGEST} characters"
    return None


def shown_name(name: str) -> str:
    """A name in a message: short, and every character to be seen."""
    text = name if len(name) <= _SHOWN else f"{name[: _SHOWN - 3]}..."
    return repr("".join(mark if mark.isprintable() else "\N{REPLACEMENT CHARACTER}" for mark in text))


def inside(roots: Sequence[Path], name: str) -> Path | None:
    """What lies under a name in the first of these folders that has it; None if none has.

    Raises:
        ValueError: the name leads elsewhere, or is no name at all: the end of a sentence that names it.
    """
    relative = PurePosixPath(name)
    if relative.is_absolute() or ".." in relative.parts or "\\" in name or PureWindowsPath(name).drive:
        raise ValueError("would lie outside")
    if not is_text(name) or any(len(os.fsencode(part)) > 255 for part in relative.parts) or len(name) > 2000:
        raise ValueError("is no name of a file")
    return next((root / relative for root in roots if relative.parts and os.path.exists(root / relative)), None)


def placed(roots: Sequence[Path], name: str, kind: str, place: str, names: Callable[[], Sequence[str]]) -> Path:
    """Where something that people choose by name lies.

    Args:
        kind, place: what it is called, and where it may lie, for people: "guide", "models/guides".
        names: what there is.

    Raises:
        ValueError: there is none of that name, or it would lie outside; the nearest names are told.
    """
    try:
        found = inside(roots, name)
    except ValueError as error:
        raise ValueError(f"The {kind} {shown_name(name)} {error} {place}; choose one from the list.") from None
    if found is None:
        raise ValueError(f"There is no {kind} {shown_name(name)} in {place}{nearest(name, names())}")
    return found


def nearest(name: str, names: Sequence[str], most: int = 10) -> str:
    """The end of a sentence that tells which names there are, the nearest if any is near."""
    near = get_close_matches(name[:_SHOWN], names, 3, 0.5)
    if near:
        return f"; did you mean {', '.join(near)}?"
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return f"; there are {', '.join(names[:most])}{more}." if names else "."


def walk(root: Path) -> Iterator[tuple[Path, list[str], list[str]]]:
    """As `os.walk` with links followed, but no folder inside itself.

    Raises:
        ValueError: more folders than anybody has, which links inside each other make.
    """
    above: dict[str, frozenset[tuple[int, int]]] = {}
    for count, (place, folders, files) in enumerate(os.walk(root, followlinks=True)):
        if count > _FOLDERS:
            raise ValueError(f"{root} has more than {_FOLDERS} folders in it, perhaps by links. Move some away.")
        here = os.stat(place)
        inner = above.pop(place, frozenset()) | {(here.st_dev, here.st_ino)}
        folders[:] = [name for name in folders if _identity(place, name) not in inner]
        above |= {os.path.join(place, name): inner for name in folders}
        yield Path(place), folders, files


def is_text(name: str) -> bool:
    """Whether a file's name is UTF-8 without control characters, so that a page and a message can hold it."""
    return not any(mark < " " or mark == "\x7f" or "\ud800" <= mark <= "\udfff" for mark in name)


def _identity(place: str, name: str) -> tuple[int, int]:
    found = os.stat(os.path.join(place, name))
    return found.st_dev, found.st_ino
