"""The English names and words of all nodes as ComfyUI's locale file: the text that translations start from."""

from __future__ import annotations

from devtools.prompt import DYNAMIC


def english(object_info: dict) -> dict[str, dict]:
    """The content of locales/en/nodeDefs.json; `object_info` is the server's answer to /object_info."""
    ours = {name: info for name, info in object_info.items() if info["category"].startswith("guidance")}
    return {name: _node(info) for name, info in sorted(ours.items())}


def _node(info: dict) -> dict:
    inputs = _inputs(info["input"])
    for name, spec in [*inputs.items()]:
        for choice in spec[1].get("options", ()) if spec[0] == DYNAMIC else ():
            # The page looks for the words of "rule.alpha" under this name.
            inputs |= {f"{name}_{own}": (*more, own) for own, more in _inputs(choice["inputs"]).items()}
    outputs = zip(info["output_name"], info["output_tooltips"], strict=True)
    return {
        "display_name": info["display_name"],
        "description": info["description"],
        "inputs": {
            key: {"name": own[0] if own else key, "tooltip": options["tooltip"]}
            for key, (_, options, *own) in inputs.items()
        },
        "outputs": {str(i): {"name": name, "tooltip": tooltip} for i, (name, tooltip) in enumerate(outputs)},
    }


def _inputs(sections: dict) -> dict:
    return {**sections.get("required", {}), **sections.get("optional", {})}
