"""Guides, decoders and objectives for tests of gradients on the real host, and the same gradients worked out by hand.

Everything is built in inference mode, as ComfyUI's nodes build it, so that weights are inference tensors. `truth` works
without the pack's scope: on networks built anew outside inference mode, in float64.
"""

import contextlib
import copy

import pytest
import torch
from torch import nn

CLASSES = ("cat", "dog", "bird")


class Head(nn.Module):
    """A small classifier of pictures with everything that is hard to differentiate in inference mode: BatchNorm too."""

    def __init__(self, channels: int = 3, timestep: bool = False):
        super().__init__()
        self.conv = nn.Conv2d(channels, 8, 3, padding=1)
        self.norm = nn.BatchNorm2d(8)
        self.gains = nn.Parameter(torch.ones(8, 1, 1))
        self.time = nn.Linear(1, 8) if timestep else None
        self.out = nn.Linear(8, len(CLASSES))

    def forward(self, picture, timestep=None):
        hidden = torch.tanh(self.norm(self.conv(picture)) * self.gains)
        if self.time is not None:
            hidden = hidden + self.time(timestep[:, None] / 1000)[:, :, None, None]
        return self.out(torch.tanh(hidden).mean((2, 3)) * 4)


def head(seed: int = 0, channels: int = 3, timestep: bool = False) -> Head:
    """A head with weights from the seed, in evaluation mode."""
    network = Head(channels, timestep)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for value in network.state_dict().values():
            if value.is_floating_point():
                value.copy_(torch.rand(value.shape, generator=generator) + 0.2 if value.ndim == 1 else
                            torch.randn(value.shape, generator=generator) * 0.7)
    return network.eval().requires_grad_(False)


def patcher_of(network: nn.Module):
    """The network under ComfyUI's memory manager, as guides are."""
    import comfy.model_management as management
    from comfy.model_patcher import ModelPatcher

    return ModelPatcher(
        network, load_device=management.get_torch_device(), offload_device=management.unet_offload_device()
    )


def loaded(seed: int = 0, *, channels: int = 3, sees: str = "clean", domain: str = "pixels"):
    """A GUIDE with one head, made as a node makes it."""
    from guidance_pack.guidance.guide import Guide, GuideSpec
    from guidance_pack.guidance.noise_schedule import noise_schedule
    from guidance_pack.guidance.preprocessing import Preprocessing
    from guidance_pack.host.models.guides import LoadedGuide

    plain = Preprocessing(black=-1.0, white=1.0)
    schedule = None if sees == "clean" else noise_schedule("linear")
    spec = GuideSpec(f"head {seed}", "classification", domain, sees, plain, CLASSES, schedule)
    with torch.inference_mode():
        return LoadedGuide(Guide((spec,)), (patcher_of(head(seed, channels, sees == "timestep")),))


def team(seeds, edges, **more):
    """A GUIDE of several heads that take turns."""
    from guidance_pack.guidance.guide import Guide
    from guidance_pack.guidance.routing import Experts
    from guidance_pack.host.models.guides import LoadedGuide

    members = [loaded(seed, **more) for seed in seeds]
    guide = Guide(tuple(m.guide.first for m in members), Experts(tuple(edges)))
    return LoadedGuide(guide, tuple(m.patchers[0] for m in members))


SMALL_KL = {
    "embed_dim": 4,
    "ddconfig": {
        "double_z": True, "z_channels": 4, "resolution": 256, "in_channels": 3, "out_ch": 3, "ch": 32,
        "ch_mult": [1, 2, 2, 2], "num_res_blocks": 1, "attn_resolutions": [], "dropout": 0.0,
    },
}  # fmt: skip


def autoencoder(seed: int = 0):
    """The host's AutoencoderKL with small random weights, as its own VAE class."""
    import comfy.sd
    from comfy.ldm.models.autoencoder import AutoencoderKL
    from host_models import fill

    network = AutoencoderKL(**SMALL_KL)
    fill(network, seed)
    with torch.inference_mode():
        return comfy.sd.VAE(sd={k: v.clone() for k, v in network.state_dict().items()}, config={"params": SMALL_KL})


def tiny_autoencoder(seed: int = 0, channels: int = 4):
    """The host's TAESD with random weights, as Load VAE makes it."""
    import comfy.sd
    from comfy.taesd.taesd import TAESD
    from host_models import fill

    network = TAESD(latent_channels=channels)
    fill(network, seed, scale=1.4)
    with torch.inference_mode():
        return comfy.sd.VAE(sd={k: v.clone() for k, v in network.state_dict().items()})


def as_nodes_do(build, *args, **more):
    """Build a MODEL in inference mode."""
    with torch.inference_mode():
        return build(*args, **more)


@contextlib.contextmanager
def ordinary():
    """Outside inference mode, with gradients."""
    with torch.inference_mode(False), torch.enable_grad():
        yield


def ordinary_copy(network: nn.Module, dtype: torch.dtype = torch.float64) -> nn.Module:
    """An ordinary copy, in float64 unless `dtype` says otherwise, of a network that lives in inference mode."""
    with torch.inference_mode(False):
        fresh = copy.deepcopy(network)
        for module in fresh.modules():
            for held in (module._parameters, module._buffers):
                for name, value in held.items():
                    if value is not None:
                        value = value.detach().clone()
                        value = value.to(dtype) if value.is_floating_point() else value
                        held[name] = nn.Parameter(value, requires_grad=False) if held is module._parameters else value
    return fresh


def log_probability(network: nn.Module, picture: torch.Tensor, wanted, timestep=None) -> torch.Tensor:
    """log p(wanted) of each picture."""
    return network(picture, timestep).log_softmax(1)[:, wanted]


def gradient_of(score, at: torch.Tensor, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    """The gradient of the sum of score(at)."""
    with ordinary():
        leaf = at.detach().clone().to(dtype).requires_grad_()
        (found,) = torch.autograd.grad(score(leaf).sum(), leaf)
    return found


def slope(score, at: torch.Tensor, direction: torch.Tensor, step: float) -> float:
    """The derivative of the sum of score along a direction, by central differences."""
    with torch.inference_mode(False), torch.no_grad():
        at, direction = at.detach().clone(), direction.detach().clone()
        ahead, behind = score(at + step * direction).sum(), score(at - step * direction).sum()
    return float((ahead - behind) / (2 * step))


# Fixtures; a test file takes them by their names.


@pytest.fixture(scope="module")
def main(comfy):
    """A small SD 1.5 as a node loads it: its weights are inference tensors."""
    from host_models import MODELS

    return as_nodes_do(MODELS["sd15"].build, 0)


@pytest.fixture(scope="module")
def guide(comfy):
    """A GUIDE that classifies pictures."""
    return loaded(3)


@pytest.fixture(scope="module")
def vae(comfy):
    """A VAE for it."""
    return autoencoder()
