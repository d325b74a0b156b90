"""GLIDE as an ordinary MODEL: ADM's, told a text, and for inpainting the known part of a picture.

Sources: comfy/model_base.py (BaseModel.concat_cond and its concat_keys), comfy/conds.py; Nichol et al. 2021
(2112.10741).
"""

from __future__ import annotations

from typing import cast

import comfy.conds
import comfy.model_base
import comfy.model_patcher
import comfy.sd
import torch

from ...guidance.checkpoints.state_dicts import Checkpoint
from ...guidance.networks.adm.detect import glide, is_glide
from ...guidance.networks.adm.glide import GlideConfig, GlideUNet
from ...guidance.networks.adm.tokens import bits_of, tokens_of
from .adm import AdmModel, AdmModelConfig, check_enlarged, load_family
from .comfy_module import ComfyModule


class GlideModelConfig(AdmModelConfig):
    """What ComfyUI wants to know of a model before it builds it."""

    supported_inference_dtypes = [torch.float16, torch.bfloat16, torch.float32]


class HostedGlide(ComfyModule, GlideUNet):
    """GlideUNet with the call that BaseModel makes."""

    def __init__(self, *, dtype, device, operations, **config):
        super().__init__(operations=operations, device=device, dtype=dtype, **config)
        self.dtype = dtype

    def _forward_within(
        self, x, timesteps, context=None, y=None, control=None, transformer_options=None, tokens=None, **kwargs
    ):
        check_enlarged(x, self.config)
        return GlideUNet.forward(self, x, timesteps, tokens)


class GlideModel(AdmModel):
    """An eps-predicting denoiser of pictures. CONDITIONING holds a text, and what an upsampler or inpainting is given.

    The known part of a picture is what the host's inpainting nodes give: everything outside the mask.
    """

    network, hosted = GlideUNet, HostedGlide
    labels = None

    def __init__(self, *given, **more):
        super().__init__(*given, **more)
        if self._own.inpaints:
            self.concat_keys = ("masked_image", "mask_inverted")
        self.blank_inpaint_image_like = torch.zeros_like

    @property
    def _own(self) -> GlideConfig:
        return cast(GlideConfig, self.network_config)

    def empty_prompt(self) -> list:
        """CONDITIONING for the empty text: unconditional pictures."""
        return [[bits_of([]), {}]]

    def encode_adm(self, **kwargs) -> None:
        """GLIDE has no classes."""

    def extra_conds(self, **kwargs):
        out = super().extra_conds(**kwargs)
        out.pop("c_crossattn", None)
        out["tokens"] = comfy.conds.CONDRegular(tokens_of(kwargs.get("cross_attn"), self._own).to(kwargs["device"]))
        return out

    def concat_cond(self, **kwargs) -> torch.Tensor | None:
        """What the network sees beside the noisy picture, [B, C, H, W]; None for none."""
        small = super().concat_cond(**kwargs)
        if not self.concat_keys or (small is None and self._own.enlarges):
            return small
        known = comfy.model_base.BaseModel.concat_cond(self, **kwargs)
        picture, mask = known[:, :3], known[:, 3:]
        return torch.cat([picture * mask, mask, *([] if small is None else [small.to(known)])], dim=1)


def recognises(checkpoint: Checkpoint) -> bool:
    """Whether this is a GLIDE denoiser, perhaps a damaged one."""
    return is_glide(checkpoint.shapes)


def load(
    path: str, name: str, disable_dynamic: bool = False
) -> tuple[comfy.model_patcher.ModelPatcher, comfy.sd.VAE | None]:
    """A GLIDE denoiser as a MODEL, and the VAE of pictures.

    Raises:
        CheckpointError: the file is damaged, or is another network, in words.
    """
    patcher, vae = load_family(path, name, glide, GlideModelConfig, GlideModel, disable_dynamic)
    patcher.cached_patcher_init = (load, (path, name), 0)
    return patcher, vae
