"""ADM and P2 denoisers as ordinary MODELs: eps prediction on pictures, with their own noise schedule.

Sources: comfy/model_base.py (BaseModel), comfy/model_sampling.py, comfy/ldm/modules/diffusionmodules/util.py
(make_beta_schedule: its "sqrt_linear" is ADM's linear schedule, its "linear" is Stable Diffusion's).
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from typing import Any

import comfy.model_base
import comfy.model_management
import comfy.model_patcher
import comfy.sd
import comfy.supported_models_base
import torch
from node_helpers import conditioning_set_values

from ...guidance.checkpoints.state_dicts import Checkpoint, open_checkpoint
from ...guidance.networks.adm.config import STEPS, AdmConfig
from ...guidance.networks.adm.detect import Recognised, denoiser, is_denoiser
from ...guidance.networks.adm.unet import AdmUNet
from ..common.labels import chosen_classes
from .comfy_module import ComfyModule, patcher_of
from .tiny import PixelLatents, pixel_vae

LOW_RES_KEY = "low_res"
EXACT = ("512x512_diffusion", "P2")  # trained and published for float32 alone


class AdmModelConfig(comfy.supported_models_base.BASE):
    """What ComfyUI wants to know of a model before it builds it."""

    unet_config = {}
    unet_extra_config = {}
    latent_format = PixelLatents
    supported_inference_dtypes = [torch.float16, torch.float32]

    def inpaint_model(self) -> bool:
        return False


class HostedAdm(ComfyModule, AdmUNet):
    """AdmUNet with the call that BaseModel makes."""

    def __init__(self, *, dtype, device, operations, **config):
        super().__init__(operations=operations, device=device, dtype=dtype, **config)
        self.dtype = dtype

    def _forward_within(self, x, timesteps, context=None, y=None, control=None, transformer_options=None, **kwargs):
        if y is None and self.config.classes:
            raise ValueError(
                f"This MODEL is class-conditional and was never trained without a class, so it needs one here, 0 to "
                f"{self.config.classes - 1} (Class Label). For a negative without a class set cfg to 1, or use the "
                f"unconditional model of the same size as the guide of Autoguidance."
            )
        check_enlarged(x, self.config)
        return AdmUNet.forward(self, x, timesteps, None if y is None else y.reshape(-1).long())


class AdmModel(comfy.model_base.BaseModel):
    """An eps-predicting denoiser of pictures. CONDITIONING chooses the class, and an upsampler's small picture.

    network, hosted: the network's class, and as the host runs it.
    description: what the file was taken for. labels: numbers, empty for an unconditional model; None where a text says
    what the picture shows.
    """

    network: type[AdmUNet] = AdmUNet
    hosted: type[AdmUNet] = HostedAdm
    labels: tuple[str, ...] | None = ()

    def __init__(self, config: AdmModelConfig, found: Recognised[AdmConfig], name: str, device=None):
        super().__init__(config, comfy.model_base.ModelType.EPS, device=device, unet_model=self.hosted)
        self.network_config = found.config
        if self.labels is not None:
            self.labels = tuple(map(str, range(found.config.classes)))
        self.description = f"{name} is {found.words()}"

    def encode_adm(self, **kwargs) -> torch.Tensor | None:
        """Class indices [K], one per sample of the batch or one for all; None where no class is given."""
        labels = chosen_classes(self, kwargs)
        if labels is None or not self.labels or bool((labels >= len(self.labels)).any()):
            return None
        return labels.to(kwargs["device"])

    def concat_cond(self, **kwargs) -> torch.Tensor | None:
        """The picture that an upsampler enlarges, [B, 3, H, W] in [-1, 1], at the size of the result."""
        small, noise = kwargs.get(LOW_RES_KEY), kwargs["noise"]
        if small is None or not self.network_config.enlarges:
            return None
        return torch.nn.functional.interpolate(small.to(noise), noise.shape[-2:], mode="bilinear")

    def memory_required(self, input_shape, cond_shapes=None):
        """Bytes that a batch of this shape [B, 3, H, W] takes beside the weights."""
        size = comfy.model_management.dtype_size(self.get_dtype_inference())
        return input_shape[0] * size * self.network_config.activations(*input_shape[-2:], copies=3 if size > 2 else 5)


def sampling_settings(config: AdmConfig) -> dict[str, str | float]:
    """The noise that a network's timesteps count, as ComfyUI's discrete sampling is told it."""
    steps = config.diffusion_steps
    if config.schedule == "cosine":
        return {"beta_schedule": "cosine", "timesteps": steps}
    # ADM's linear betas are scaled so that their sum stays the same, whatever the number of steps.
    start, end = 1e-4 * STEPS / steps, min(0.02 * STEPS / steps, 0.999)
    return {"beta_schedule": "sqrt_linear", "linear_start": start, "linear_end": end, "timesteps": steps}


def recognises(checkpoint: Checkpoint) -> bool:
    """Whether this is an ADM or P2 denoiser, perhaps a damaged one."""
    return is_denoiser(checkpoint.shapes)


def load(
    path: str, name: str, disable_dynamic: bool = False
) -> tuple[comfy.model_patcher.ModelPatcher, comfy.sd.VAE | None]:
    """An ADM or P2 denoiser as a MODEL, and the VAE of pictures.

    Raises:
        CheckpointError: the file is damaged, or is another network, in words.
    """
    patcher, vae = load_family(path, name, denoiser, AdmModelConfig, AdmModel, disable_dynamic)
    patcher.cached_patcher_init = (load, (path, name), 0)
    return patcher, vae


def load_family(
    path: str, name: str, read: Callable[..., Recognised[Any]], kind: type[AdmModelConfig], model_of: type[AdmModel],
    disable_dynamic: bool,
) -> tuple[comfy.model_patcher.ModelPatcher, comfy.sd.VAE]:
    """A U-Net of ADM's kind as a MODEL, and the VAE of pictures. read: as `denoiser`, whose errors it raises."""
    checkpoint = open_checkpoint(path)
    found = read(name, checkpoint.shapes, checkpoint.metadata)
    config = kind(found.config.as_dict())
    config.sampling_settings = sampling_settings(found.config)
    device = comfy.model_management.get_torch_device()
    config.set_inference_dtype(*_dtypes(found, checkpoint, device, kind.supported_inference_dtypes))
    model = model_of(config, found, name)
    logging.info(model.description)
    own = model.network(device="meta", dtype=config.unet_config["dtype"], **found.config.as_dict()).state_dict()
    weights = {key: value.to(own[key].dtype) for key, value in checkpoint.weights(own).items()}
    return patcher_of(model, weights, disable_dynamic), pixel_vae()


