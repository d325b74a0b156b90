"""Published EDM2 networks as ordinary MODELs: pixels for img64, Stable Diffusion latents for img512.

Sources: comfy/model_base.py (BaseModel), comfy/latent_formats.py, comfy/sd.py (VAE); Karras et al. 2024 (EDM2).
"""

from __future__ import annotations

import copy
from collections.abc import Mapping

import comfy.latent_formats
import comfy.model_base
import comfy.model_management
import comfy.model_patcher
import comfy.sd
import comfy.supported_models_base
import torch
import torch.nn.functional as F

from ...guidance.checkpoints.json_text import parse_json
from ...guidance.checkpoints.state_dicts import Checkpoint, CheckpointError, open_checkpoint
from ...guidance.checkpoints.weights import shapes_of
from ...guidance.networks.edm2.config import EDM2Config, check_shapes, config_of, is_edm2
from ...guidance.networks.edm2.unet import EDM2
from ...guidance.networks.tiny.preconditioning import SIGMA_RANGE
from ..common.labels import chosen_classes
from .comfy_module import ComfyModule, patcher_of
from .tiny import PixelLatents, pixel_vae

# ComfyUI's memory_usage_factor for one channel of the model: twice the 0.0015 that the tensors alive at the peak of a
# forward take (XS, 64x64, float32 and bfloat16), to leave room for what convolutions use inside.
MEMORY_PER_CHANNEL = 0.003


class EDM2Latents(comfy.latent_formats.LatentFormat):
    """Latents [B, 4, H, W] of Stable Diffusion's VAE, each channel with mean 0 and standard deviation 0.5.

    EDM2 was trained on latents of pictures in [0, 1], where the VAE is made for [-1, 1], so its latents decode to
    [0, 1] too. That lies behind the VAE, where no latent format reaches: see `unit_range_vae`.
    """

    latent_channels = 4
    scales = (0.119904, 0.108225, 0.134771, 0.152439)
    biases = (-0.696643, -0.351732, -0.016173, 0.327744)

    def __init__(self):
        # The factors are known for latents times 0.18215 and pictures in [-1, 1], which these are after 2 p - 1.
        known = comfy.latent_formats.SD15()
        weights = torch.tensor(known.latent_rgb_factors) * 2 * known.scale_factor / torch.tensor(self.scales)[:, None]
        self.latent_rgb_factors = weights.tolist()
        self.latent_rgb_factors_bias = (-1 - torch.tensor(self.biases) @ weights).tolist()

    def process_in(self, latent: torch.Tensor) -> torch.Tensor:
        return latent * _per_channel(self.scales, latent) + _per_channel(self.biases, latent)

    def process_out(self, latent: torch.Tensor) -> torch.Tensor:
        return (latent - _per_channel(self.biases, latent)) / _per_channel(self.scales, latent)


class EDM2ModelConfig(comfy.supported_models_base.BASE):
    """What ComfyUI wants to know of a model before it builds it."""

    unet_config = {}
    unet_extra_config = {}
    supported_inference_dtypes = [torch.float16, torch.bfloat16, torch.float32]

    def __init__(self, config: EDM2Config):
        super().__init__({"config": config})
        pixels = config.img_channels == 3
        self.latent_format: comfy.latent_formats.LatentFormat = PixelLatents() if pixels else EDM2Latents()
        low, high = SIGMA_RANGE["edm"]
        self.sampling_settings = {"sigma_data": config.sigma_data, "sigma_min": low, "sigma_max": high}
        self.memory_usage_factor = MEMORY_PER_CHANNEL * config.model_channels

    def inpaint_model(self) -> bool:
        return False


class HostedEDM2(ComfyModule, EDM2):
    """EDM2 with the call that BaseModel makes."""

    def __init__(self, *, config: EDM2Config, dtype, device, operations):
        super().__init__(config, operations=operations, device=device, dtype=dtype)
        self.dtype = dtype

    def _forward_within(self, x, timesteps, context=None, y=None, control=None, transformer_options=None, **kwargs):
        count = self.config.label_dim
        labels = None
        if y is not None and count:
            # A row of zeros is no class; so is every index beyond the last class.
            labels = F.one_hot(y.reshape(-1).long().clamp(max=count), count + 1)[:, :count]
        return EDM2.forward(self, x, timesteps, labels)


