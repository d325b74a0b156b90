"""ComfyUI and the pack in this process, for commands that call them without a server."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

from .server import ROOT


def load_host(comfyui: Path, device: str, base: Path | None = None) -> None:
    """ComfyUI importable, and the pack as `guidance_pack`. base: its models, input, output; else the source's own."""
    sys.path.insert(0, str(comfyui))
    import comfy.options

    comfy.options.enable_args_parsing(False)
    from comfy.cli_args import args

    args.cpu = device == "cpu"
    args.base_directory = None if base is None else str(base)
    spec = importlib.util.spec_from_file_location(
        "guidance_pack", ROOT / "__init__.py", submodule_search_locations=[str(ROOT)]
    )
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["guidance_pack"] = module
    spec.loader.exec_module(module)
