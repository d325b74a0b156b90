"""Small random networks of ComfyUI's own model classes, one per family that guidance meets, for tests on a CPU.

Each goes the way of the host's loaders: supported_models config -> BaseModel subclass -> diffusion model -> patcher
with `cached_patcher_init`. Only the network's sizes are small; latent channels and widths of text embeddings are the
family's own. Weights come from a seed: the same seed gives an equal model, another seed another model.

    spec = MODELS["sd15"]
    model = spec.build(seed=0)                                      # a MODEL (ModelPatcher)
    with count_forwards(model, batch=2) as count:
        out = sample(model, spec.conditioning(1), spec.conditioning(2), spec.latent(batch=2), seed=0, steps=4, cfg=3.0)
    count.forwards, count.evaluations

Nothing of ComfyUI is imported before a function runs: take the `comfy` fixture first.
"""

import functools
import math
import os
import sys
import zlib
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import torch


@functools.cache
def host_source(file: str) -> str:
    """A file of the ComfyUI of these tests, below comfy/; empty where it has none. Read, so that cases are known
    before anything is imported: older ComfyUIs lack the newest families.
    """
    places = [os.environ.get("GUIDANCE_COMFYUI", ""), *sys.path]
    found = next((Path(place, "comfy") for place in places if Path(place, "comfy", "model_base.py").is_file()), None)
    return found.joinpath(file).read_text("utf-8") if found is not None and found.joinpath(file).is_file() else ""


@dataclass(frozen=True)
class HostModel:
    """One family: how to build it and what it takes. Shapes lack the batch; several shapes are a nested latent."""

    name: str
    config: str  # class of comfy.supported_models
    prediction: str  # class that comfy.model_sampling mixes in: EPS, V_PREDICTION, EDM, CONST
    unet: dict  # what model_detection.detect_unet_config would read from a checkpoint
    latents: tuple[tuple[int, ...], ...]
    context: tuple[int, int]  # tokens, width
    pooled: int | None = None  # width of pooled_output
    extras: dict | Callable[[int], dict] = field(default_factory=dict)  # more of the conditioning's dictionary, by seed
    hints: dict | Callable[[], dict] = field(default_factory=dict)  # tensors by which the config knows the checkpoint
    scheduler: str = "normal"

    def build(self, seed: int = 0, scale: float = 1.0):
        """A new MODEL. `scale` multiplies the spread of its matrices (1 gives outputs of about size 1)."""
        return load(self, seed, scale)

    def latent(self, batch: int = 1, seed: int | None = 0) -> dict:
        """A LATENT as KSampler takes it, random or (seed None) empty."""
        import comfy.nested_tensor

        shapes = [(batch, *shape) for shape in self.latents]
        generator = torch.Generator().manual_seed(seed or 0)
        draws = [torch.zeros(s) if seed is None else 0.5 * torch.randn(s, generator=generator) for s in shapes]
        return {"samples": draws[0] if len(draws) == 1 else comfy.nested_tensor.NestedTensor(draws)}

    def conditioning(self, seed: int = 0, tokens: int | None = None) -> list:
        """A CONDITIONING of one entry with random embeddings [1, tokens, width] and what else this family needs."""
        generator = torch.Generator().manual_seed(1000 + seed)
        count, width = self.context
        more = dict(self.extras(seed) if callable(self.extras) else self.extras)
        embeddings = torch.randn(1, tokens or count, width, generator=generator)
        if self.pooled is not None:
            more["pooled_output"] = torch.randn(1, self.pooled, generator=generator)
        return [[embeddings, more]]


def load(family: HostModel | str, seed: int = 0, scale: float = 1.0, disable_dynamic: bool = False):
    """The factory that ComfyUI's `cached_patcher_init` wants: the same arguments give an equal, independent MODEL."""
    import comfy.model_management
    import comfy.model_patcher
    import comfy.supported_models

    spec = MODELS[family] if isinstance(family, str) else family
    config = getattr(comfy.supported_models, spec.config)({**spec.unet})
    config.set_inference_dtype(torch.float32, None)
    model = config.get_model({**(spec.hints() if callable(spec.hints) else spec.hints)}, "", device="cpu")
    fill(model, seed, scale)
    kind = comfy.model_patcher.ModelPatcher if disable_dynamic else comfy.model_patcher.CoreModelPatcher
    patcher = kind(
        model.eval(),
        load_device=comfy.model_management.get_torch_device(),
        offload_device=comfy.model_management.unet_offload_device(),
    )
    patcher.cached_patcher_init = (load, (family, seed, scale))
    return patcher


