"""Pictures on a node of the page, as the host's PreviewImage shows them, for a fraction of its memory.

The host's own multiplies and clips whole pictures of floats, twice what it shows; here a large sheet is written in
bands.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any
from uuid import uuid4

import folder_paths
import numpy as np
import torch
from comfy.cli_args import args
from comfy_api.latest import io, ui
from PIL import Image
from PIL.PngImagePlugin import PngInfo

BAND = 2**21  # numbers that are turned into levels at once


def show_pictures(images: torch.Tensor, node: type[io.ComfyNode] | None) -> dict[str, Any]:
    """What a node's `ui` says of pictures [B, H, W, C] in [0, 1], which lie in the temporary folder from now on.

    node: where its hidden inputs hold a graph, that goes into the files.
    """
    folder = Path(folder_paths.get_temp_directory())
    folder.mkdir(parents=True, exist_ok=True)
    name, graph = f"guidance_{uuid4().hex[:12]}", _graph_of(node)
    shown = []
    for number, picture in enumerate(images):
        file = f"{name}_{number:05}_.png"
        _levels(picture).save(folder / file, pnginfo=graph, compress_level=1)
        shown.append(ui.SavedResult(file, "", io.FolderType.temp))
    return {"images": shown, "animated": (False,)}


def _levels(picture: torch.Tensor) -> Image.Image:
    """A picture [H, W, C], rounded down as the host does it."""
    height, width, colours = picture.shape
    made = Image.new("RGBA" if colours == 4 else "RGB", (width, height))
    rows = max(1, BAND // (width * colours))
    for top in range(0, height, rows):
        band = np.clip(255.0 * picture[top : top + rows].cpu().numpy(), 0, 255).astype(np.uint8)
        made.paste(Image.fromarray(band), (0, top))
    return made


def _graph_of(node: type[io.ComfyNode] | None) -> PngInfo | None:
    """Prompt and workflow as the page reads them from a picture that is dropped on it."""
    if args.disable_metadata or node is None or not node.hidden:
        return None
    graph = PngInfo()
    if node.hidden.prompt:
        graph.add_text("prompt", json.dumps(node.hidden.prompt))
    for key, value in (node.hidden.extra_pnginfo or {}).items():
        graph.add_text(key, json.dumps(value))
    return graph
