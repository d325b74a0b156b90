"""What saved workflows rely on: node ids, the order of widgets, the names of sockets. Only appending keeps them so.

`tests/node_promises.json` holds what has been promised so far. Widget values are saved by position, links by the names
of inputs and the places of outputs. Prompts that programs queue have nothing for what came later: it must be optional.
"""

from __future__ import annotations

from devtools.prompt import DYNAMIC

WIDGETS = ("INT", "FLOAT", "STRING", "BOOLEAN", "COMBO", DYNAMIC)


def promises(object_info: dict) -> dict[str, dict]:
    """Of every node of ours: its widgets in order with their types, its sockets, and its outputs in order."""
    ours = {name: info for name, info in object_info.items() if info["category"].startswith("guidance")}
    return {name: _node(info) for name, info in sorted(ours.items())}


def broken(promised: dict[str, dict], now: dict[str, dict]) -> list[str]:
    """Which promises are not kept, in words; empty if all are."""
    found = []
    for name, old in promised.items():
        new = now.get(name)
        if new is None:
            found.append(f"{name} is gone: saved workflows name it. Keep it, or register a node replacement.")
            continue
        for kind in ("widgets", "outputs"):
            if new[kind][: len(old[kind])] != old[kind]:
                found.append(f"{name}: the {kind} {old[kind]} are now {new[kind]}; append new ones at the end.")
        choices = new.get("choices", {})
        for choice, widgets in old.get("choices", {}).items():
            if choice not in choices or choices[choice][: len(widgets)] != widgets:
                found.append(f"{name}: the choice {choice} brought {widgets}; keep it, append new ones at the end.")
        lost = {key: kind for key, kind in old["sockets"].items() if new["sockets"].get(key) != kind}
        if lost:
            found.append(f"{name}: the inputs {lost} are gone or of another type.")
        asked = sorted(set(new["required"]) - set(old["required"]))
        if asked:
            found.append(f"{name}: prompts that were saved have no {', '.join(asked)}; make it optional.")
    return found


def _node(info: dict) -> dict:
    inputs = {**info["input"].get("required", {}), **info["input"].get("optional", {})}
    kinds = {name: "COMBO" if isinstance(spec[0], list) else spec[0] for name, spec in inputs.items()}
    lists = [spec[1]["options"] for spec in inputs.values() if spec[0] == DYNAMIC]
    choices = {choice["key"]: _brought(choice["inputs"]) for options in lists for choice in options}
    return {
        "widgets": [[name, kind] for name, kind in kinds.items() if kind in WIDGETS],
        "sockets": {name: kind for name, kind in kinds.items() if kind not in WIDGETS},
        "outputs": list(info["output"]),
        "required": sorted(info["input"].get("required", {})),
        **({"choices": choices} if choices else {}),
    }


def _brought(sections: dict) -> list[list[str]]:
    """The inputs that a choice of a dynamic list brings."""
    return [[name, spec[0]] for inputs in sections.values() for name, spec in inputs.items()]
