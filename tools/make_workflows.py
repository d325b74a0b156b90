#!/usr/bin/env python3
"""Writes the files in workflows/ from the descriptions in workflow_list.py and a running ComfyUI.

    python3 tools/make_workflows.py                write the workflows
    python3 tools/make_workflows.py --thumbnails   write them, run them, and draw their thumbnails

Widget order and types come from the server's own /object_info, so the files are what the page itself would save. The
output is the same on every run; a test holds the files in the repository to it.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import dev
from devtools import gallery
from devtools.server import ROOT, Server, free_port
from devtools.terminal import DevError, say
from workflow_graph import Stamps
from workflow_list import WORKFLOWS

FOLDER = ROOT / "workflows"


def stamps() -> Stamps:
    """The versions that the nodes are stamped with: this pack's, and the oldest ComfyUI that it declares."""
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    found = [re.search(pattern, text, re.MULTILINE) for pattern in (r'^version = "(.+)"', r'^requires-comfyui = ">=(.+)"')]
    pack, core = (match.group(1) for match in found if match)
    return Stamps(pack=pack, core=core)


def build_all(object_info: dict) -> dict[str, str]:
    """The text of every workflow file, by name."""
    made = {name: describe(object_info, stamps()) for name, describe in WORKFLOWS.items()}
    return {name: json.dumps(workflow, indent=1, ensure_ascii=False) + "\n" for name, workflow in made.items()}


def write(object_info: dict) -> None:
    """Write every workflow file that changed."""
    FOLDER.mkdir(exist_ok=True)
    for name, text in build_all(object_info).items():
        file = FOLDER / f"{name}.json"
        if not file.is_file() or file.read_text(encoding="utf-8") != text:
            file.write_text(text, encoding="utf-8")
            say(f"wrote {file.relative_to(ROOT)}")


def thumbnails(server: Server, python: Path) -> None:
    """Run every workflow and draw its pictures side by side as workflows/<name>.jpg."""
    with tempfile.TemporaryDirectory() as folder:
        for name in WORKFLOWS:
            made = gallery.run_workflow(server, FOLDER / f"{name}.json", Path(folder))
            listing = Path(folder) / f"{name}-list.json"
            listing.write_text(json.dumps([[p.shows, str(p.file)] for p in made]), encoding="utf-8")
            script = ROOT / "tools" / "workflow_thumbnail.py"
            subprocess.run([python, script, FOLDER / f"{name}.jpg", listing], check=True)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--thumbnails", action="store_true", help="also run the workflows and draw their thumbnails")
    options = parser.parse_args()
    try:
        prepared = dev.prepare(None)
        with dev.start(prepared, dev.CACHE / "base-demo", free_port(), "auto") as server:
            write(server.get("/object_info"))
            if options.thumbnails:
                thumbnails(server, prepared.python)
    except DevError as error:
        say(f"error: {error}")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
