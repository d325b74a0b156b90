"""Valid small files of every kind that the pack reads, as they are before they are spoilt."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from PIL import Image
from safetensors.torch import save_file

from .pool import path_of_tests

path_of_tests()

import adm_files  # noqa: E402
import checkpoint_writers  # noqa: E402
import guide_files  # noqa: E402
import ppap_networks  # noqa: E402

SETTINGS = {"img_resolution": 16, "img_channels": 3, "label_dim": 4, "model_channels": 32, "channel_mult": [1, 2],
            "num_blocks": 1, "attn_resolutions": [8], "dropout": 0.1}  # fmt: skip
FOLDERS = ("resnet", "vit", "clip", "dpt", "segformer", "siglip2")


def write(folder: Path) -> None:
    """Write all of them, unless they are there."""
    import transformers

    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    if (folder / "whole").exists():
        return
    folder.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(0)
    _denoisers(folder)
    network = adm_files.classifier()
    adm_files.write(network, folder / "classifier.safetensors")
    torch.save(network.state_dict(), folder / "classifier.pt")
    guide_files.tiny(folder / "own", timestep=False)
    guide_files.squeezenet(folder / "squeeze")
    for name in FOLDERS:
        getattr(guide_files, name)(folder / name)
    _bank(folder)
    _weights(folder)
    _experts(folder)
    pixels = torch.randint(0, 256, (40, 56, 3), dtype=torch.uint8)
    for file in ("a.png", "b.jpg", "c.webp"):
        Image.fromarray(pixels.numpy()).save(folder / file)
    (folder / "whole").touch()


def _denoisers(folder: Path) -> None:
    from guidance_pack.guidance.networks.edm2.config import EDM2Config
    from guidance_pack.guidance.networks.edm2.unet import EDM2

    network = adm_files.unet(0, classes=5)
    adm_files.write(network, folder / "adm.safetensors")
    torch.save(network.state_dict(), folder / "adm.pt")
    torch.save(network.state_dict(), folder / "old.pt", _use_new_zipfile_serialization=False)
    glide = adm_files.glide(0, vocabulary=50, context=8)
    adm_files.write(glide, folder / "glide.safetensors")
    torch.save(glide.state_dict(), folder / "glide.pt")
    config = EDM2Config(16, 3, 4, 32, (1, 2), 1, (8,))
    state = {key: torch.rand(value.shape) + 0.1 for key, value in EDM2(config, device="meta").state_dict().items()}
    save_file(state, folder / "edm2.safetensors")
    checkpoint_writers.write_snapshot(folder / "edm2.pkl", state, SETTINGS)


def _bank(folder: Path) -> None:
    """Two experts of the tiny guide."""
    from guidance_pack.guidance.experts import bank, file
    from guidance_pack.guidance.experts.guide import source_sha256

    base, spec = loaded(folder / "own.safetensors", "own.safetensors")
    state = base.state_dict()
    weight, bias = state["head.weight"], state["head.bias"]
    adapters = tuple(
        bank.Adapter(
            {"head.weight": bank.LowRank(torch.rand(2, weight.shape[1]), torch.rand(weight.shape[0], 2), 0.5)},
            {"head.bias": bias + number},
        )
        for number in (1, 2)
    )
    header = file.BankHeader(
        "own.safetensors", source_sha256(source_of(folder / "own.safetensors", "own.safetensors")), spec.task, "linear",
        (2.0,), 0.5, spec.labels, spec.preprocessing,
    )
    file.write_bank(folder / "bank.safetensors", file.BankFile("bank", header, adapters, {"loss": [[1.0], [2.0]]}))


def _weights(folder: Path) -> None:
    """Learned weights of guidance."""
    from guidance_pack.guidance.learned import LearnedWeights
    from guidance_pack.guidance.networks.tiny.files import write_network
    from guidance_pack.guidance.training.weights import WEIGHTS

    classes = {"constant": 1.5, "width": 4, "classes": ["a", "b"]}
    learned = LearnedWeights(cfg={"width": 4, "pooled": 3}, autoguidance=classes)
    about = {"facts": {"recipe": {"seed": 0}}, "loss": [1.0, 0.5], "evaluations": 12}
    write_network(folder / "weights.safetensors", WEIGHTS, learned.config, about, learned.state_dict(), torch.float64)


def _experts(folder: Path) -> None:
    """PPAP's DeiT experts, two of them, and their clean network."""
    import copy

    network = ppap_networks.clean_vit()
    ppap_networks.write_vit(folder / "clean", network)
    for number in range(2):
        expert = ppap_networks.tuned(ppap_networks.Deit(copy.deepcopy(network)), number)
        torch.save(expert.state_dict(), folder / f"{number}_max2.ckpt")


def source_of(path: Path, name: str) -> Any:
    from guidance_pack.guidance.checkpoints.guide_source import GuideSource

    return GuideSource(path, name)


def loaded(path: Path, name: str) -> tuple[Any, Any]:
    """A guide's network and what it says of itself."""
    from guidance_pack.host.models.guides import build

    return build(source_of(path, name))