def with_low_resolution(conditioning: list, image: torch.Tensor) -> list:
    """The CONDITIONING with the pictures to enlarge: [K, h, w, C] in [0, 1], one for all of the batch or one each."""
    # The releases enlarge pictures of 8 bits.
    small = (image[..., :3].movedim(-1, 1) * 255).round() / 127.5 - 1
    return conditioning_set_values(conditioning, {LOW_RES_KEY: small})


def check_enlarged(x: torch.Tensor, config: AdmConfig) -> None:
    """Raise ValueError if an upsampler is given no picture to enlarge. x: what the network sees, [B, C, H, W]."""
    if config.enlarges and x.shape[1] == 3:
        raise ValueError(
            "This MODEL enlarges pictures, and no picture to enlarge was given. Connect Low Resolution between the "
            "conditioning and the sampler."
        )


def _dtypes(
    found: Recognised[AdmConfig], checkpoint: Checkpoint, device: torch.device, supported: list[torch.dtype]
) -> tuple[torch.dtype, torch.dtype | None]:
    """What the convolutions are stored in, and what they are computed in where that is another dtype."""
    supported = [torch.float32] if found.like in EXACT else supported
    numbers = sum(math.prod(shape) for shape in checkpoint.shapes.values())
    dtype = comfy.model_management.unet_dtype(
        device=device, model_params=numbers, supported_dtypes=supported, weight_dtype=checkpoint.dtype
    )
    return dtype, comfy.model_management.unet_manual_cast(dtype, device, supported)
