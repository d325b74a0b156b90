"""A picture on a node of the page while it works: how far its result is."""

from __future__ import annotations

from pathlib import Path

import folder_paths
from comfy_execution.utils import get_executing_context
from PIL import Image

from .remarks import page_server

EVENT = "guidance-components.unfinished"  # js/guidance_nodes.js shows it in the place of the result
LONGEST = 768  # pixels


def show_unfinished(picture: Image.Image) -> None:
    """Show a picture, reduced to LONGEST, on the node that is being executed; nothing where no page has queued it.

    The host's own previews would stay on the node, beside its result and in its place. One file serves a whole run.
    """
    server, context = page_server(), get_executing_context()
    if server is None or context is None:
        return
    small = picture.reduce(max(1, max(picture.size) // LONGEST)).convert("RGB")
    small.thumbnail((LONGEST, LONGEST), Image.Resampling.BILINEAR)
    folder = Path(folder_paths.get_temp_directory())
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / f"guidance-{context.prompt_id}-{context.node_id.replace(':', '-')}.jpg"
    small.save(file.with_suffix(".partial"), "JPEG", quality=90)
    try:
        file.with_suffix(".partial").replace(file)  # the page may be reading it
    except PermissionError:  # and on Windows nothing takes the place of a file that is read: the next one will
        return
    shown = [{"filename": file.name, "subfolder": "", "type": "temp"}]
    server.send_sync(EVENT, {"node": context.node_id, "output": {"images": shown}}, server.client_id)
