"""Guidance Components for ComfyUI."""

WEB_DIRECTORY = "./js"


async def comfy_entrypoint():
    """The extension that ComfyUI loads. Nothing is imported before ComfyUI asks for it."""
    from .nodes import GuidanceComponents

    return GuidanceComponents()


__all__ = ["WEB_DIRECTORY", "comfy_entrypoint"]