def fill(module: torch.nn.Module, seed: int, scale: float = 1.0) -> None:
    """Draw every parameter from `seed` and its own name: comfy.ops leaves them as they lie in memory.

    Matrices keep the size of what they multiply (std 1/sqrt(fan_in)), gains are 1, biases small. Two families also
    read a position table from the checkpoint, which is a buffer: SD3 `pos_embed`, Stable Audio `inv_freq`.
    """
    for name, value in module.state_dict().items():
        if name.endswith(".inv_freq"):
            value.copy_(10000.0 ** -torch.linspace(0, 1, len(value)))
        elif name.endswith(".pos_embed"):
            value.copy_(0.5 * torch.randn(value.shape, generator=torch.Generator().manual_seed(seed)))
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            generator = torch.Generator().manual_seed(zlib.crc32(f"{seed}/{name}".encode()))
            noise = torch.randn(parameter.shape, generator=generator)
            if parameter.ndim > 1:
                parameter.copy_(noise * scale / math.sqrt(parameter[0].numel()))
            elif name.endswith("bias"):
                parameter.copy_(noise * 0.05)
            else:
                parameter.copy_(1 + noise * 0.05)


def seconds() -> dict:
    """The weights of Stable Audio's embeddings of seconds."""
    import comfy.ldm.audio.embedders

    conditioner = comfy.ldm.audio.embedders.NumberConditioner(768, min_val=0, max_val=512)
    fill(conditioner, 0)
    return {
        f"conditioner.conditioners.{which}.{key}": value
        for which in ("seconds_start", "seconds_total")
        for key, value in conditioner.state_dict().items()
    }


def sample(model, positive, negative, latent, *, seed=0, steps=2, cfg=1.0, sampler="euler", scheduler="normal", **more):
    """What the KSampler node gives: the sampled latent, a tensor or (audio with video) a NestedTensor.

    `more`: denoise, disable_noise, start_step, last_step, force_full_denoise of nodes.common_ksampler.
    """
    import nodes

    with torch.inference_mode():  # as execution.py runs every node
        (out,) = nodes.common_ksampler(model, seed, steps, cfg, sampler, scheduler, positive, negative, latent, **more)
    return out["samples"]


def tensors(samples) -> list[torch.Tensor]:
    """The plain tensors of a latent, nested or not."""
    return samples.unbind() if samples.is_nested else [samples]


@dataclass
class Count:
    """What a network was asked while counted: its forward calls and the rows of the batches in them."""

    batch: int
    forwards: int = 0
    rows: int = 0

    @property
    def evaluations(self) -> float:
        """Predictions for the whole latent batch: KSampler at cfg 1 makes 1 per step, at any other cfg 2."""
        return self.rows / self.batch


@contextmanager
def count_forwards(model, batch: int = 1):
    """Count the calls of a MODEL's network (and so of all its clones), results untouched."""
    count = Count(batch)

    def note(_, args):
        count.forwards += 1
        count.rows += len(args[0] if torch.is_tensor(args[0]) else args[0][0])

    handle = model.model.diffusion_model.register_forward_pre_hook(note)
    try:
        yield count
    finally:
        handle.remove()


def unet(channels: int, context: int, **more) -> dict:
    """The host's configuration of a Stable Diffusion U-Net with two shallow levels, unless `more` says otherwise."""
    return {
        "image_size": 32, "in_channels": 4, "out_channels": 4, "model_channels": channels, "num_res_blocks": [1, 1],
        "channel_mult": (1, 2), "transformer_depth": [1, 1], "transformer_depth_output": [1, 1, 1, 1],
        "transformer_depth_middle": 1, "context_dim": context, "use_spatial_transformer": True, "legacy": False,
        "use_linear_in_transformer": False, "use_temporal_attention": False, "adm_in_channels": None, **more,
    }  # fmt: skip


