"""Checkpoint files with random weights in the layouts that people download, for tests through the host's own loaders.

Names and shapes come from ComfyUI's own classes, built on the meta device (no memory); the numbers are drawn tensor by
tensor while the file is written, so writing needs some 100 MB however large the file. Take the `comfy` fixture first.
"""

import json
import math
import zlib
from pathlib import Path

import torch
from host_models import unet

POOL = 4_194_301  # a prime, so that no row length divides it and no two rows of a matrix are equal
SD15_UNET = unet(
    320, 768, channel_mult=(1, 2, 4, 4), num_res_blocks=[2, 2, 2, 2], transformer_depth=[1, 1, 1, 1, 1, 1, 0, 0],
    transformer_depth_output=[1] * 9 + [0] * 3,
)  # fmt: skip
SHALLOW_UNET = unet(320, 768, channel_mult=(1, 1))
VAE = {
    "double_z": True, "z_channels": 4, "resolution": 256, "in_channels": 3, "out_ch": 3, "ch": 128,
    "ch_mult": [1, 2, 4, 4], "num_res_blocks": 2, "attn_resolutions": [], "dropout": 0.0,
}  # fmt: skip


def write_sd15_checkpoint(path: Path, seed: int = 0, full: bool = True) -> Path:
    """Write an SD 1.5 checkpoint (U-Net, CLIP-L, VAE) in fp16 safetensors, as CheckpointLoaderSimple reads it.

    `full`: the U-Net of 860 million parameters, a file of 2.1 GB. Otherwise two shallow levels of the same widths, a
    file of 0.5 GB that the host detects as SD 1.5 all the same. Another seed gives other weights in all three.
    """
    shapes = sd15_shapes(SD15_UNET if full else SHALLOW_UNET)
    pool = torch.randn(POOL, generator=torch.Generator().manual_seed(seed)).half()
    header, end = {}, 0
    for name, shape in shapes.items():
        start, end = end, end + 2 * math.prod(shape)
        header[name] = {"dtype": "F16", "shape": list(shape), "data_offsets": [start, end]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)  # tensors start on a multiple of 8 bytes
    with Path(path).open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for name, shape in shapes.items():
            file.write(memoryview(draw(name, shape, pool).numpy()).cast("B"))
    return Path(path)


def sd15_shapes(unet: dict) -> dict[str, tuple[int, ...]]:
    """Every tensor of an SD 1.5 file, {key in the LDM layout: shape}."""
    import comfy.ldm.models.autoencoder
    import comfy.sd1_clip
    import comfy.supported_models

    config = comfy.supported_models.SD15(unet)
    config.set_inference_dtype(torch.float16, None)
    network = config.get_model({}, "", device="meta").diffusion_model
    clip = comfy.sd1_clip.SD1ClipModel(device="meta", dtype=torch.float16)
    with torch.device("meta"):
        vae = comfy.ldm.models.autoencoder.AutoencoderKL(ddconfig=VAE, embed_dim=4)
    tensors = {
        **config.process_unet_state_dict_for_saving(network.state_dict()),
        **config.process_clip_state_dict_for_saving(clip.state_dict()),
        **config.process_vae_state_dict_for_saving(vae.state_dict()),
    }
    return {key: tuple(value.shape) for key, value in sorted(tensors.items())}


def draw(name: str, shape: tuple[int, ...], pool: torch.Tensor) -> torch.Tensor:
    """A tensor that keeps activations at size one: a stretch of the pool from a place that the name decides."""
    count = math.prod(shape)
    start = zlib.crc32(name.encode()) % POOL
    values = pool[torch.arange(start, start + count) % POOL] if count < 65536 else _long(start, count, pool)
    if len(shape) > 1:
        values = values * (1 / math.sqrt(count / shape[0]))
    else:
        values = values * 0.05 + (0.0 if name.endswith("bias") else 1.0)
    return values.reshape(shape)


def _long(start: int, count: int, pool: torch.Tensor) -> torch.Tensor:
    turns = math.ceil((start + count) / POOL)
    return pool.repeat(turns)[start : start + count]
