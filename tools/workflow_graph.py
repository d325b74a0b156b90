"""A small builder for saved workflows (schema 0.4): nodes in lanes and columns, laid out, linked and stamped."""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from devtools.prompt import has_control
from devtools.server import PACK

DYNAMIC = "COMFY_DYNAMICCOMBO_V3"  # a list whose choices may bring inputs of their own
WIDGETS = {"INT", "FLOAT", "STRING", "BOOLEAN", "COMBO", DYNAMIC}
AUTOGROW = "COMFY_AUTOGROW_V3"
TITLE, SLOT, WIDGET, FOOT = 30, 20, 24, 14  # heights of a node's parts on the page, in pixels
CURVE = 152  # height of the curve of strength over noise, on nodes that have one
CURVES = ("GuidanceSchedule", "GuidanceExpertSwitch", "GuidanceLossWeighting")
PICTURE = 290  # and of the picture on nodes that show one
PICTURES = ("GuidanceMakePictures", "GuidanceTrainExperts", "LossGraphNode")
SHOWN_FOR = "guidance_shown_for"  # host/schema/visibility.py
GAP_X, GAP_Y, GAP_FOLDED, LANE_GAP, PAD = 40, 44, 10, 26, 15
GROUP_COLOR = "#3f789e"


@dataclass(frozen=True)
class Stamps:
    """The versions that nodes say they come from."""

    pack: str
    core: str


@dataclass(frozen=True)
class Output:
    """One output of a node, to connect to another node's input; `value`: what a widget there keeps."""

    node: int
    slot: int
    kind: str
    value: float | None = None


@dataclass
class Node:
    """A node that was added; `node["NAME"]` is its output of that name."""

    number: int
    lane: int
    column: int
    data: dict

    def __getitem__(self, name: str) -> Output:
        names = [output["name"] for output in self.data["outputs"]]
        slot = names.index(name)
        return Output(self.number, slot, self.data["outputs"][slot]["type"])


