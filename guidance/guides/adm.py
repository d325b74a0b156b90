"""ADM's noisy classifiers (guided-diffusion's 64x64_classifier to 512x512_classifier), and others of their kind."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from ..checkpoints.guide_source import GuideFileError, GuideSource
from ..checkpoints.state_dicts import CheckpointError
from ..guide import GuideFamily, GuideSpec, family
from ..networks.adm.classifier import AdmClassifier
from ..networks.adm.detect import classifier, is_classifier
from ..noise_schedule import noise_schedule
from ..preprocessing import Preprocessing


@family("adm")
@dataclass(frozen=True)
class AdmClassifierFile(GuideFamily):
    """A classifier that is told how noisy the picture is, on the schedule that it was trained on.

    It sees pictures in [-1, 1] of one size. Its classes are numbers; ImageNet's are in the order of the WordNet ids.
    """

    title = "one of ADM's noisy classifiers, such as 256x256_classifier.pt"

    def recognises(self, source: GuideSource) -> bool:
        return not source.is_folder and is_classifier(source.shapes)

    def load(self, source: GuideSource) -> tuple[nn.Module, GuideSpec]:
        try:
            config = classifier(source.name, source.shapes, source.metadata).config
        except CheckpointError as error:
            raise GuideFileError(str(error)) from error
        network = AdmClassifier(device="meta", **config.as_dict())
        found = source.weights(network.state_dict())
        weights = {key: value.to(torch.float32, copy=True) for key, value in found.items()}
        network.load_state_dict(weights, assign=True)
        spec = GuideSpec(
            source.name, "classification", sees="timestep", labels=tuple(map(str, range(config.classes))),
            preprocessing=Preprocessing(size=(config.size, config.size), black=-1.0, white=1.0),
            schedule=noise_schedule(config.schedule, config.diffusion_steps),
        )
        return network.eval().requires_grad_(False), spec
