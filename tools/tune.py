#!/usr/bin/env python3
"""Run the Tune Guidance node of a saved workflow on a running ComfyUI, without the page.

    python tools/tune.py WORKFLOW.json [--server http://127.0.0.1:8188] [--budget 4000] [--minutes 60] [--out FOLDER]

WORKFLOW.json is one that was saved in the page, or exported for the API. Only what Tune Guidance needs is run. The
recipe, the report and the pictures go to FOLDER; the report is said as well. Started on several servers with one study
(a database address for several machines), they search together. Ctrl-C stops the run on the server; the same command
goes on.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from devtools import gallery
from devtools.prompt import to_prompt
from devtools.server import ROOT, Server
from devtools.terminal import DevError, say

NODE, NAME = "GuidanceTune", "Tune Guidance"
CHANGED = {"study": str, "budget": int, "minutes": float, "seeds": int, "new_seeds": int, "seed": int, "vary": str}
RECIPE, REPORT = 1, 2  # of the node's outputs


class RunningServer(Server):
    """A ComfyUI that somebody else started."""

    def __init__(self, address: str):
        super().__init__(Path(sys.executable), ROOT, ROOT, port=0, cpu=False)
        self._address = address.rstrip("/")

    @property
    def address(self) -> str:
        return self._address


def prompt_of(file: Path, object_info: dict) -> dict[str, dict[str, Any]]:
    """The prompt in a file, whichever way it was saved. Raises DevError in words."""
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DevError(f"{file} cannot be read as a workflow: {error}") from None
    if isinstance(found, dict) and "nodes" in found:
        return to_prompt(found, object_info)
    if isinstance(found, dict) and found and all(isinstance(n, dict) and "class_type" in n for n in found.values()):
        return found
    raise DevError(f"{file} is no workflow: save it in ComfyUI's page (Save, or Export (API))")


def prepare(prompt: dict[str, dict[str, Any]], changed: dict[str, Any]) -> tuple[dict[str, dict[str, Any]], str]:
    """The part of a prompt that Tune Guidance needs, with other widgets and two nodes that tell its texts; its id.

    Raises DevError where there is no such node, or more than one.
    """
    found = [number for number, node in prompt.items() if node["class_type"] == NODE]
    if len(found) != 1:
        raise DevError(f"the workflow has {len(found)} nodes {NAME}; it needs one")
    (tune,) = found
    needed, left = set(), [tune]
    while left:
        number = left.pop()
        if number not in needed:
            needed.add(number)
            links = [value for value in prompt[number]["inputs"].values() if isinstance(value, list)]
            left += [f"{link[0]}" for link in links if len(link) == 2 and f"{link[0]}" in prompt]
    part = {number: prompt[number] for number in prompt if number in needed}
    part[tune] = {**part[tune], "inputs": {**part[tune]["inputs"], **changed}}
    for name, output in (("recipe", RECIPE), ("report", REPORT)):
        part[f"tell {name}"] = {
            "class_type": "PreviewAny", "inputs": {"source": [tune, output]}, "_meta": {"title": name},
        }  # fmt: skip
    return part, tune


def main() -> int:
    options = parse()
    server = RunningServer(options.server)
    changed = {name: value for name in CHANGED if (value := getattr(options, name)) is not None}
    try:
        info = server.get("/object_info")
        if NODE not in info:
            raise DevError(f"the ComfyUI at {server.address} has no {NAME}: install this pack in it")
        prompt, tune = prepare(prompt_of(options.workflow, info), changed)
        outputs = run(server, prompt, options.workflow.stem)
        save(server, outputs, tune, options.out)
    except (OSError, DevError) as error:
        say(f"error: {error}")
        return 1
    return 0


def run(server: Server, prompt: dict[str, dict[str, Any]], name: str) -> dict[str, Any]:
    """The outputs by node. Ctrl-C stops the run on the server too."""
    submitted = gallery.submit(server, prompt, name)
    try:
        return gallery.wait_for(server, submitted, prompt, name)
    except KeyboardInterrupt:
        server.post("/interrupt", {"prompt_id": submitted})
        raise DevError("stopped; all runs are kept, and the same command goes on") from None


def save(server: Server, outputs: dict[str, Any], tune: str, folder: Path) -> None:
    """Recipe, report and pictures as files."""
    folder.mkdir(parents=True, exist_ok=True)
    texts = {name: outputs[f"tell {name}"]["text"][0] for name in ("recipe", "report")}
    (folder / "recipe.json").write_text(texts["recipe"] + "\n", encoding="utf-8")
    (folder / "report.md").write_text(texts["report"], encoding="utf-8")
    for name, image in zip(("strip", "plot"), outputs[tune]["images"], strict=True):
        (folder / f"{name}.png").write_bytes(gallery.fetch_picture(server, image))
    say(f"{texts['report']}\n{folder}: recipe.json, report.md, strip.png, plot.png")


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("workflow", type=Path, help="a saved workflow with one Tune Guidance")
    parser.add_argument("--server", default="http://127.0.0.1:8188", help="of the running ComfyUI")
    parser.add_argument("--out", type=Path, default=Path("tuned"), help="folder for the results (default: %(default)s)")
    for name, kind in CHANGED.items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=kind, help="instead of the node's own")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
