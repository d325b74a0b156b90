"""The small transformer of the PPAP study: trained here on the shapes world, kept as a transformers folder."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from ppap_variants import CACHE, TRANSFORMER
from torch import Tensor, nn
from world import LABELS, SIZE, render

from guidance_pack.guidance.checkpoints.guide_source import GuideSource
from guidance_pack.guidance.guide import GuideSpec
from guidance_pack.guidance.guides.transformers_vision import TransformersVision

if TYPE_CHECKING:
    from transformers import ViTForImageClassification

STEPS, BATCH, RATE, WARM, SEED = 3000, 32, 1.5e-3, 150, 21
PATCH = 4
TOKENS = 2.0  # weight of the second loss
FRESH, FRESH_SEED = 2000, 91_003


def transformer() -> tuple[GuideSource, nn.Module, GuideSpec]:
    """Its folder, the network as Load Guide builds it, and what it says of itself; trained if it was not yet."""
    folder = CACHE / TRANSFORMER
    if not (folder / "model.safetensors").exists():
        train(folder)
    source = GuideSource(folder, TRANSFORMER)
    return source, *TransformersVision().load(source)


def train(folder: Path, steps: int = STEPS) -> None:
    """Six layers of width 96 on patches of 4 x 4 pixels, with labels. 7 minutes on one core.

    While it learns, every patch also names what it shows (token labelling, 2104.10858): the classes of whole pictures
    alone are learnt an order of magnitude more slowly.
    """
    network, patches = _networks()
    optimizer = torch.optim.AdamW([*network.parameters(), *patches.parameters()], RATE, weight_decay=0.05)
    started = time.monotonic()
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = RATE * min((step + 1) / WARM, 1 - step / steps)
        world = render(torch.arange(step * BATCH, (step + 1) * BATCH), SEED)  # no picture is seen twice
        hidden = network.vit(pixel_values=world.images).last_hidden_state
        loss = F.cross_entropy(network.classifier(hidden[:, 0]), world.labels)
        each = F.cross_entropy(patches(hidden[:, 1:]).flatten(0, 1), shares(world.segmentation).flatten(0, 1))
        optimizer.zero_grad(set_to_none=True)
        (loss + TOKENS * each).backward()
        optimizer.step()
        if (step + 1) % 200 == 0:
            seconds = time.monotonic() - started
            print(f"transformer: step {step + 1}, loss {loss.item():.3f}, {seconds:.0f} s", flush=True)
    _save(network, folder)


def _networks() -> tuple[ViTForImageClassification, nn.Linear]:
    """The transformer, and the head of its patches."""
    from transformers import ViTConfig, ViTForImageClassification

    names = dict(enumerate(LABELS))
    config = ViTConfig(
        hidden_size=96, num_hidden_layers=6, num_attention_heads=4, intermediate_size=192, image_size=SIZE,
        patch_size=PATCH, initializer_range=0.1, id2label=names, label2id={label: i for i, label in names.items()},
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(SEED)
        return ViTForImageClassification(config).train(), nn.Linear(config.hidden_size, len(LABELS) + 1)


def _save(network: ViTForImageClassification, folder: Path) -> None:
    from transformers import ViTImageProcessor

    half = [0.5, 0.5, 0.5]
    ViTImageProcessor(size={"height": SIZE, "width": SIZE}, image_mean=half, image_std=half).save_pretrained(folder)
    network.save_pretrained(folder)


def shares(segmentation: Tensor) -> Tensor:
    """How much of each patch shows what: int64 [B, H, W] -> [B, patches, LABELS + 1], rows summing to 1."""
    whole = F.one_hot(segmentation, len(LABELS) + 1).float().permute(0, 3, 1, 2)
    return F.avg_pool2d(whole, PATCH).flatten(2).transpose(1, 2)


@torch.no_grad()
def clean_accuracy(network: nn.Module, spec: GuideSpec) -> float:
    """Share of fresh clean pictures that a classifier names correctly."""
    fresh = render(FRESH, FRESH_SEED)
    found = torch.cat([network(spec.prepare(part), None).argmax(1) for part in fresh.images.split(250)])
    return (found == fresh.labels).double().mean().item()
