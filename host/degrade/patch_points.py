"""Where a transformer lets others stand in for its blocks, found by reading its source.

The host's transformers have no list of their patch points. What they have in common is the loop that asks, for each of
a list of blocks, whether something is put in its place:

    for i, block in enumerate(self.double_blocks):
        if ("double_block", i) in blocks_replace:
"""

from __future__ import annotations

import ast
import inspect
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from types import FunctionType
from typing import Any

from torch import nn


@dataclass(frozen=True)
class Point:
    """A loop over blocks.

    Attributes:
        part: double of ("double_block", i).
        attribute: where the list lies, seen from the module of the loop.
        keywords: by which names a block gets what a replacement hands on.
    """

    part: str
    attribute: str
    keywords: frozenset[str]


ASKED = "patches_replace"
ENDING = "_block"


def block_lists(network: nn.Module) -> dict[str, nn.ModuleList]:
    """The lists of blocks that can be replaced, by the part that their patch points name: double, single, ...

    Replacements under ("double_block", i) are meant. Left out are a part that two lists claim, since neither would be
    known to be meant, and blocks that do not take what the loop would give them (Kandinsky 5 in ComfyUI 0.30).
    """
    found: dict[str, list[nn.ModuleList]] = {}
    for module in network.modules():
        for point in points_of(type(module)):
            blocks: Any = module
            for name in point.attribute.split("."):
                blocks = getattr(blocks, name, None)
            if isinstance(blocks, nn.ModuleList) and len(blocks) and _takes(blocks[0], point.keywords):
                found.setdefault(point.part, []).append(blocks)
    return {part: lists[0] for part, lists in found.items() if all(blocks is lists[0] for blocks in lists)}


def _takes(block: nn.Module, keywords: frozenset[str]) -> bool:
    parameters = inspect.signature(block.forward).parameters
    return keywords <= parameters.keys() or any(p.kind is p.VAR_KEYWORD for p in parameters.values())


@cache
def points_of(kind: type[nn.Module]) -> tuple[Point, ...]:
    """Each loop over blocks in the methods of a class, as it inherits them."""
    methods = {name: method for base in reversed(kind.__mro__) for name, method in vars(base).items()}
    read = [method for method in methods.values() if isinstance(method, FunctionType) and _asks(method)]
    return tuple(dict.fromkeys(point for method in read for point in _points(method)))


def _asks(method: FunctionType) -> bool:
    return ASKED in method.__code__.co_consts


def _points(method: FunctionType) -> Iterator[Point]:
    for loop in ast.walk(ast.parse(textwrap.dedent(inspect.getsource(method)))):
        if not isinstance(loop, ast.For):
            continue
        index, *block = map(ast.unparse, loop.target.elts if isinstance(loop.target, ast.Tuple) else [loop.target])
        parts = {part for node in ast.walk(loop) if (part := _part(node, index))}
        for attribute in _lists(loop, index):
            yield from (Point(part, attribute, _keywords(loop, block)) for part in parts)


def _keywords(loop: ast.For, block: list[str]) -> frozenset[str]:
    """The names in `block(img=args["img"], ...)`, inside the function that a replacement is given."""
    inner = [node for node in ast.walk(loop) if isinstance(node, ast.FunctionDef)]
    calls = [node for function in inner for node in ast.walk(function) if isinstance(node, ast.Call)]
    mine = [call for call in calls if ast.unparse(call.func) in block]
    return frozenset(keyword.arg for call in mine for keyword in call.keywords if keyword.arg)


def _part(node: ast.AST, index: str) -> str | None:
    """double of `("double_block", i) in ...`."""
    if not (isinstance(node, ast.Compare) and isinstance(node.ops[0], ast.In) and isinstance(node.left, ast.Tuple)):
        return None
    key = node.left.elts
    if len(key) != 2 or not isinstance(key[0], ast.Constant) or ast.unparse(key[1]) != index:
        return None
    name = str(key[0].value)
    return name.removesuffix(ENDING) if name.endswith(ENDING) else None


def _lists(loop: ast.For, index: str) -> set[str]:
    """double_blocks of `enumerate(self.double_blocks)`, or of `self.double_blocks[i]` inside a loop over numbers."""
    called = loop.iter
    if isinstance(called, ast.Call) and ast.unparse(called.func) == "enumerate":
        named = [called.args[0]]
    else:
        items = [node for node in ast.walk(loop) if isinstance(node, ast.Subscript)]
        named = [item.value for item in items if ast.unparse(item.slice) == index]
    words = [ast.unparse(name) for name in named]
    return {word.removeprefix("self.") for word in words if word.startswith("self.")}
