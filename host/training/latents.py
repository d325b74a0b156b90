"""Pictures as a model's latents, each with what a clean network says of the picture: what experts of latents learn."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import comfy.model_management
import comfy.sd
import torch
from comfy.model_patcher import ModelPatcher

from ...guidance.experts.guide import new_head
from ...guidance.guide import GuideSpec
from ...guidance.preprocessing import resize
from ...guidance.training.experts import Pictures
from ...guidance.training.recipe import ExpertRecipe
from ..common.compatibility import describe
from ..common.decoders import copy_format, is_pixels, latents_of
from .source import vae_facts, vae_of

TASKS = ("classification", "depth", "segmentation", "score")


@dataclass(frozen=True, eq=False)
class LatentSpace:
    """The latents of one kind of model, and how pictures become them.

    Attributes:
        name: of the latent format, by which other models' latents are told apart.
    """

    model: ModelPatcher
    vae: comfy.sd.VAE
    name: str
    channels: int

    @classmethod
    def of(cls, model: ModelPatcher | None, vae: comfy.sd.VAE, spec: GuideSpec) -> LatentSpace:
        """Raises ValueError where the parts do not go together, in words."""
        if model is None:
            raise ValueError("vae is connected and model is not: connect the model whose latents are to be learned.")
        latents = latents_of(model)
        if is_pixels(latents):
            raise ValueError(f"{describe(model)} works on pictures, which need no VAE; disconnect vae.")
        if latents.latent_dimensions != 2:
            raise ValueError(f"{describe(model)} makes no single pictures; experts of latents need a model that does.")
        if spec.task not in TASKS:
            raise ValueError(
                f"{spec.name} gives {spec.task}; experts of latents can learn {', '.join(TASKS)}, since a reference "
                f"picture or a text could not be compared with what they say. Disconnect vae, or choose another guide."
            )
        return cls(model, vae_of(model, vae), type(latents).__name__, latents.latent_channels)

    @property
    def facts(self) -> dict[str, str]:
        """What decides the training besides the pictures and the clean network."""
        return {"latents": self.name, "vae": vae_facts(self.vae)}

    def spec(self, taught_by: GuideSpec) -> GuideSpec:
        """What the head says of itself before it is a bank."""
        return GuideSpec(
            taught_by.name, taught_by.task, domain="latent", labels=taught_by.labels, latents=self.name
        )  # fmt: skip

    def encode(self, pictures: torch.Tensor) -> torch.Tensor:
        """[B, 3, H, W] in [-1, 1] -> latents [B, C, h, w] in the scale that the model's network sees, on the CPU."""
        with torch.inference_mode():
            encoded = self.vae.encode(((pictures + 1.0) / 2.0).movedim(1, -1))
        return copy_format(latents_of(self.model)).process_in(encoded.float().cpu().clone())


@dataclass(eq=False)
class LatentLessons:
    """Latents by index, each with the clean network's answer to the picture itself; both are kept once they are made.

    shown: pictures, and their classes where those are learnt. network: the clean one, where its answers are learnt.
    """

    space: LatentSpace
    shown: Pictures
    network: torch.nn.Module | None
    spec: GuideSpec
    _known: dict[int, tuple[torch.Tensor, torch.Tensor]] = field(default_factory=dict)

    def __call__(self, indices: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        missing = sorted({int(index) for index in indices} - self._known.keys())
        if missing:
            pictures, classes = self.shown(torch.tensor(missing))
            latents = self.space.encode(pictures)
            answers = self._answers(pictures, (latents.shape[-2], latents.shape[-1])) if self.network else classes
            assert answers is not None, "labels are checked before"
            self._known |= dict(zip(missing, zip(latents, answers, strict=True), strict=True))
        pairs = [self._known[int(index)] for index in indices]
        latents, answers = (torch.stack(part) for part in zip(*pairs, strict=True))
        return latents, answers

    @torch.no_grad()
    def _answers(self, pictures: torch.Tensor, grid: tuple[int, int]) -> torch.Tensor:
        """On the CPU; maps on the latents' grid."""
        network: Any = self.network
        weight = next(network.parameters())
        found = network(self.spec.prepare(pictures.to(weight)), None).float()
        found = resize(found, grid, "bilinear") if found.ndim == 4 else found
        return found.cpu()

    def head(self, recipe: ExpertRecipe) -> torch.nn.Module:
        """A new one for these lessons."""
        outputs = len(self.spec.labels)
        if not outputs:
            pictures, _ = self.shown(torch.zeros(1, dtype=torch.long))
            outputs = self._answers(pictures, (8, 8)).shape[1] if self.network else 1
        return new_head(self.space.channels, self.spec.task, outputs, recipe.seed)


def device_network(network: torch.nn.Module) -> torch.nn.Module:
    """The clean network where it is to answer."""
    return network.to(comfy.model_management.get_torch_device())
