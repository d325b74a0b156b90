#!/usr/bin/env python3
"""Writes what is derived from the nodes of a running ComfyUI: workflows/ (from workflow_list.py), subgraphs/ (from
blueprint.py), locales/en, and the promises to saved workflows (tests/node_promises.json).

    python3 tools/make_workflows.py                write the files
    python3 tools/make_workflows.py --thumbnails [NAME ...]   also draw the thumbnails of all workflows, or of these

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
from blueprint import BLUEPRINTS
from locale_texts import english
from node_promises import broken, promises
from workflow_graph import Stamps
from workflow_list import NEED_FILES, WORKFLOWS
from workflow_scene import COLUMNS

from devtools import gallery
from devtools.server import ROOT, Server
from devtools.terminal import DevError, say

FOLDER = ROOT / "workflows"
PROMISES = ROOT / "tests" / "node_promises.json"


def stamps() -> Stamps:
    """The versions that the nodes are stamped with: this pack's, and the oldest ComfyUI that it declares."""
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    patterns = (r'^version = "(.+)"', r'^requires-comfyui = ">=(.+)"')
    pack, core = (re.findall(pattern, text, re.MULTILINE)[0] for pattern in patterns)
    return Stamps(pack=pack, core=core)


def build_all(object_info: dict) -> dict[Path, str]:
    """The text of every file."""
    every = {**WORKFLOWS, **NEED_FILES}
    made = {FOLDER / f"{name}.json": describe(object_info, stamps()) for name, describe in every.items()}
    made |= {ROOT / "subgraphs" / f"{name}.json": make(object_info, stamps()) for name, make in BLUEPRINTS.items()}
    made[ROOT / "locales" / "en" / "nodeDefs.json"] = english(object_info)
    made[PROMISES] = promises(object_info)
    return {file: json.dumps(content, indent=1, ensure_ascii=False) + "\n" for file, content in made.items()}


def write(object_info: dict) -> None:
    """Write every file that changed."""
    before = json.loads(PROMISES.read_text(encoding="utf-8")) if PROMISES.is_file() else {}
    problems = broken(before, promises(object_info))
    if problems:
        raise DevError(f"saved workflows would break: {' '.join(problems)}")
    for file, text in build_all(object_info).items():
        file.parent.mkdir(parents=True, exist_ok=True)
        if not file.is_file() or file.read_text(encoding="utf-8") != text:
            file.write_text(text, encoding="utf-8")
            say(f"wrote {file.relative_to(ROOT)}")


def titled(picture: gallery.Picture) -> str:
    """What a picture shows, with the verdict of Score Pictures in short."""
    verdict = picture.says.partition(" (")[0].rstrip(".")
    return f"{picture.shows}: {verdict}" if picture.kind == "GuidanceScore" else picture.shows


def thumbnails(server: Server, python: Path, names: list[str]) -> None:
    """Draw the card of these workflows as workflows/<name>.jpg; those on the embedded models are run for it."""
    titles = {kind: info["display_name"] for kind, info in server.get("/object_info").items()}
    script = ROOT / "tools" / "workflow_thumbnail.py"
    with tempfile.TemporaryDirectory() as folder:
        for name in names:
            file = FOLDER / f"{name}.json"
            made = gallery.run_workflow(server, file, Path(folder)) if name in WORKFLOWS else []
            sheets = [picture for picture in made if picture.kind == "GuidanceScore"]
            saved = [picture for picture in made if picture.kind == "SaveImage"]
            nodes = [node["type"] for node in json.loads(file.read_text(encoding="utf-8"))["nodes"]]
            card = {
                "name": name,
                "says": gallery.describe(file),
                "components": list(dict.fromkeys(titles[kind] for kind in nodes if kind.startswith("Guidance")))[:4],
                "pictures": [[titled(p), str(p.file), COLUMNS if p in sheets else 0] for p in sheets or saved],
            }
            described = Path(folder) / f"{name}-card.json"
            described.write_text(json.dumps(card), encoding="utf-8")
            subprocess.run([python, script, FOLDER / f"{name}.jpg", described], check=True)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--thumbnails", nargs="*", choices=[*WORKFLOWS, *NEED_FILES], metavar="NAME", help="also draw their thumbnails"
    )
    options = parser.parse_args()

    def work(server: Server, python: Path) -> None:
        write(server.get("/object_info"))
        if options.thumbnails is not None:
            thumbnails(server, python, options.thumbnails or [*WORKFLOWS, *NEED_FILES])

    return dev.beside_server("base-demo", work)


if __name__ == "__main__":
    sys.exit(main())