class EDM2Model(comfy.model_base.BaseModel):
    """A class-conditional or unconditional denoiser. CONDITIONING chooses the class; without one it gets no class.

    A conditional EDM2 was never taught "no class": guidance away from it is not the paper's, which takes a network of
    its own, an unconditional one (CFG) or a weaker one (autoguidance), as the guide.

    ComfyUI patches layers' weights only, so a LoRA cannot change the gains, which are the blocks' own numbers.
    """

    def __init__(self, config: EDM2ModelConfig, labels: tuple[str, ...], device=None):
        super().__init__(config, comfy.model_base.ModelType.EDM, device=device, unet_model=HostedEDM2)
        self.labels = labels
        self.largest_weight = max(parameter.numel() for parameter in self.diffusion_model.parameters())

    def encode_adm(self, **kwargs) -> torch.Tensor:
        """Class indices [K], one per sample of the batch or one for all; the null class where none is given."""
        chosen = chosen_classes(self, kwargs)
        return (torch.tensor([len(self.labels)]) if chosen is None else chosen).to(kwargs["device"])

    def memory_required(self, input_shape, cond_shapes: Mapping = {}) -> float:  # noqa: B006 - the host's signature
        """Bytes of a forward: activations, and the largest weight in float32 and in the type it is used in."""
        used = comfy.model_management.dtype_size(self.get_dtype_inference())
        return super().memory_required(input_shape, dict(cond_shapes)) + self.largest_weight * (4 + used)


def recognises(checkpoint: Checkpoint) -> bool:
    """Whether a checkpoint is an EDM2 by the names of its tensors."""
    return is_edm2(checkpoint.shapes)


def load(
    path: str, name: str, disable_dynamic: bool = False
) -> tuple[comfy.model_patcher.ModelPatcher, comfy.sd.VAE | None]:
    """An EDM2 as a MODEL, and the VAE of a pixel model; None for latents, which take an SD VAE (`unit_range_vae`).

    Args:
        name: what people call the file, for messages.

    Raises:
        CheckpointError: a file that is no EDM2, or not a whole one.
    """
    checkpoint = open_checkpoint(path)
    config = config_of(name, checkpoint.shapes, checkpoint.config)
    if config.img_channels not in (3, 4):
        raise CheckpointError(
            f"{name} makes pictures of {config.img_channels} channels; EDM2 has 3 (pixels) or 4 (latents)."
        )
    own = EDM2(config, device="meta").state_dict()
    check_shapes(name, config, shapes_of(own), checkpoint.shapes)
    patcher = _patcher(checkpoint.weights(own), checkpoint.dtype, config, _labels(name, checkpoint, config),
                       disable_dynamic)
    patcher.cached_patcher_init = (load, (path, name), 0)
    return patcher, pixel_vae() if config.img_channels == 3 else None


def unit_range_vae(vae: comfy.sd.VAE) -> comfy.sd.VAE:
    """The same VAE for EDM2's latents: it takes and gives pictures in [0, 1] as they are, not stretched to [-1, 1].

    Raises:
        ValueError: a VAE of other latents than Stable Diffusion's.
    """
    if vae.latent_channels != 4 or vae.downscale_ratio != 8 or vae.latent_dim != 2:
        raise ValueError(
            f"EDM2 img512 makes Stable Diffusion 1.5 latents (4 channels, an eighth of the size), but this VAE has "
            f"{vae.latent_channels} channels. Connect sd-vae-ft-mse or the VAE of a Stable Diffusion 1.5 checkpoint."
        )
    out = copy.copy(vae)
    out.process_input = lambda image: image
    out.process_output = lambda image: image.clamp_(0.0, 1.0)  # in place, as the host calls it for its effect
    return out


def _patcher(
    tensors: Mapping[str, torch.Tensor], stored: torch.dtype, config: EDM2Config, labels: tuple[str, ...],
    disable_dynamic: bool,
) -> comfy.model_patcher.ModelPatcher:
    device = comfy.model_management.get_torch_device()
    model_config = EDM2ModelConfig(config)
    types = model_config.supported_inference_dtypes
    dtype = comfy.model_management.unet_dtype(
        model_params=sum(value.numel() for value in tensors.values()),
        supported_dtypes=types,
        weight_dtype=stored,
    )
    model_config.set_inference_dtype(dtype, comfy.model_management.unet_manual_cast(dtype, device, types))
    return patcher_of(EDM2Model(model_config, labels), tensors, disable_dynamic)


def _labels(name: str, checkpoint: Checkpoint, config: EDM2Config) -> tuple[str, ...]:
    """The classes' names by index: the file's own, else their numbers, in the order of the sorted WordNet ids."""
    if "labels" not in checkpoint.metadata:
        return tuple(str(index) for index in range(config.label_dim))
    try:
        labels = parse_json(checkpoint.metadata["labels"], list)
    except ValueError as error:
        raise CheckpointError(f"{name}: the labels in its header {error}; get it again.") from None
    if len(labels) != config.label_dim or not all(isinstance(label, str) for label in labels):
        raise CheckpointError(f"{name} must name its {config.label_dim} classes in its header's labels; get it again.")
    return tuple(labels)


def _per_channel(values: tuple[float, ...], like: torch.Tensor) -> torch.Tensor:
    return torch.tensor(values, device=like.device, dtype=like.dtype).view(-1, 1, 1)
