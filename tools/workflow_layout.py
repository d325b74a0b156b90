"""Where lanes stand on the canvas so that a workflow opens large: the shared one on the left, the others in a grid."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from workflow_graph import GAP_X, GAP_Y, LANE_GAP, PAD, TITLE, Node

PAGE = (1500, 900)  # pixels of the canvas that a page of 1600 x 1000 leaves


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
    tops = dict.fromkeys(lefts, 0)
    corners = []
    for node in nodes:
        corners.append((lefts[node.column], tops[node.column] + TITLE))
        tops[node.column] += TITLE + node.data["size"][1] + GAP_Y
    return Block(tuple(nodes), tuple(corners), (left - GAP_X, max(tops.values()) - GAP_Y))


def arrange(shared: Block, lanes: Sequence[Block]) -> list[tuple[int, int]]:
    """The corner of every lane, the shared one first; the others in as many columns as show all of them largest."""
    start = shared.size[0] + LANE_GAP + 2 * PAD
    grids = [_grid(lanes, across, start) for across in range(1, min(3, len(lanes)) + 1)]

    def zoom(corners: list[tuple[int, int]]) -> float:
        right = max(x + lane.size[0] for (x, _), lane in zip(corners, lanes, strict=True))
        bottom = max(y + lane.size[1] for (_, y), lane in zip(corners, lanes, strict=True))
        return min(PAGE[0] / (right + 2 * PAD), PAGE[1] / (max(bottom, shared.size[1]) + TITLE + 2 * PAD))

    return [(0, 0), *max(grids, key=zoom, default=[])]


def _grid(lanes: Sequence[Block], across: int, start: int) -> list[tuple[int, int]]:
    """Lanes row by row, each row as high as its highest, each column as wide as its widest."""
    widths = [max(lane.size[0] for lane in lanes[column::across]) for column in range(across)]
    lefts = [start + sum(widths[:column]) + column * (LANE_GAP + 2 * PAD) for column in range(across)]
    corners, top = [], 0
    for first in range(0, len(lanes), across):
        row = lanes[first : first + across]
        corners += [(lefts[column], top) for column in range(len(row))]
        top += max(lane.size[1] for lane in row) + TITLE + 2 * PAD + LANE_GAP
    return corners
