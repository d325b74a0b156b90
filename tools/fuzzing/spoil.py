"""Ways to spoil a valid file: its bytes, the JSON in it, and the header and tensors of a safetensors file."""

from __future__ import annotations

import json
import struct
from copy import deepcopy
from pathlib import Path
from random import Random
from typing import Any

import torch

DEEP = 20_000
LEAVES: tuple[Any, ...] = (
    None, True, False, -1, 0, 1, 0.5, 30_000, 10**6, 2**31, 2**40, 2**63, 10**400, -(10**400), 1e308, float("nan"),
    float("inf"), "", "x", "x" * 100_000, "\0", "\x1b[2J", "\ud800", "../../x", "\u202e", [], {}, [[]], [1, 2, 3],
    {"a": 1}, list(range(5000)), {"size": 30_000}, [10**6] * 4,
)  # fmt: skip
TEXTS = (
    "", "[", "{", "nul", "[" * DEEP, '{"a":' * DEEP, "[" * DEEP + "]" * DEEP, '{"a":' * DEEP + "1" + "}" * DEEP,
    "9" * 6000, "-", '"', "\ufeff{}", "{}\0", "{" + '"a":1,' * 1000 + '"b":2}', " " * 2_000_000 + "{}",
)  # fmt: skip
NAMES = (
    "", ".", "..", "a" * 300, "a" * 70_000, "\0", "\n", "\u202e.weight", "weight", "999999999", "__metadata__",
    "input_blocks.999999999.0.weight", "output_blocks.99999999.0.weight", "classifier.99999999999.weight",
    "input_blocks..0.weight", "input_blocks.x.0.weight", "output_blocks.-1.0.weight", "module.x", "expert.9.whole.x",
    "input_blocks.\u0661.0.weight", "classifier.\u00b2.weight", "input_blocks", "output_blocks.", "optimizer.step.x",
)  # fmt: skip
DTYPES = ("I8", "U8", "I16", "I32", "I64", "U64", "BOOL", "F16", "BF16", "F64", "F8_E4M3", "F8_E5M2", "F8_E8M0", "F4",
          "C64", "X")  # fmt: skip


def spoil_bytes(data: bytes, random: Random) -> tuple[str, bytes]:
    """Flipped, removed, doubled, cut or overwritten bytes; more often near the start, where the structure is."""
    kind = random.choice(("flip", "flip", "flips", "cut", "empty", "longer", "remove", "double", "zeros", "start"))
    near = min(len(data), random.choice((16, 200, 2000, len(data)))) or 1
    at, changed = random.randrange(near), bytearray(data)
    if kind in ("flip", "flips") and data:
        for _ in range(1 if kind == "flip" else random.randrange(2, 40)):
            changed[random.randrange(near)] ^= 1 << random.randrange(8)
    elif kind == "cut":
        del changed[at:]
    elif kind == "empty":
        changed.clear()
    elif kind == "longer":
        changed += random.randbytes(random.randrange(1, 500))
    elif kind == "remove":
        del changed[at : at + random.randrange(1, 50)]
    elif kind == "double":
        changed[at:at] = changed[at : at + random.randrange(1, 200)]
    elif kind == "zeros":
        changed[at : at + 64] = bytes(min(64, len(changed) - at))
    else:
        start = random.choice((b"PK\x03\x04", b"\x80\x04", b"<html>", b"\x7fELF", b"%!PS-Adobe-3.0\n", b"\0" * 8))
        changed[: len(start)] = start
    return f"{kind} near {at}", bytes(changed)


def spoil_json(text: str, random: Random) -> tuple[str, str]:
    """Another leaf, a key less or more, or a text that is no such JSON."""
    if random.random() < 0.25:
        chosen = random.choice(TEXTS)
        return f"JSON text {chosen[:12]!r}", chosen
    value = json.loads(text)
    words = "JSON"
    for _ in range(random.choice((1, 1, 1, 2, 4))):
        said, value = _changed(value, random)
        words += f" {said}"
    return words, json.dumps(value)


def _changed(value: Any, random: Random) -> tuple[str, Any]:
    holder, key = _place(value, random)
    if holder is None:
        return "whole", deepcopy(random.choice(LEAVES))
    kind = random.choice(("leaf", "leaf", "leaf", "drop", "deep", "twist"))
    if kind == "drop":
        del holder[key]
    elif kind == "deep":
        inner: Any = holder[key]
        for _ in range(random.choice((3, 40, 200))):
            inner = [inner]
        holder[key] = inner
    elif kind == "twist" and isinstance(holder[key], int | float):
        factor = random.choice((-1, 0, 2, 0.5, 1000, 10**9))
        huge = isinstance(holder[key], int) and abs(holder[key]) > 2**1000  # no float can hold the half of it
        holder[key] = holder[key] // 2 if huge and factor == 0.5 else holder[key] * factor
    else:
        holder[key] = deepcopy(random.choice(LEAVES))  # the next change may be inside it
    return f"{kind} {str(key)[:40]}", value


def _place(value: Any, random: Random) -> tuple[Any, Any]:
    """A place inside nested dicts and lists: what holds it, and its key; (None, None) where there is none."""
    places = []
    left = [value] if isinstance(value, dict | list) else []
    while left:
        holder = left.pop()
        keys = list(holder) if isinstance(holder, dict) else list(range(min(len(holder), 20)))
        places += [(holder, key) for key in keys]
        left += [holder[key] for key in keys if isinstance(holder[key], dict | list) and holder[key]]
    return random.choice(places) if places else (None, None)


