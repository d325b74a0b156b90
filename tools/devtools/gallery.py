"""Runs workflows through a server's queue and keeps what they make."""

from __future__ import annotations

import json
import time
import urllib.parse
from dataclasses import dataclass
from pathlib import Path

from .prompt import title_of, to_prompt
from .server import Server
from .terminal import HEARTBEAT_SECONDS, DevError, say


@dataclass(frozen=True)
class Picture:
    """One saved picture: where, what made it (the workflow, the node's title and its type), and the node's words."""

    file: Path
    workflow: str
    shows: str
    kind: str
    says: str


def run_workflow(server: Server, file: Path, folder: Path) -> list[Picture]:
    """Queue one saved workflow, wait, and save its pictures in `folder`; DevError in one sentence when it fails."""
    workflow = json.loads(file.read_text(encoding="utf-8"))
    prompt = to_prompt(workflow, server.get("/object_info"))
    say(f"Running {file.stem} ...")
    started = time.monotonic()
    outputs = wait_for(server, submit(server, prompt, file.stem), prompt, file.stem)
    pictures = save_pictures(server, outputs, workflow, file.stem, folder)
    say(f"  {file.stem}: {len(pictures)} pictures in {time.monotonic() - started:.1f} s")
    return pictures


def files_of(workflow: dict) -> list[dict]:
    """The model files (name, directory, and url of those that have one) that a saved workflow needs beside the pack."""
    properties = [node.get("properties", {}) for node in workflow["nodes"]]
    return [file for one in properties for kind in ("models", "guidance_needs") for file in one.get(kind, ())]


def submit(server: Server, prompt: dict, name: str) -> str:
    """Put a prompt into the queue; its id, or DevError with the server's reasons."""
    status, answer = server.post("/prompt", {"prompt": prompt})
    if status == 200 and not answer.get("node_errors"):
        return answer["prompt_id"]
    reasons = [
        f"'{prompt[node]['_meta']['title']}': {problem['message']} ({problem['details']})"
        for node, found in answer.get("node_errors", {}).items()
        for problem in found["errors"]
    ]
    general = answer.get("error", {}).get("message", f"status {status}")
    raise DevError(f"workflow {name} was not accepted: {'; '.join(reasons) or general}")


def wait_for(server: Server, prompt_id: str, prompt: dict, name: str) -> dict:
    """Wait until the queue is through with a prompt; its outputs by node id, or DevError naming the failed node."""
    started = said = time.monotonic()
    while True:
        server.require_alive()
        entry = server.get(f"/history/{prompt_id}").get(prompt_id)
        if entry is not None:
            break
        now = time.monotonic()
        if now - said > HEARTBEAT_SECONDS:
            said = now
            say(f"  still running {name}: {now - started:.0f} s")
        time.sleep(0.1)
    if entry["status"]["status_str"] != "success":
        raise DevError(explain_history(entry["status"]["messages"], prompt, name))
    return entry["outputs"]


def explain_history(messages: list, prompt: dict, name: str) -> str:
    """One sentence from the queue's messages about a failed prompt."""
    for kind, detail in messages:
        if kind == "execution_error":
            node = prompt.get(detail["node_id"], {}).get("_meta", {}).get("title", detail["node_type"])
            return f"workflow {name} failed in node '{node}': {detail['exception_message'].strip()}"
        if kind == "execution_interrupted":
            return f"workflow {name} was interrupted"
    return f"workflow {name} failed and ComfyUI did not say why; its log is server.log in the base directory"


def save_pictures(server: Server, outputs: dict, workflow: dict, name: str, folder: Path) -> list[Picture]:
    """Fetch every picture of a finished prompt into `folder` as <workflow>_<number>.png."""
    nodes = {str(node["id"]): node for node in workflow["nodes"]}
    found = [(node, image) for node in sorted(outputs, key=int) for image in outputs[node].get("images", ())]
    folder.mkdir(parents=True, exist_ok=True)
    pictures = []
    for number, (node, image) in enumerate(found, start=1):
        file = folder / f"{name}_{number}{Path(image['filename']).suffix}"
        says = " ".join(outputs[node].get("text", ()))
        file.write_bytes(fetch_picture(server, image))
        pictures.append(Picture(file, name, title_of(nodes[node]), nodes[node]["type"], says))
    if not pictures:
        raise DevError(f"workflow {name} ran but made no picture: give it a Save Image or Preview Image node")
    return pictures


def fetch_picture(server: Server, image: dict) -> bytes:
    """The file of a picture among a node's outputs."""
    query = urllib.parse.urlencode({key: image[key] for key in ("filename", "subfolder", "type")})
    return server.fetch(f"/view?{query}")


def describe(file: Path) -> str:
    """What a workflow says about itself (`extra.description`), or its name in words."""
    workflow = json.loads(file.read_text(encoding="utf-8"))
    return workflow.get("extra", {}).get("description") or file.stem.replace("_", " ").replace("-", " ")
