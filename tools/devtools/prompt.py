"""From the workflow that people save (a graph with positional widget values) to the prompt that the queue takes.

The web page does this in the browser; the rules here are those of workflow schema 0.4: widget values lie in the order
of the node's inputs, a seed is followed by its "control after generate" choice, an upload by its button, bypassed nodes
hand their inputs through by type, muted nodes and notes vanish.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from .terminal import DevError

DYNAMIC = "COMFY_DYNAMICCOMBO_V3"  # a list whose choices bring inputs of their own
WIDGET_TYPES = {"INT", "FLOAT", "STRING", "BOOLEAN", "COMBO", DYNAMIC}
ONLY_ON_THE_PAGE = {"Note", "MarkdownNote", "Reroute", "PrimitiveNode"}
MUTED, BYPASSED = 2, 4
CONTROL_CHOICES = {"fixed", "increment", "increment-wrap", "decrement", "randomize"}
UPLOADS = ("image_upload", "video_upload", "audio_upload", "file_upload", "animated_image_upload")

# Fifty passes through reroutes and bypassed nodes are more than any graph that a person drew.
MOST_PASSES = 50


def title_of(node: dict) -> str:
    """The title that the user sees on the node."""
    return node.get("title") or node["type"]


def to_prompt(workflow: dict, object_info: dict) -> dict[str, dict[str, Any]]:
    """Convert a saved workflow; `object_info` is the server's answer to /object_info.

    Raises DevError, naming the node, when a node type is unknown, a widget value is left over or a subgraph is used.
    """
    if workflow.get("definitions", {}).get("subgraphs"):
        raise DevError("the workflow uses subgraphs, which this converter does not expand: unpack them and save again")
    graph = _Graph(workflow, object_info)
    prompt = {}
    for node in workflow["nodes"]:
        if node["type"] in ONLY_ON_THE_PAGE or node.get("mode") in (MUTED, BYPASSED):
            continue
        prompt[str(node["id"])] = {
            "class_type": node["type"],
            "inputs": graph.inputs_of(node),
            "_meta": {"title": title_of(node)},
        }
    return prompt


@dataclass
class _Graph:
    workflow: dict
    object_info: dict

    def __post_init__(self) -> None:
        self.nodes = {node["id"]: node for node in self.workflow["nodes"]}
        self.links = {link[0]: (link[1], link[2], link[5]) for link in self.workflow["links"]}

    def inputs_of(self, node: dict) -> dict[str, Any]:
        """The node's inputs: widget values by name, then links, which win over the widget they are attached to."""
        if node["type"] not in self.object_info:
            raise DevError(f"this ComfyUI has no node of type {node['type']} (in the workflow: '{title_of(node)}')")
        values = widget_values(node, self.object_info[node["type"]])
        for socket in node.get("inputs", ()):
            if socket.get("link") is None:
                continue
            source = self.resolve(socket["link"])
            if source is not None:
                values[socket["name"]] = source
            elif "widget" not in socket:
                values.pop(socket["name"], None)
        return values

    def resolve(self, link: int) -> Any:
        """Where a link really comes from: [node id, output], a primitive's value, or None when that node is muted."""
        for _ in range(MOST_PASSES):
            origin, slot, kind = self.links[link]
            node = self.nodes[origin]
            if node["type"] == "PrimitiveNode":
                return node["widgets_values"][0]
            if node["type"] == "Reroute":
                following = node["inputs"][0].get("link")
            elif node.get("mode") == BYPASSED:
                following = _passed_through(node, slot, kind)
            elif node.get("mode") == MUTED:
                return None
            else:
                return [str(origin), slot]
            if following is None:
                return None
            link = following
        raise DevError(f"link {link} of the workflow goes in a circle")


def _passed_through(node: dict, slot: int, kind: str) -> int | None:
    """The link that a bypassed node hands on: the input at the same place if it fits, else the first that fits."""
    sockets = node.get("inputs", [])
    ordered = sockets[slot : slot + 1] + sockets
    return next((s["link"] for s in ordered if s.get("link") is not None and s["type"] in (kind, "*")), None)


def widget_values(node: dict, info: dict) -> dict[str, Any]:
    """Name the positional widget values of a node; values that an older workflow lacks get the node's default."""
    saved = node.get("widgets_values") or []
    if isinstance(saved, dict):
        return dict(saved)
    rest = list(saved)
    values: dict[str, Any] = {}
    following = _widgets(info)
    while following:
        name, kind, options = following.pop(0)
        if rest:
            values[name] = rest.pop(0)
            if has_control(name, kind, options) and rest and rest[0] in CONTROL_CHOICES:
                rest.pop(0)
            if any(options.get(upload) for upload in UPLOADS) and rest and rest[0] == "image":
                rest.pop(0)
        elif "default" in options:
            values[name] = options["default"]
        elif options.get("options"):
            values[name] = options["options"][0] if kind != DYNAMIC else options["options"][0]["key"]
        if kind == DYNAMIC:
            following = _brought(name, values.get(name), options) + following
    # The page's own previews (texts, sizes) keep places too: empty ones, or on nodes that have no widgets at all.
    if values and any(value not in (None, "") for value in rest):
        raise DevError(
            f"node '{title_of(node)}' ({node['type']}) has {len(rest)} more widget values than it has widgets "
            f"(left over: {rest}): it is from another version of the node; open it in ComfyUI and save it again"
        )
    return values


def _brought(name: str, chosen: Any, options: dict) -> list[tuple[str, str, dict]]:
    """The widgets that a choice of a dynamic list adds below it, each named after the list: "codec.encoding"."""
    inputs = next((choice["inputs"] for choice in options["options"] if choice["key"] == chosen), {})
    return [(f"{name}.{inner}", kind, more) for inner, kind, more in _widgets({"input": inputs})]


def _widgets(info: dict) -> list[tuple[str, str, dict]]:
    """Name, type and options of each input that the page shows as a widget, in order."""
    found = []
    for section in ("required", "optional"):
        inputs = info["input"].get(section, {})
        for name in info.get("input_order", {}).get(section, inputs):
            kind = inputs[name][0]
            options = inputs[name][1] if len(inputs[name]) > 1 else {}
            if isinstance(kind, list):
                kind, options = "COMBO", {"options": kind, **options}
            # Only inputs that the page draws as a widget say whether they have a socket beside it.
            if (kind in WIDGET_TYPES or "socketless" in options) and not options.get("forceInput"):
                found.append((name, kind, options))
    return found


def has_control(name: str, kind: str, options: dict) -> bool:
    """Whether the page adds "control after generate" below this widget."""
    return bool(options.get("control_after_generate", kind == "INT" and name in ("seed", "noise_seed")))
