"""What networks of our own share when they become ordinary MODELs: the host's call, and its memory manager.

Sources: comfy/model_base.py (BaseModel._apply_model), comfy/patcher_extension.py, comfy/sd.py.
"""

from __future__ import annotations

from collections.abc import Mapping

import comfy.model_base
import comfy.model_management
import comfy.patcher_extension
import torch
from comfy.model_patcher import CoreModelPatcher, ModelPatcher


class ComfyModule:
    """Before a network among the bases: the call that BaseModel makes, open to other packs' DIFFUSION_MODEL wrappers.

    The subclass answers it in `_forward_within`, with the same arguments, by its network's own forward.
    """

    def forward(self, x, timesteps, context=None, y=None, control=None, transformer_options=None, **kwargs):
        options = {} if transformer_options is None else transformer_options
        wrappers = comfy.patcher_extension.get_all_wrappers(
            comfy.patcher_extension.WrappersMP.DIFFUSION_MODEL, options
        )
        executor = comfy.patcher_extension.WrapperExecutor.new_class_executor(self._forward_within, self, wrappers)
        return executor.execute(x, timesteps, context, y, control, options, **kwargs)

    def _forward_within(self, x, timesteps, context=None, y=None, control=None, transformer_options=None, **kwargs):
        raise NotImplementedError


def patcher_of(
    model: comfy.model_base.BaseModel, weights: Mapping[str, torch.Tensor], disable_dynamic: bool
) -> ModelPatcher:
    """The model with these weights in its network, in the care of the memory manager, in evaluation mode."""
    kind = ModelPatcher if disable_dynamic else CoreModelPatcher
    patcher = kind(
        model, load_device=comfy.model_management.get_torch_device(),
        offload_device=comfy.model_management.unet_offload_device(),
    )
    model.diffusion_model.load_state_dict(weights, assign=patcher.is_dynamic())
    model.eval()
    return patcher
