"""Where lanes stand on the canvas so that a workflow opens large: the shared one on the left, the others in rows."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations, pairwise

from workflow_graph import GAP_FOLDED, GAP_X, GAP_Y, LANE_GAP, PAD, TITLE, Node

PAGE = (1600, 1000)  # pixels
SHARE = 0.75  # of the page that a workflow fills where it is shown whole, with a rim around it
RIM = 10


@dataclass(frozen=True)
class Block:
    """One lane: its nodes, the corner of each from the lane's own, and the size of all of them together."""

    nodes: tuple[Node, ...]
    corners: tuple[tuple[int, int], ...]
    size: tuple[int, int]


def block_of(nodes: Sequence[Node]) -> Block:
    """The nodes in columns of their own widths, those of a column under each other."""
    lefts, left = {}, 0
    for column in sorted({node.column for node in nodes}):
        lefts[column] = left
        left += GAP_X + max(node.data["size"][0] for node in nodes if node.column == column)
    tops, bottom = dict.fromkeys(lefts, 0), 0
    corners = []
    for node in nodes:
        corners.append((lefts[node.column], tops[node.column] + TITLE))
        height, gap = (0, GAP_FOLDED) if node.data["flags"].get("collapsed") else (node.data["size"][1], GAP_Y)
        bottom = max(bottom, tops[node.column] + TITLE + height)
        tops[node.column] += TITLE + height + gap
    return Block(tuple(nodes), tuple(corners), (left - GAP_X, bottom))


@dataclass(frozen=True)
class Arrangement:
    """The corner of every lane, the shared one first, and how large the page shows all of them."""

    corners: tuple[tuple[int, int], ...]
    zoom: float


def arrange(shared: Block, lanes: Sequence[Block]) -> Arrangement:
    """The shared lane on the left, the others row by row, divided so that all show largest."""
    start = shared.size[0] + LANE_GAP + 2 * PAD

    def arrangement(ends: Sequence[int]) -> Arrangement:
        corners = ((0, 0), *_rows(lanes, ends, start))
        right = max(x + block.size[0] for (x, _), block in zip(corners, (shared, *lanes), strict=True))
        bottom = max(y + block.size[1] for (_, y), block in zip(corners, (shared, *lanes), strict=True))
        return Arrangement(corners, opening_zoom(right + 2 * PAD, bottom + TITLE + 2 * PAD))

    return max((arrangement(ends) for ends in _divisions(len(lanes))), key=lambda made: made.zoom)


def opening_zoom(width: float, height: float) -> float:
    """How large the page shows a workflow of this size when it shows the whole of it."""
    return SHARE * min(PAGE[0] / (width + 2 * RIM), PAGE[1] / (height + 2 * RIM))


def _divisions(count: int) -> Iterator[tuple[int, ...]]:
    """Where the rows may end, of so many lanes in their order."""
    if not count:
        yield ()
    for inner in range(count):
        yield from ((*ends, count) for ends in combinations(range(1, count), inner))


def _rows(lanes: Sequence[Block], ends: Sequence[int], start: int) -> list[tuple[int, int]]:
    """Lanes beside each other, each row as high as its highest."""
    corners, top = [], 0
    for first, end in pairwise((0, *ends)):
        left = start
        for lane in lanes[first:end]:
            corners.append((left, top))
            left += lane.size[0] + LANE_GAP + 2 * PAD
        top += max(lane.size[1] for lane in lanes[first:end]) + TITLE + 2 * PAD + LANE_GAP
    return corners