SDXL_UNET = unet(64, 2048, use_linear_in_transformer=True, adm_in_channels=2816, num_classes="sequential")
SD20_V_HINT = {"output_blocks.11.1.transformer_blocks.0.norm1.bias": torch.tensor([-1.0, 1.0])}
SD3_UNET = {
    "in_channels": 16, "out_channels": 16, "patch_size": 2, "depth": 2, "input_size": None, "adm_in_channels": 2048,
    "context_embedder_config": {"target": "torch.nn.Linear", "params": {"in_features": 4096, "out_features": 128}},
    "num_patches": 256, "pos_embed_max_size": 16, "pos_embed_scaling_factor": None, "qk_norm": "rms",
}  # fmt: skip
FLUX_UNET = {
    "image_model": "flux", "in_channels": 16, "out_channels": 16, "vec_in_dim": 768, "context_in_dim": 4096,
    "hidden_size": 64, "mlp_ratio": 2.0, "num_heads": 2, "depth": 1, "depth_single_blocks": 1, "axes_dim": [8, 12, 12],
    "theta": 10000, "patch_size": 2, "qkv_bias": True, "guidance_embed": False, "txt_ids_dims": [],
}  # fmt: skip
WAN_UNET = {
    "image_model": "wan2.1", "model_type": "t2v", "dim": 64, "ffn_dim": 128, "freq_dim": 64, "num_heads": 2,
    "num_layers": 2, "in_dim": 16, "out_dim": 16, "text_dim": 4096,
}  # fmt: skip
QWEN_UNET = {
    "image_model": "qwen_image", "in_channels": 64, "num_layers": 2, "attention_head_dim": 32,
    "num_attention_heads": 2, "axes_dims_rope": (8, 12, 12),
}  # fmt: skip
AUDIO_UNET = {"audio_model": "dit1.0", "embed_dim": 64, "depth": 2, "num_heads": 2, "project_cond_tokens": True}
ACE_UNET = {
    "audio_model": "ace1.5", "hidden_size": 64, "num_dit_layers": 2, "num_lyric_layers": 1, "num_timbre_layers": 1,
    "num_tokenizer_layers": 1, "num_heads": 2, "num_kv_heads": 1, "head_dim": 32, "intermediate_size": 128,
    "fsq_dim": 64, "encoder_hidden_size": 64, "encoder_intermediate_size": 128, "encoder_num_heads": 2,
}  # fmt: skip
LTXAV_UNET = {
    "image_model": "ltxav", "num_layers": 2, "attention_head_dim": 32, "num_attention_heads": 2,
    "audio_attention_head_dim": 16, "audio_num_attention_heads": 2, "cross_attention_dim": 64,
    "audio_cross_attention_dim": 32, "caption_channels": 64, "connector_attention_head_dim": 32,
    "connector_num_attention_heads": 2, "connector_num_layers": 1,
}  # fmt: skip
RADIANCE_UNET = {
    **{key: value for key, value in FLUX_UNET.items() if key != "guidance_embed"}, "image_model": "chroma_radiance",
    "in_channels": 3, "out_channels": 3, "in_dim": 64, "out_dim": 64, "hidden_dim": 64, "n_layers": 2, "patch_size": 8,
    "nerf_hidden_size": 16, "nerf_mlp_ratio": 2, "nerf_depth": 2, "nerf_max_freqs": 4, "nerf_tile_size": 64,
    "nerf_final_head_type": "conv", "nerf_embedder_dtype": torch.float32, "use_x0": False,
    "use_sequential_txt_ids": False,
}  # fmt: skip

FAMILIES = (
    HostModel("sd15", "SD15", "EPS", unet(32, 768), ((4, 8, 8),), (8, 768)),
    HostModel("sd20_v", "SD20", "V_PREDICTION", unet(64, 1024, use_linear_in_transformer=True), ((4, 8, 8),),
              (8, 1024), hints=SD20_V_HINT),
    HostModel("sdxl", "SDXL", "EPS", SDXL_UNET, ((4, 8, 8),), (8, 2048), 1280),
    HostModel("sdxl_zsnr", "SDXL", "V_PREDICTION", SDXL_UNET, ((4, 8, 8),), (8, 2048), 1280,
              hints={"v_pred": torch.zeros(0), "ztsnr": torch.zeros(0)}),
    HostModel("sdxl_edm", "SDXL", "EDM", SDXL_UNET, ((4, 8, 8),), (8, 2048), 1280,
              hints={"edm_mean": torch.zeros(4), "edm_std": torch.ones(4)}, scheduler="karras"),
    HostModel("sd3", "SD3", "CONST", SD3_UNET, ((16, 8, 8),), (8, 4096), 2048),
    HostModel("flux", "Flux", "CONST", FLUX_UNET, ((16, 8, 8),), (8, 4096), 768, scheduler="simple"),
    HostModel("wan", "WAN21_T2V", "CONST", WAN_UNET, ((16, 3, 8, 8),), (8, 4096), scheduler="simple"),
    HostModel("qwen_image", "QwenImage", "CONST", QWEN_UNET, ((16, 1, 8, 8),), (8, 3584), scheduler="simple"),
    HostModel("stable_audio", "StableAudio", "V_PREDICTION", AUDIO_UNET, ((64, 32),), (8, 768),
              extras={"seconds_start": 0, "seconds_total": 4}, hints=seconds, scheduler="exponential"),
    HostModel("ace_step15", "ACEStep15", "CONST", ACE_UNET, ((64, 32),), (8, 1024),
              extras={"conditioning_lyrics": torch.ones(1, 4, 1024)}, scheduler="simple"),
    HostModel("ltxav", "LTXAV", "CONST", LTXAV_UNET, ((128, 2, 4, 4), (8, 6, 16)), (8, 128), scheduler="simple"),
    HostModel("chroma_radiance", "ChromaRadiance", "CONST", RADIANCE_UNET, ((3, 32, 32),), (8, 4096),
              scheduler="simple"),
)  # fmt: skip
MODELS = {spec.name: spec for spec in FAMILIES}

sd15 = functools.partial(load, "sd15")
sd20_v = functools.partial(load, "sd20_v")
sdxl = functools.partial(load, "sdxl")
sd3 = functools.partial(load, "sd3")
flux = functools.partial(load, "flux")
wan = functools.partial(load, "wan")
stable_audio = functools.partial(load, "stable_audio")
ltxav = functools.partial(load, "ltxav")
