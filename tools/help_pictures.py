#!/usr/bin/env python3
"""Makes the pictures of the help pages, js/docs/pictures/<name>.webp, on the real ComfyUI and the embedded models.

    python3 tools/help_pictures.py               all of them
    python3 tools/help_pictures.py cfg schedule  these

help_steered.py and help_scenes.py say what each shows, help_layout.py draws it. Seeds are fixed, so that a run on the
same machine makes the same pictures again.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import dev
from help_scenes import FIRST, PICTURES, Strip
from make_workflows import stamps

from devtools import gallery
from devtools.prompt import title_of, to_prompt
from devtools.server import ROOT, Server
from devtools.terminal import DevError, say

FOLDER = ROOT / "js" / "docs" / "pictures"
MOST_BYTES, MOST_PIXELS = 30_000, 640
TEXTS = ("text", "guidance_curve")  # what a node tells the page beside pictures


def make(server: Server, python: Path, name: str, folder: Path, out: Path) -> None:
    """Run the workflow of one picture and draw it; DevError if it fails or becomes too large."""
    if name in FIRST:
        before = Strip(f"{name}, first", "", server.get("/object_info"), stamps())
        FIRST[name](before)
        results(server, before.build(), before.name, folder)
    strip = Strip(name, "", server.get("/object_info"), stamps())
    panels = PICTURES[name](strip)
    shown = {"panels": panels, **results(server, strip.build(), name, folder)}
    listing = folder / f"{name}.json"
    listing.write_text(json.dumps(shown), encoding="utf-8")
    out.mkdir(parents=True, exist_ok=True)
    file = out / f"{name}.webp"
    done = subprocess.run(
        [python, ROOT / "tools" / "help_layout.py", file, listing], capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        raise DevError(f"the picture {name} could not be drawn: {done.stderr.strip()}")
    if file.stat().st_size > MOST_BYTES:
        raise DevError(f"the picture {name} has {file.stat().st_size} bytes; show less in it")
    say(f"  {file}: {file.stat().st_size} bytes")


def results(server: Server, workflow: dict, name: str, folder: Path) -> dict:
    """The pictures and texts that a workflow makes, by the titles of its nodes."""
    say(f"Running {name} ...")
    prompt = to_prompt(workflow, server.get("/object_info"))
    outputs = gallery.wait_for(server, gallery.submit(server, prompt, name), prompt, name)
    pictures: dict[str, list[str]] = {}
    if any(output.get("images") for output in outputs.values()):
        for picture in gallery.save_pictures(server, outputs, workflow, name, folder):
            pictures.setdefault(picture.shows, []).append(str(picture.file))
    titles = {str(node["id"]): title_of(node) for node in workflow["nodes"]}
    texts = {titles[node]: output[kind][0] for node, output in outputs.items() for kind in TEXTS if output.get(kind)}
    return {"pictures": pictures, "texts": texts}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help="which; all without any")
    parser.add_argument("--out", type=Path, default=FOLDER, help="where to (default: js/docs/pictures)")
    options = parser.parse_args()
    unknown = set(options.names) - set(PICTURES)
    if unknown:
        parser.error(f"there is no picture {', '.join(sorted(unknown))}; there are {', '.join(PICTURES)}")

    def work(server: Server, python: Path) -> None:
        for name in options.names or PICTURES:
            with tempfile.TemporaryDirectory() as folder:
                make(server, python, name, Path(folder), options.out)

    return dev.beside_server("base-help", work)


if __name__ == "__main__":
    sys.exit(main())
