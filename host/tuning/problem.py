"""What a search is about: the pictures that are drawn, what may vary, who judges, and what must not happen."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

import torch
from comfy.model_patcher import ModelPatcher

from ...guidance.tuning.guards import Limits, Look, look_of, measure, thumbnails
from ..compare.compare import Scene, draw, with_settings
from ..compare.damage import with_damages
from ..compare.settings import Settings, switched_off
from ..engine.install import with_inspection
from ..recording.inspection import Inspection
from ..report.identity import digest, facts_of_model, sample_of
from ..report.report import report, sigmas_of
from .judges import Judge, SetJudge
from .reading import Reading
from .space import Dimension, corners

MOST_GOALS = 4


@dataclass(frozen=True)
class Effort:
    """How much is spent. seeds, checks: runs of the sampler for a setting in the search, and for the check afterwards.
    budget: evaluations of networks in all, each of a whole batch. minutes: of one search at most; 0 = no limit."""

    seeds: int
    checks: int
    budget: int
    minutes: float = 0.0


@dataclass(frozen=True, eq=False)
class Problem:
    """A search.

    Attributes:
        scenes: one for each prompt, of one MODEL; their runs take turns.
        first: the settings as MODEL and widgets have them: the ones to be beaten.
    """

    scenes: tuple[Scene, ...]
    first: Settings
    space: tuple[Dimension, ...]
    judges: tuple[Judge | SetJudge, ...]
    limits: Limits
    effort: Effort

    @property
    def models(self) -> tuple[ModelPatcher, ...]:
        return self.scenes[0].models

    @property
    def unguided(self) -> Settings:
        """Every component off, and no CFG."""
        return replace(self.first, cfg=1.0, rules=tuple(switched_off(rule) for rule in self.first.rules))

    def check(self) -> None:
        """Have every judge checked and every network degraded as it may be, for refusals to come before anything is
        drawn."""
        for settings in corners(self.first, self.space):
            with_damages(self.models[settings.model], settings.degraded)
        for judge in self.judges:
            judge.check()

    def cost(self, settings: Settings) -> int:
        """The evaluations that a run is expected to take, if the sampler evaluates every level once."""
        model = with_settings(self.models[settings.model], settings)
        told = report(model, sigmas_of(model, settings.scheduler, settings.steps), settings.cfg)
        return sum(told.main_evaluations) + sum(told.guide_evaluations)

    def run(self, settings: Settings, index: int, callback: Callable) -> tuple[Reading, torch.Tensor]:
        """Draw the pictures of one run and judge them. index: of the run, which gives its seed and its prompt."""
        seen = Inspection()
        prompt = index % len(self.scenes)
        model = with_inspection(with_settings(self.models[settings.model], settings), seen)
        scene = replace(self.scenes[prompt], models=(model,))
        seed = (self.first.seed + index) % 2**64
        pictures = draw(scene, replace(settings, model=0, seed=seed), callback)
        evaluations = sum(len(step.branches) for record in seen.records for step in record.evaluations)
        values = tuple(tuple(judge.values(pictures, prompt)) for judge in self.judges)
        thumbs = tuple(thumb.numpy().tobytes().hex() for thumb in thumbnails(pictures))
        return Reading(values, measure(pictures), thumbs, evaluations), pictures

    def fingerprint(self) -> str:
        """Equal for searches that may share a study: of whatever decides the reading of a run."""
        decoder = self.scenes[0].vae.first_stage_model
        told = [
            [facts_of_model(model) for model in self.models], self.first,
            [d.words() for d in self.space], self.limits, self.effort.seeds,
            [[scene.positive, scene.negative, scene.latent] for scene in self.scenes],
            sample_of(decoder) if isinstance(decoder, torch.nn.Module) else None,
            [judge.facts() for judge in self.judges],
        ]
        return digest(told)


def seen_in(readings: Iterable[Reading]) -> Look:
    """The look of all pictures of some runs."""
    listed = list(readings)
    thumbs = [bytes.fromhex(thumb) for reading in listed for thumb in reading.thumbs]
    planes = torch.stack([torch.tensor(list(thumb), dtype=torch.uint8) for thumb in thumbs])
    return look_of([reading.measures for reading in listed], planes)