def read_safetensors(path: Path) -> tuple[dict[str, Any], bytes]:
    """Header and numbers of a valid file."""
    data = path.read_bytes()
    (length,) = struct.unpack("<Q", data[:8])
    return json.loads(data[8 : 8 + length]), data[8 + length :]


def written(header: dict[str, Any], numbers: bytes) -> bytes:
    text = json.dumps(header).encode("utf-8", "surrogatepass")
    return struct.pack("<Q", len(text)) + text + numbers


def spoil_safetensors(path: Path, random: Random) -> tuple[str, bytes, bool]:
    """What was done, the file, and whether it must be refused wherever its tensors are used as weights."""
    kind = random.choice(("bytes", "name", "dtype", "shape", "offsets", "drop", "add", "numbers", "header", "header"))
    if kind == "bytes":
        return (*spoil_bytes(path.read_bytes(), random), False)
    header, numbers = read_safetensors(path)
    names = [name for name in header if name != "__metadata__"]
    name = random.choice(names)
    if kind == "numbers":
        return _numbers(header, numbers, name, random)
    if kind == "header":
        return (*_header(header, numbers, random), False)
    if kind == "name":
        chosen = random.choice((*NAMES, name + ".x", "module." + name, name.upper()))
        header[chosen] = header.pop(name)
        return f"{name} named {chosen[:40]!r}", written(header, numbers), False
    if kind == "drop":
        for gone in random.sample(names, random.choice((1, 1, len(names) // 2, len(names)))):
            del header[gone]
        return "tensors dropped", written(header, numbers), False
    if kind == "add":
        header[random.choice(NAMES)] = {"dtype": random.choice(DTYPES), "shape": [0], "data_offsets": [0, 0]}
        return "an empty tensor more", written(header, numbers), False
    return _entry(header, name, kind, random), written(header, numbers), False


def _entry(header: dict[str, Any], name: str, kind: str, random: Random) -> str:
    """Another dtype, shape or place of one tensor."""
    entry = header[name]
    if kind == "dtype":
        entry["dtype"] = random.choice(DTYPES)
    elif kind == "shape":
        shape = entry["shape"]
        entry["shape"] = random.choice((
            [], [0], [*shape, 1], shape[::-1], [1] * 70 + shape, [2**62, 2**62], [2**40, 0], [0, *shape], [-1], [0.5],
            [2**64], "x", [2**31, 2**31, 0],
        ))
        if random.random() < 0.3:
            entry["data_offsets"] = [0, 0]
    else:
        entry["data_offsets"] = random.choice(([0, 0], [0, 4], [4, 0], [0, 2**62], [-4, 0], [2**64, 2**64], [], "x"))
    return f"{kind} of {name}: {str(entry)[:80]}"


def _header(header: dict[str, Any], numbers: bytes, random: Random) -> tuple[str, bytes]:
    """Another string in the metadata."""
    metadata = header.setdefault("__metadata__", {})
    key = random.choice([*metadata, "config", "labels", "heads", "schedule", "preprocessing", "architecture", "format"])
    text = metadata.get(key, "{}")
    is_json = isinstance(text, str) and text[:1] in "[{"
    words, changed = spoil_json(text, random) if is_json and random.random() < 0.8 else ("text", random.choice(
        (*TEXTS, *(leaf for leaf in LEAVES if isinstance(leaf, str)), "guidance-components/tiny-guide/9", "1" * 5000)
    ))
    metadata[key] = changed
    return f"metadata {key}: {words}", written(header, numbers)


def _numbers(header: dict[str, Any], numbers: bytes, name: str, random: Random) -> tuple[str, bytes, bool]:
    """What is no weight in one tensor: NaN, infinity, or whole numbers under another dtype with the right shape."""
    entry = header[name]
    start, end = entry["data_offsets"]
    if entry["dtype"] != "F32" or end == start:
        return "nothing", written(header, numbers), False
    kind = random.choice(("nan", "inf", "I32", "I32", "int64", "complex", "bool"))
    at = start + 4 * random.randrange((end - start) // 4)
    if kind in ("nan", "inf"):
        bad = struct.pack("<f", float(kind))
        return f"{kind} in {name}", written(header, numbers[:at] + bad + numbers[at + 4 :]), True
    if kind == "I32":
        entry["dtype"] = "I32"
        return f"{name} as I32", written(header, numbers), True
    kinds = {"int64": ("I64", torch.int64), "complex": ("C64", torch.complex64), "bool": ("BOOL", torch.bool)}
    word, dtype = kinds[kind]
    raw = torch.ones(entry["shape"], dtype=dtype).reshape(-1).view(torch.uint8).numpy().tobytes()
    grown = len(raw) - (end - start)
    for other in header.values():
        if isinstance(other, dict) and "data_offsets" in other and other["data_offsets"][0] >= end:
            other["data_offsets"] = [place + grown for place in other["data_offsets"]]
    entry |= {"dtype": word, "data_offsets": [start, start + len(raw)]}
    return f"{name} as {word}", written(header, numbers[:start] + raw + numbers[end:]), True