@dataclass
class Workflow:
    """A workflow under construction. Lanes run left to right; the nodes of one lane and column stand in a stack."""

    name: str
    description: str
    object_info: dict
    stamps: Stamps
    nodes: list[Node] = field(default_factory=list)
    links: list[list] = field(default_factory=list)
    titles: dict[int, str] = field(default_factory=dict)
    app: dict[str, list] = field(default_factory=dict)

    def lane(self, title: str) -> int:
        """A new lane, drawn as a group with this title."""
        number = len(self.titles)
        self.titles[number] = title
        return number

    def note(self, lane: int, column: int, text: str, size: tuple[int, int]) -> None:
        """A note for people, with markdown in it."""
        data = {"inputs": [], "outputs": [], "title": "Read me", "properties": {}, "widgets_values": [text]}
        self._append("MarkdownNote", lane, column, {**data, "color": "#432", "bgcolor": "#653"}, size)

    def add(
        self, kind: str, lane: int, column: int, /, *, title: str | None = None,
        size: tuple[int, int] | None = None, **values: Any,
    ) -> Node:
        """A node: `values` are its widget values and, as `Output`s, its links; the rest keeps the node's defaults."""
        info = self.object_info[kind]
        inputs = inputs_of(info, values)
        unknown = values.keys() - {name for name, _, _ in inputs}
        if unknown:
            raise ValueError(f"{kind} has no input {', '.join(sorted(unknown))}.")
        number = len(self.nodes) + 1
        data = {
            "inputs": [self._socket(number, slot, *entry, values) for slot, entry in enumerate(inputs)],
            "outputs": [
                {"name": name, "type": type_, "links": None}
                for name, type_ in zip(info["output_name"], info["output"], strict=True)
            ],
            **({"title": title} if title else {}),
            "properties": self._stamp(kind, info),
            "widgets_values": widget_values(info, values),
        }
        width, height = size_of(data, hidden_of(info, data))
        more = (CURVE if has_curve(kind, data) else 0) + (PICTURE if kind in PICTURES else 0)
        return self._append(kind, lane, column, data, size or (width, height + more))

    def open_as_app(self, controls: Mapping[str, tuple[Node, str]], results: Sequence[Node]) -> None:
        """Let the page open this as an app: these widgets by the words beside them, and what these nodes show."""
        for words, (node, name) in controls.items():
            next(socket for socket in node.data["inputs"] if socket["name"] == name)["label"] = words
        inputs = [[node.number, name] for node, name in controls.values()]
        self.app = {"inputs": inputs, "outputs": [node.number for node in results]}

    def fold(self, node: Node) -> Node:
        """Let only the title of a node be seen."""
        node.data["flags"] = {"collapsed": True}
        return node

    def _append(self, kind: str, lane: int, column: int, data: dict, size: tuple[int, int]) -> Node:
        number = len(self.nodes) + 1
        order = {"id": number, "type": kind, "pos": [0, 0], "size": list(size), "flags": {}, "order": number - 1}
        self.nodes.append(Node(number, lane, column, {**order, "mode": 0, **data}))
        return self.nodes[-1]

    def _socket(self, number: int, slot: int, name: str, kind: str, options: dict, values: dict) -> dict:
        socket: dict[str, Any] = {"name": name, "type": kind}
        if options.get("optional"):
            socket["shape"] = 7
        if is_widget(kind, options):
            socket["widget"] = {"name": name}
        source = values.get(name)
        socket["link"] = self._link(source, number, slot) if isinstance(source, Output) else None
        return socket

    def _link(self, source: Output, node: int, slot: int) -> int:
        number = len(self.links) + 1
        self.links.append([number, source.node, source.slot, node, slot, source.kind])
        output = self.nodes[source.node - 1].data["outputs"][source.slot]
        output["links"] = [*(output["links"] or []), number]
        return number

    def _stamp(self, kind: str, info: dict) -> dict[str, str]:
        ours = info["python_module"].startswith("custom_nodes.")
        pack, version = (PACK, self.stamps.pack) if ours else ("comfy-core", self.stamps.core)
        return {"Node name for S&R": kind, "cnr_id": pack, "ver": version}

    def build(self) -> dict:
        """The workflow as ComfyUI saves it."""
        groups = self._place()
        return {
            "id": str(uuid.uuid5(uuid.NAMESPACE_URL, f"{PACK}/{self.name}")),
            "revision": 0,
            "last_node_id": len(self.nodes),
            "last_link_id": len(self.links),
            "nodes": [node.data for node in self.nodes],
            "links": self.links,
            "groups": groups,
            "config": {},
            "extra": {
                "ds": {"scale": 0.6, "offset": [60, 90]}, "description": self.description,
                **({"linearMode": True, "linearData": self.app} if self.app else {}),
            },
            "version": 0.4,
        }

    def _place(self) -> list[dict]:
        """Give every node its position; the groups around the lanes."""
        lefts = self._columns()
        groups, top = [], 0
        for lane, title in self.titles.items():
            members = [node for node in self.nodes if node.lane == lane]
            heights: dict[int, int] = {}
            for node in members:
                stacked = heights.get(node.column, 0)
                node.data["pos"] = [lefts[node.column], top + stacked + TITLE]
                heights[node.column] = stacked + TITLE + node.data["size"][1] + GAP_Y
            bottom = top + max(heights.values()) - GAP_Y
            left = min(lefts[node.column] for node in members) - PAD
            right = max(lefts[node.column] + node.data["size"][0] for node in members) + PAD
            box = [left, top - TITLE - PAD, right - left, bottom - top + TITLE + 2 * PAD]
            groups.append({"id": lane + 1, "title": title, "bounding": box, "color": GROUP_COLOR, "flags": {}})
            # The first lane is what all others share: it stands to their left.
            top = 0 if lane == 0 else bottom + TITLE + 2 * PAD + LANE_GAP
        return groups

    def _columns(self) -> dict[int, int]:
        lefts, left = {}, 0
        for column in range(1 + max(node.column for node in self.nodes)):
            lefts[column] = left
            left += GAP_X + max((node.data["size"][0] for node in self.nodes if node.column == column), default=0)
        return lefts


