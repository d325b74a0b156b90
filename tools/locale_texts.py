"""The English names and words of all nodes as ComfyUI's locale file: the text that translations start from."""

from __future__ import annotations


def english(object_info: dict) -> dict[str, dict]:
    """The content of locales/en/nodeDefs.json; `object_info` is the server's answer to /object_info."""
    ours = {name: info for name, info in object_info.items() if info["category"].startswith("guidance")}
    return {name: _node(info) for name, info in sorted(ours.items())}


def _node(info: dict) -> dict:
    inputs = {**info["input"].get("required", {}), **info["input"].get("optional", {})}
    outputs = zip(info["output_name"], info["output_tooltips"], strict=True)
    return {
        "display_name": info["display_name"],
        "description": info["description"],
        "inputs": {name: {"name": name, "tooltip": spec[1]["tooltip"]} for name, spec in inputs.items()},
        "outputs": {str(i): {"name": name, "tooltip": tooltip} for i, (name, tooltip) in enumerate(outputs)},
    }
