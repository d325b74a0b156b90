"""The embedded denoisers as ordinary MODELs: ComfyUI's BaseModel around our network, its pixel-space VAE beside it.

Sources: comfy/model_base.py (BaseModel), comfy/supported_models_base.py (BASE), comfy/latent_formats.py.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import comfy.latent_formats
import comfy.model_base
import comfy.model_patcher
import comfy.sd
import comfy.supported_models_base
import torch
import torch.nn.functional as F
from comfy.ldm.modules.attention import optimized_attention

from ...guidance.networks.tiny.files import DENOISER, NetworkFile, check, facts_of, format_of, read_denoiser
from ...guidance.networks.tiny.preconditioning import SIGMA_RANGE
from ...guidance.networks.tiny.unet import Around, Attend, Run, TinyUNet
from ..common.labels import chosen_classes, offered
from .comfy_module import ComfyModule, patcher_of

PLACES = 16  # patches of a side, of the pictures that a network was trained on
LARGEST = 4  # times as many, of those that it is run on
ASSETS = Path(__file__).resolve().parents[2] / "assets"
FAMILIES = {"edm": comfy.model_base.ModelType.EDM, "flow": comfy.model_base.ModelType.FLOW}


class PixelLatents(comfy.latent_formats.LatentFormat):
    """Pictures themselves, [B, 3, H, W] in [-1, 1]."""

    latent_channels = 3
    spacial_downscale_ratio = 1

    def __init__(self):
        self.latent_rgb_factors = torch.eye(3).tolist()


class TinyModelConfig(comfy.supported_models_base.BASE):
    """What ComfyUI wants to know of a model before it builds it."""

    unet_config = {}
    unet_extra_config = {}
    latent_format = PixelLatents
    memory_usage_factor = 0.05
    supported_inference_dtypes = [torch.float32]

    def inpaint_model(self) -> bool:
        return False


class HostedTinyUNet(ComfyModule, TinyUNet):
    """TinyUNet with the call that BaseModel makes."""

    def __init__(self, *, dtype, device, operations, **config):
        super().__init__(operations=operations, device=device, dtype=dtype, **config)
        self.dtype = dtype

    def _forward_within(self, x, timesteps, context=None, y=None, control=None, transformer_options=None, **kwargs):
        nothing = torch.tensor([count - 1 for count in self.words], device=x.device).expand(x.shape[0], -1)
        words = nothing if y is None else y
        around = _patch_points({} if transformer_options is None else transformer_options)
        return TinyUNet.forward(self, x, timesteps, words.reshape(x.shape[0], -1).long(), around)


def _patch_points(options: dict) -> Around:
    """The host's patch points for transformers: ("deep_block", 0) and so on in patches_replace["dit"], and attention.

    Hidden states are maps, [B, C, H, W].
    """
    replace = options.get("patches_replace", {}).get("dit", {})

    def around(part: str, index: int, run: Run, hidden: torch.Tensor) -> torch.Tensor:
        def block(args: dict) -> dict:
            return {"img": run(args["img"], _attention(args["transformer_options"]))}

        args = {"img": hidden, "transformer_options": options}
        at = replace.get((f"{part}_block", index))
        return (block(args) if at is None else at(args, {"original_block": block}))["img"]

    return around


def _attention(options: dict) -> Attend:
    override = options.get("optimized_attention_override")
    if override is None:
        return F.scaled_dot_product_attention

    def attend(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        return override(optimized_attention, q, k, v, q.shape[1], skip_reshape=True, skip_output_reshape=True,
                        transformer_options=options, _inside_attn_wrapper=True)

    return attend


class TinyModel(comfy.model_base.BaseModel):
    """A class-conditional denoiser of pictures. CONDITIONING chooses the class; without one it is unconditional."""

    def __init__(self, config: TinyModelConfig, family, file: NetworkFile, device=None):
        super().__init__(config, family, device=device, unet_model=HostedTinyUNet)
        self.labels, self.attributes = file.labels, file.attributes
        network: Any = self.diffusion_model
        self.side = PLACES * network.config.patch  # pixels, of the pictures that it was trained on

    def encode_adm(self, **kwargs) -> torch.Tensor:
        """Classes [K], or rows [K, parts] where there are attributes, one per sample of the batch or one for all; the
        null words where none is given."""
        _check_size(kwargs["noise"], self.side)
        nothing = [len(part) for part in (self.labels, *self.attributes)]
        chosen = chosen_classes(self, kwargs)
        null = torch.tensor([nothing] if self.attributes else nothing)
        return (null if chosen is None else chosen).to(kwargs["device"])


def _check_size(pictures: torch.Tensor, side: int) -> None:
    """Raise ValueError for pictures [B, C, H, W] that are far from those of the model's world, of this side."""
    height, width = pictures.shape[-2:]
    most = LARGEST * side
    if max(height, width) > most:
        raise ValueError(
            f"The tiny model draws pictures of {side} x {side}, and the latent is for {width} x {height}; it can be "
            f"{most} x {most} at most. Set width and height of Empty Latent Image to {side}."
        )


def names() -> list[str]:
    """The embedded denoisers, as people choose them."""
    return sorted(path.stem for path in ASSETS.glob("*.safetensors") if format_of(path) == DENOISER)


def embedded_classes() -> dict[str, dict]:
    """What the page offers as classes of each embedded denoiser, by its name. Reads headers alone, once."""
    return _classes_in(ASSETS)


@cache
def _classes_in(assets: Path) -> dict[str, dict]:
    facts = {name: facts_of(assets / f"{name}.safetensors") for name in names()}
    return {name: offered(fact["labels"], fact.get("attributes", ())) for name, fact in facts.items()}


def load_tiny_model(name: str, disable_dynamic: bool = False) -> comfy.model_patcher.ModelPatcher:
    """An embedded denoiser as a MODEL. Raises ValueError for an unknown name or a damaged file."""
    if name not in names():
        raise ValueError(f"There is no embedded model {name!r}; there are {', '.join(names())}.")
    file = read_denoiser(ASSETS / f"{name}.safetensors")
    # Under dynamic memory management ComfyUI's layers hold no weights before they are loaded.
    check(file)
    config = TinyModelConfig(dict(file.config))
    config.sampling_settings = _sampling(file)
    config.set_inference_dtype(torch.float32, None)
    model = TinyModel(config, FAMILIES[file.prediction], file)
    patcher = patcher_of(model, {key: value.float() for key, value in file.tensors.items()}, disable_dynamic)
    patcher.cached_patcher_init = (load_tiny_model, (name,))
    return patcher


def _sampling(file: NetworkFile) -> dict:
    if file.prediction == "flow":
        return {"shift": 1.0, "multiplier": 1000}
    low, high = SIGMA_RANGE["edm"]
    return {"sigma_data": file.sigma_data, "sigma_min": low, "sigma_max": high}


def pixel_vae() -> comfy.sd.VAE:
    """The host's own VAE for pixel-space models: IMAGE [0, 1] <-> latent [-1, 1] (comfy/pixel_space_convert.py)."""
    return comfy.sd.VAE(sd={"pixel_space_vae": torch.tensor(1.0)})
