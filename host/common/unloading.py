"""Everything off the device, for work that needs all of it."""

from __future__ import annotations

import comfy.model_management as management


def unload_everything() -> None:
    """ComfyUI's `unload_all_models`, safe to be broken off.

    The host takes what it has unloaded off its list at the end alone (comfy/model_management.py, free_memory). Broken
    off before, by too little memory for the weights that come back, it would trip over them in every later run.
    """
    try:
        management.unload_all_models()
    finally:
        loaded = management.current_loaded_models
        loaded[:] = [model for model in loaded if model.real_model is not None]
