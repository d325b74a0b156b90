"""Pictures of the unconditional denoiser guided to a depth map and to a segmentation map, beside their targets."""

from __future__ import annotations

from pathlib import Path

import torch
from sampling import Denoiser, heun, noise_levels
from sheets import contact_sheet
from steered import Steered, load_guide
from torch import Tensor
from world import LABELS, Pictures, render

from guidance_pack.guidance.loss import Loss
from guidance_pack.guidance.losses.depth import Depth
from guidance_pack.guidance.losses.segmentation import Segmentation
from guidance_pack.guidance.objective import At, Objective
from guidance_pack.guidance.rules.gradient import GradientGuidance

TARGET_SEED = 90_002  # no training uses this world
COUNT, STEPS = 10, 40
SCALES = {"depth": 1200.0, "segmentation": 80.0}


def guided_maps(main: Denoiser, assets: Path, out: Path, seed: int = 0, at: At = "denoised") -> None:
    """Sample and save the sheet, and print how well the guides' own maps of the pictures agree with the targets."""
    world = render(COUNT, TARGET_SEED)
    noise = torch.randn(world.images.shape, generator=torch.Generator().manual_seed(seed))
    rows = [("unguided, from the same noise", sample(main, assets, "depth", Depth(), world.depth, noise, 0.0, at))]
    for name, loss, target in (
        ("depth", Depth(), world.depth), ("segmentation", Segmentation(), world.segmentation[:, None].float())
    ):
        made = sample(main, assets, name, loss, target, noise, SCALES[name], at)
        print(f"guided by {name}: {agreement(assets, name, made, world)}; "
              f"unguided {agreement(assets, name, rows[0][1], world)}", flush=True)
        rows.append((f"target: {name}", shown(name, target)))
        rows.append((f"guided by {name}", made))
    contact_sheet(rows).save(out, optimize=True)


def sample(
    main: Denoiser, assets: Path, name: str, loss: Loss, target: Tensor, noise: Tensor, scale: float, at: At
) -> Tensor:
    """Pictures [B, 3, 32, 32], one towards each target [B, ...]."""
    network, guide = load_guide(assets / f"shapes-{name}.safetensors")
    steered = Steered(main, GradientGuidance(scale, objective=Objective(loss, at, guide)), network, target, len(LABELS))
    return heun(steered, noise, torch.arange(len(target)), noise_levels("edm", STEPS))


def agreement(assets: Path, name: str, images: Tensor, world: Pictures) -> str:
    """How the guide's own map of the pictures agrees with the target: it says that guidance works, not how well."""
    network, _ = load_guide(assets / f"shapes-{name}.safetensors")
    found = network(images.clamp(-1, 1))
    if name == "depth":
        return f"correlation {1 - Depth()(found, world.depth).mean():.2f}"
    return f"{(found.argmax(1) == world.segmentation).float().mean():.0%} of pixels as asked"


def shown(name: str, target: Tensor) -> Tensor:
    """A target as a picture: near things light; each kind of thing in its own colour, the background black."""
    if name == "depth":
        return (1 - 2 * target).expand(-1, 3, -1, -1)
    turns = torch.arange(len(LABELS)) / len(LABELS)
    hues = (turns[:, None] + torch.tensor([0.0, 2 / 3, 1 / 3])).remainder(1.0) * 2 * torch.pi
    palette = torch.cat([-torch.ones(1, 3), 0.2 + 0.8 * hues.cos()])
    return palette[target[:, 0].long()].permute(0, 3, 1, 2)
