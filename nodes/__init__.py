"""The nodes: schemas, wires and words. No tensors, no formulas.

Each module lists its own in NODES; a module that is placed here is found.
"""

from __future__ import annotations

from importlib import import_module
from pkgutil import iter_modules

from comfy_api.latest import ComfyExtension, io

_MODULES = [import_module(f"{__name__}.{info.name}") for info in iter_modules(__path__)]
NODES: list[type[io.ComfyNode]] = [node for module in _MODULES for node in module.NODES]


class GuidanceComponents(ComfyExtension):
    """What ComfyUI loads."""

    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        return NODES
