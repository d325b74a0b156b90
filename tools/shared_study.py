#!/usr/bin/env python3
"""Two real ComfyUI servers over one study of Tune Guidance, and one alone: is their work the same, and none twice?

    python tools/shared_study.py --comfyui FOLDER [--budget 300] [--workflow workflows/More-Tune-guidance.json]

Starts two servers on the CPU of this machine, gives both the same workflow with one database at the same time, then the
first one the same with a database of its own, and says what their studies hold. Settings that are spread at random
before there is anything to learn from must be the same; later ones depend on what was finished by then.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from tune import prepare, prompt_of, run

from devtools.server import ROOT, Server, free_port, link_pack
from devtools.terminal import DevError, say

STARTS = 10  # of host/tuning/study.py


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--comfyui", type=Path, required=True, help="folder of a ComfyUI")
    parser.add_argument("--budget", type=int, default=300, help="evaluations of each study")
    parser.add_argument("--workflow", type=Path, default=ROOT / "workflows" / "More-Tune-guidance.json")
    options = parser.parse_args()
    try:
        with tempfile.TemporaryDirectory() as folder:
            return compare(options, Path(folder))
    except (OSError, DevError) as error:
        say(f"error: {error}")
        return 1


def compare(options: argparse.Namespace, folder: Path) -> int:
    """Run both, and say what is wrong; 0 if nothing is."""
    python, comfyui = Path(sys.executable), options.comfyui.resolve()
    servers = [Server(python, comfyui, folder / name, free_port(), cpu=True) for name in "ab"]
    for server in servers:
        link_pack(server.base)
    with servers[0], servers[1], ThreadPoolExecutor(2) as pool:
        info = servers[0].get("/object_info")
        addresses = {name: f"sqlite:///{(folder / name).as_posix()}.db" for name in ("two", "one")}
        took = {}
        for name, asked in (("two", servers), ("one", servers[:1])):
            changed = {"study": addresses[name], "budget": options.budget}
            prompt, _ = prepare(prompt_of(options.workflow, info), changed)
            started = time.monotonic()
            list(pool.map(lambda server, prompt=prompt: run(server, prompt, options.workflow.stem), asked))
            took[name] = time.monotonic() - started
    two, one = (held(addresses[name]) for name in ("two", "one"))
    for name, found in (("two servers", two), ("one server", one)):
        say(
            f"{name}: {found['trials']} trials, {found['runs']} runs by {found['workers']} workers, {found['twice']} "
            f"of them twice, {found['evaluations']} of {options.budget} evaluations, {took[name.split()[0]]:.0f} s"
        )
    common = two["values"].keys() & one["values"].keys() & set(range(STARTS))
    same = all(two["values"][number] == one["values"][number] for number in common)
    say(f"the first {len(common)} trials are the same: {'yes' if same else 'NO'}")
    fine = same and not two["twice"] and two["workers"] == 2 and two["evaluations"] <= options.budget
    return 0 if fine else 1


def held(address: str) -> dict[str, Any]:
    """What a study's database holds."""
    import optuna

    (name,) = optuna.get_all_study_names(address)
    study = optuna.load_study(study_name=name, storage=address)
    notes = [key.split("/") for key in study.user_attrs if key.startswith("run/")]
    runs = Counter((key, index) for _, key, index, _ in notes)
    readings = [json.loads(text) for key, text in study.user_attrs.items() if key.startswith("run/")]
    return {
        "trials": len(study.trials), "runs": len(notes), "workers": len({worker for *_, worker in notes}),
        "twice": sum(count - 1 for count in runs.values()), "evaluations": sum(reading[3] for reading in readings),
        "values": {trial.number: trial.params for trial in study.trials if trial.params},
    }  # fmt: skip


if __name__ == "__main__":
    sys.exit(main())