def inputs_of(info: dict, values: Mapping[str, Any] = MappingProxyType({})) -> list[tuple[str, str, dict]]:
    """Name, type and options of a node's inputs in the order of the page: sockets first, then widgets.

    values: what is set; a dynamic list brings the inputs of what is chosen there, or of its first choice.
    """
    found = []
    for section in ("required", "optional"):
        for name in info["input_order"].get(section, ()):
            kind, *rest = info["input"][section][name]
            options: dict[str, Any] = {**(rest[0] if rest else {}), "optional": section == "optional"}
            if isinstance(kind, list):
                kind, options = "COMBO", {**options, "options": kind}
            brought = _brought(name, options["options"], values) if kind == DYNAMIC else []
            if kind == DYNAMIC:
                options["options"] = [choice["key"] for choice in options["options"]]
            found += _grown(name, options) if kind == AUTOGROW else [(name, kind, options), *brought]
    return sorted(found, key=lambda entry: is_widget(entry[1], entry[2]))


def _brought(name: str, choices: list[dict], values: Mapping[str, Any]) -> list[tuple[str, str, dict]]:
    """The inputs that a choice of a dynamic list brings, named as the page names them: "rule.alpha"."""
    chosen = values.get(name, choices[0]["key"])
    given = next(choice["inputs"] for choice in choices if choice["key"] == chosen)
    inner = {"input": given, "input_order": {section: list(inputs) for section, inputs in given.items()}}
    return [(f"{name}.{own}", kind, options) for own, kind, options in inputs_of(inner)]


def _grown(name: str, options: dict) -> list[tuple[str, str, dict]]:
    """The sockets of an input that grows: as many as it must have, each as the page names it."""
    template = options["template"]
    ((kind, *_),) = [socket for section in template["input"].values() for socket in section.values()]
    return [(f"{name}.{template['prefix']}{i}", kind, {"optional": False}) for i in range(template["min"])]


def is_widget(kind: str, options: dict) -> bool:
    """Whether the page shows this input as a widget."""
    return kind in WIDGETS and not options.get("forceInput")


def _widgets(info: dict) -> list[tuple[str, dict]]:
    return [(name, options) for name, kind, options in inputs_of(info) if is_widget(kind, options)]


def widget_values(info: dict, values: dict) -> list:
    """The values of a node's widgets in their order; a seed is followed by what happens to it after a run."""
    found = []
    for name, kind, options in inputs_of(info, values):
        if not is_widget(kind, options):
            continue
        default = options.get("default", options["options"][0] if options.get("options") else "")
        value = values.get(name, default)
        found.append(default if (kept := value.value if isinstance(value, Output) else value) is None else kept)
        if has_control(name, kind, options):
            found.append("fixed")
    return found


def has_curve(kind: str, data: dict) -> bool:
    """Whether the page draws a curve on this node: js/curves/read.js decides alike."""
    names = {socket["name"] for socket in data["inputs"]}
    return kind.startswith("Guidance") and (kind in CURVES or {"unit", "start", "end"} <= names)


def hidden_of(info: dict, data: dict) -> int:
    """How many of a node's widgets the page does not show: js/guidance_nodes.js decides alike."""
    values = dict(zip((name for name, _ in _widgets(info)), data["widgets_values"], strict=False))
    linked = {socket["name"] for socket in data["inputs"] if socket["link"] is not None}
    rules = {name: options[SHOWN_FOR] for name, options in _widgets(info) if SHOWN_FOR in options}
    return sum(
        name not in linked and not (rule["or_filled"] and values[name]) and values[rule["choice"]] not in rule["values"]
        for name, rule in rules.items()
    )


def size_of(data: dict, hidden: int = 0) -> tuple[int, int]:
    """The width and height that the page would give a node, so many of whose widgets are not shown."""
    sockets = sum("widget" not in socket for socket in data["inputs"])
    widgets = len(data["widgets_values"]) - hidden
    return 240, max(sockets, len(data["outputs"])) * SLOT + widgets * WIDGET + FOOT
