"""Small random ADM and GLIDE networks as files, and as MODELs of the real host."""

from pathlib import Path

from host_models import fill
from safetensors.torch import save_file

from guidance_pack.guidance.networks.adm.classifier import AdmClassifier
from guidance_pack.guidance.networks.adm.glide import GlideUNet
from guidance_pack.guidance.networks.adm.unet import AdmUNet

SMALL = {"channels": 32, "widths": (32, 64), "res_blocks": 1, "attention": (1,), "heads": 2}
CLASSIFIER = {**SMALL, "classes": 7, "positions": 65}  # sees 16x16 pictures
GLIDE = {**SMALL, "text_width": 32, "text_layers": 1, "schedule": "cosine"}
HEADER = {"heads": "2", "order": "legacy", "schedule": "linear"}


def unet(seed: int = 0, **config) -> AdmUNet:
    network = AdmUNet(**{**SMALL, **config}).eval().requires_grad_(False)
    fill(network, seed)
    return network


def glide(seed: int = 0, **config) -> GlideUNet:
    network = GlideUNet(**{**GLIDE, **config}).eval().requires_grad_(False)
    fill(network, seed)
    return network


def classifier(seed: int = 0, **config) -> AdmClassifier:
    network = AdmClassifier(**{**CLASSIFIER, **config}).eval().requires_grad_(False)
    fill(network, seed)
    return network


def write(network, path: Path, dtype=None, **header) -> Path:
    """The network's state dict as safetensors whose header says what shapes do not."""
    path.parent.mkdir(parents=True, exist_ok=True)
    state = {key: value if dtype is None else value.to(dtype) for key, value in network.state_dict().items()}
    save_file(state, path, HEADER | header)
    return path
