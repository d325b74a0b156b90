"""A pickle read as data: an interpreter of pickle's instructions that has nothing it could call.

Python's own unpickler imports what a file names and calls it with what the file says. Here a name that is on the
caller's list becomes a Global, a call becomes a Record of what would be called with what, and byte strings stay on disk
as Blobs. Any other name ends the reading. So a file can at most be refused.

That unpickler with a closed list in `find_class` runs no code either, but nothing bounds it: 9 bytes that put a value
far into its memo fill gigabytes, 329 bytes with a nested tuple as a key or in a set never end (its hash doubles with
every level), it counts neither instructions nor depth, and it holds every byte string, 3 GB of weights, in memory.

Source: the instruction set in the documentation of Python's `pickletools`, protocols 2 to 5.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from typing import Any, BinaryIO

from .words import shown

MAX_INSTRUCTIONS = 500_000  # the largest released EDM2 takes some tens of thousands
MAX_TEXT = 16 * 2**20  # bytes of one string


class CheckpointError(ValueError):
    """A checkpoint that cannot be used; the message says what was found, what is expected and what to do."""


@dataclass(frozen=True)
class Global:
    """The name of a class or function, and nothing more."""

    module: str
    name: str

    def __str__(self) -> str:
        return f"{self.module}.{self.name}"


@dataclass(eq=False, repr=False)
class PickleRecord:
    """An object that was not made: `of` would have been called with `args`, then filled with `items` and `state`."""

    of: Global
    args: tuple
    items: dict[Any, Any] = field(default_factory=dict)
    state: Any = None


@dataclass(frozen=True)
class Blob:
    """A byte string that was not read: `size` bytes from `start` in the file."""

    start: int
    size: int


PERSISTENT = Global("pickle", "persistent_id")  # what a Record of a persistent id is of


class PickleSource:
    """The bytes of a file from `start` to `end`, taken in order."""

    def __init__(self, file: BinaryIO, start: int, end: int, name: str) -> None:
        self.file, self.at, self.end, self.name = file, start, end, name

    def skip(self, size: int) -> Blob:
        """The place of the next `size` bytes. Raises CheckpointError where the file ends before."""
        if size < 0 or size > self.end - self.at:
            raise CheckpointError(
                f"{self.name} ends too early: it announces {size} more bytes where {self.end - self.at} are left; "
                f"download it again."
            )
        blob = Blob(self.at, size)
        self.at += size
        return blob

    def take(self, size: int) -> bytes:
        """The next bytes. Raises CheckpointError where the file ends before."""
        self.file.seek(self.skip(size).start)
        return self.file.read(size)

    def number(self, form: str) -> Any:
        """The next number, as `struct` spells its form."""
        return struct.unpack(form, self.take(struct.calcsize(form)))[0]

    def text(self, size: int) -> str:
        """The next `size` bytes as UTF-8. Raises CheckpointError for more than MAX_TEXT of them."""
        if size > MAX_TEXT:
            raise CheckpointError(f"{self.name} announces a text of {size} bytes; at most {MAX_TEXT} are read.")
        return self.take(size).decode("utf-8", "surrogatepass")

    def line(self) -> str:
        """The text up to the next line feed."""
        found = bytearray()
        while (byte := self.take(1)) != b"\n":
            found += byte
            if len(found) > 1024:
                raise CheckpointError(f"{self.name} is damaged: it holds a name of more than 1024 bytes.")
        return found.decode("utf-8")


class Machine:
    """Runs one pickle of a Source and gives what it leaves: numbers, texts, lists, dicts, tuples and the inert records.

    Args:
        allowed: the dotted names that may occur.
    """

    def __init__(self, source: PickleSource, allowed: Collection[str]) -> None:
        self.source, self.allowed = source, allowed
        self.stack: list[Any] = []
        self.marks: list[list[Any]] = []
        self.memo: dict[int, Any] = {}

    def run(self) -> Any:
        """Raises CheckpointError: another name, an instruction that a saved network has no use for, damage, excess."""
        try:
            for _ in range(MAX_INSTRUCTIONS):
                code = self.source.take(1)
                if code == b".":
                    return self.stack.pop()
                if code not in _INSTRUCTIONS:
                    raise CheckpointError(
                        f"{self.source.name} holds the pickle instruction {code!r}, which no saved network needs; "
                        f"it is damaged or no checkpoint."
                    )
                _INSTRUCTIONS[code](self)
        except (IndexError, KeyError, TypeError, UnicodeDecodeError) as error:
            raise CheckpointError(
                f"{self.source.name} is a damaged pickle ({type(error).__name__} at byte {self.source.at}); "
                f"download it again."
            ) from error
        raise CheckpointError(
            f"{self.source.name} takes more than {MAX_INSTRUCTIONS} instructions to read, far more than any released "
            f"network; it was not read further."
        )

    def marked(self) -> list[Any]:
        """What lies above the last mark, taken off."""
        above, self.stack = self.stack, self.marks.pop()
        return above

    def push(self, value: Any) -> None:
        self.stack.append(value)

    def mark(self) -> None:
        self.marks.append(self.stack)
        self.stack = []

    def name(self, module: Any, name: Any) -> None:
        if not isinstance(module, str) or not isinstance(name, str):
            raise TypeError("a name that is no text")  # its text could be endless, if it were nested
        found = Global(module, name)
        if str(found) not in self.allowed:
            raise CheckpointError(
                f"{self.source.name} asks for {shown(str(found))}, which is not part of a saved network. It was not "
                f"run. Use a .safetensors file, or a file from NVIDIA's own address."
            )
        self.push(found)

    def call(self, args: Any) -> None:
        of = self.stack.pop()
        if not isinstance(of, Global) or not isinstance(args, tuple):
            raise TypeError("a call of what has no name")
        self.push(PickleRecord(of, args))

    def build(self) -> None:
        state, target = self.stack.pop(), self.stack[-1]
        if not isinstance(target, PickleRecord) or target.state is not None:
            raise TypeError("a state for what has none")
        target.state = state

    def extend(self, values: list[Any]) -> None:
        if not isinstance(self.stack[-1], list):
            raise TypeError("an element for what is no list")
        self.stack[-1].extend(values)

    def fill(self, pairs: list[Any]) -> None:
        target = self.stack[-1]
        items = target.items if isinstance(target, PickleRecord) else target
        if not isinstance(items, dict) or len(pairs) % 2:
            raise TypeError("an entry for what is no dict")
        for key, value in zip(pairs[::2], pairs[1::2], strict=True):
            if not isinstance(key, str | int | float | None):
                raise TypeError("a key that is neither text nor number")
            items[key] = value

    def taken(self, count: int) -> list[Any]:
        """The topmost values, taken off."""
        if count > len(self.stack):
            raise IndexError("nothing left")
        values = self.stack[len(self.stack) - count :]
        del self.stack[len(self.stack) - count :]
        return values

    def dictionary(self, pairs: list[Any]) -> None:
        self.push({})
        self.fill(pairs)


def _protocol(machine: Machine) -> None:
    version = machine.source.number("<B")
    if version not in (2, 3, 4, 5):
        raise CheckpointError(f"{machine.source.name} is a pickle of protocol {version}; 2 to 5 are read.")


def _pushes(make: Callable[[Machine], Any]) -> Callable[[Machine], None]:
    return lambda machine: machine.push(make(machine))


def _whole(machine: Machine) -> int:
    return int.from_bytes(machine.source.take(machine.source.number("<B")), "little", signed=True)


def _keep(place: Callable[[Machine], int]) -> Callable[[Machine], None]:
    return lambda machine: machine.memo.__setitem__(place(machine), machine.stack[-1])


def _read_sized(form: str, of: str) -> Callable[[Machine], None]:
    return _pushes(lambda m: getattr(m.source, of)(m.source.number(form)))


_INSTRUCTIONS: dict[bytes, Callable[[Machine], Any]] = {
    b"\x80": _protocol, b"\x95": lambda m: m.source.take(8),  # the length of a frame, a hint for buffering
    b"N": _pushes(lambda m: None), b"\x88": _pushes(lambda m: True), b"\x89": _pushes(lambda m: False),
    b"J": _pushes(lambda m: m.source.number("<i")), b"K": _pushes(lambda m: m.source.number("<B")),
    b"M": _pushes(lambda m: m.source.number("<H")), b"G": _pushes(lambda m: m.source.number(">d")),
    b"\x8a": _pushes(_whole),
    b"\x8c": _read_sized("<B", "text"), b"X": _read_sized("<I", "text"), b"\x8d": _read_sized("<Q", "text"),
    b"C": _read_sized("<B", "skip"), b"B": _read_sized("<I", "skip"), b"\x8e": _read_sized("<Q", "skip"),
    b"\x96": _read_sized("<Q", "skip"),
    b"}": _pushes(lambda m: {}), b"]": _pushes(lambda m: []), b"\x8f": _pushes(lambda m: []),  # a set: its elements
    b")": _pushes(lambda m: ()), b"\x85": _pushes(lambda m: tuple(m.taken(1))),
    b"\x86": _pushes(lambda m: tuple(m.taken(2))), b"\x87": _pushes(lambda m: tuple(m.taken(3))),
    b"(": Machine.mark, b"0": lambda m: m.stack.pop(), b"1": Machine.marked,
    b"t": lambda m: m.push(tuple(m.marked())),
    b"a": lambda m: m.extend(m.taken(1)), b"e": lambda m: m.extend(m.marked()), b"\x90": lambda m: m.extend(m.marked()),
    b"s": lambda m: m.fill(m.taken(2)), b"u": lambda m: m.fill(m.marked()), b"d": lambda m: m.dictionary(m.marked()),
    b"q": _keep(lambda m: m.source.number("<B")), b"r": _keep(lambda m: m.source.number("<I")),
    b"\x94": _keep(lambda m: len(m.memo)),
    b"h": _pushes(lambda m: m.memo[m.source.number("<B")]), b"j": _pushes(lambda m: m.memo[m.source.number("<I")]),
    b"c": lambda m: m.name(m.source.line(), m.source.line()), b"\x93": lambda m: m.name(*m.taken(2)),
    b"R": lambda m: m.call(m.stack.pop()), b"\x81": lambda m: m.call(m.stack.pop()), b"b": Machine.build,
    b"Q": _pushes(lambda m: PickleRecord(PERSISTENT, (m.stack.pop(),))),
}  # fmt: skip
