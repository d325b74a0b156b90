"""What experts of latents that are still being trained read under noise, beside what the clean network says."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from ...guidance.experts.bank import ExpertBank
from ...guidance.guide import with_noise
from ...guidance.noise_level import NoiseLevel
from ...guidance.training.experts import ExpertsTraining
from ..models.guides import LoadedGuide
from ..report.readings import Column, draw_readings
from .dataset import PictureFolder
from .latents import LatentSpace
from .preview import experts_so_far

ROWS, MOST = 3, 6  # pictures, and experts at most: as many as the sheet has room for


@dataclass(frozen=True, eq=False)
class Readings:
    """Some of the pictures, as the model's latents, and what the clean network says of them."""

    clean: LoadedGuide
    pictures: torch.Tensor
    latents: torch.Tensor
    answers: torch.Tensor

    @classmethod
    def of(cls, clean: LoadedGuide, space: LatentSpace, pictures: PictureFolder) -> Readings:
        """Of pictures that lie as far apart in the folder as they can."""
        chosen = torch.linspace(0, len(pictures) - 1, min(ROWS, len(pictures))).long()
        shown, _ = pictures.batch(chosen)
        network, spec = clean.patchers[0].model, clean.guide.first
        with torch.no_grad():
            answers = network(spec.prepare(shown.to(next(network.parameters()))), None).float().cpu()
        return cls(clean, shown, space.encode(shown), answers)

    def draw(self, training: ExpertsTraining) -> torch.Tensor:
        """The sheet as an IMAGE [1, H, 960, 3]."""
        count = training.recipe.experts
        shown = torch.linspace(0, count - 1, min(count, MOST)).round().int().tolist()
        columns: list[Column] = [("clean network", "no noise", self.answers)]
        network = experts_so_far(training)
        columns += [self._column(training, network, expert) for expert in shown]
        return draw_readings(self.pictures, self.clean.guide.first, columns)

    def _column(self, training: ExpertsTraining, network: ExpertBank, expert: int) -> Column:
        """What an expert reads at the middle of its timesteps, always under the same noise."""
        steps = training.recipe.timesteps(expert)
        sigma = training.sigmas[[(steps.start + steps.stop - 1) // 2]]
        head = f"expert {expert + 1}", f"sigma {float(sigma):.3g}"
        if expert >= len(training.adapters):
            return *head, None
        noise = torch.randn(self.latents.shape[1:], generator=torch.Generator().manual_seed(expert))
        noisy = with_noise(self.latents, noise, NoiseLevel.variance_exploding(sigma.expand(len(self.latents))))
        network.use(expert)
        with torch.inference_mode(False), torch.no_grad():
            return *head, network(training.spec.prepare(noisy.to(training.device)), None).float().cpu()
