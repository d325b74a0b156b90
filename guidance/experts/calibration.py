"""How a released expert is to be run, settled by its agreement with the clean network instead of by assumption."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ..guide import GuideSpec, with_noise
from ..noise_level import NoiseLevel
from ..noise_schedule import NoiseSchedule
from ..preprocessing import Preprocessing
from .bank import ExpertBank, adapter_names, own_tensors
from .ppap_files import PpapExperts

TEMPERATURE = 0.25  # of the clean network's output, as the experts learnt it
_CLEARLY = 0.9  # another way than the likeliest must bring the divergence below this share of the likeliest's


@dataclass(frozen=True)
class Calibration:
    """One way to run the experts, and how far the first of them then is from the clean network.

    divergence: KL(clean network || expert) in nats, the mean over pictures.
    """

    scale: float
    preprocessing: Preprocessing
    divergence: float

    @property
    def words(self) -> str:
        normalised = "normalised input" if any(self.preprocessing.mean) else "input in [-1, 1]"
        return f"LoRA scale {self.scale:g}, {normalised}: {self.divergence:.4g}"


@torch.inference_mode()
def calibrations(
    base: nn.Module, spec: GuideSpec, experts: PpapExperts, ways: Sequence[Preprocessing], pictures: Tensor,
    schedule: NoiseSchedule,
) -> list[Calibration]:
    """Every scale with every preprocessing, the likeliest first. The base is left as it was, bit for bit.

    Args:
        pictures: clean, [B, 3, H, W] in [-1, 1].
    """
    first = experts.adapters[:1]
    tried = tuple(adapter for scale in experts.scales for adapter in experts.rescaled(scale).adapters[:1])
    bank = ExpertBank(base, tried, own_tensors(base, adapter_names(first)))
    generator = torch.Generator().manual_seed(0)
    # What the first expert learnt: its own range of timesteps, in which a picture is still to be seen.
    timesteps = torch.arange(len(pictures)) * (len(schedule) // len(experts.adapters)) // len(pictures)
    level = NoiseLevel.variance_exploding(schedule.sigmas[timesteps])
    seen = with_noise(pictures, torch.randn(pictures.shape, generator=generator), level)
    teacher_output = (base(spec.prepare(pictures), None).float() / TEMPERATURE).log_softmax(1)
    found = []
    for index, scale in enumerate(experts.scales):
        bank.use(index)
        for way in ways:
            said = base(way(seen), None).float().log_softmax(1)
            found.append(Calibration(scale, way, float((teacher_output.exp() * (teacher_output - said)).sum(1).mean())))
    bank.use(None)
    return found


def best_calibration(found: Sequence[Calibration]) -> Calibration:
    """The likeliest, which comes first, unless another agrees clearly better."""
    best = min(found, key=lambda tried: tried.divergence)
    return best if best.divergence < _CLEARLY * found[0].divergence else found[0]
