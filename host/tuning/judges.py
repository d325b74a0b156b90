"""Who judges a search: a guide that looks at each picture, or one in whose features sets are compared."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import comfy.model_management
import numpy as np
import torch

from ...guidance.preprocessing import Preprocessing
from ...guidance.tuning.sets import LEAST_MADE, LEAST_REAL, Measure, RealPictures, fewest, parts, together
from ..compare.score import Said, Wanted, agreement, features_of
from ..models.guides import LoadedGuide
from ..report.identity import sample_of
from ..training.dataset import PictureFolder
from .reading import Kept

MOST_REAL = 2048  # pictures of a folder that are looked at, spread over it
AT_ONCE = 32
GREY = torch.full((1, 64, 64, 3), 0.5)


@dataclass(frozen=True, eq=False)
class Judge:
    """A guide that judges each picture, and what it wants: once for all prompts, or for each.

    said: what it has said of targets and texts, so that it is asked once and not at every run.
    """

    guide: LoadedGuide
    wanted: tuple[Wanted, ...]
    said: Said = field(default_factory=dict, init=False)

    of_sets = False

    @property
    def name(self) -> str:
        return self.guide.guide.name

    def check(self) -> None:
        """Look at a grey picture, for refusals to come before anything is drawn."""
        for prompt in range(len(self.wanted)):
            self.values(GREY, prompt)

    def values(self, images: torch.Tensor, prompt: int) -> list[float]:
        """What is kept of each picture [B, H, W, 3] made with a prompt; here the judgement: more is better."""
        return agreement(images, self.guide, self.wanted[prompt % len(self.wanted)], self.said).tolist()

    def numbers(self, kept: Sequence[Kept]) -> list[float]:
        """What the pictures of some runs are worth, by what was kept of them; none where they are too few to say."""
        return [float(value) for value in kept]

    def facts(self) -> list[Any]:
        """What decides its judgement."""
        return [self.name, self.wanted, *(sample_of(patcher.model) for patcher in self.guide.patchers)]


@dataclass(frozen=True, eq=False)
class SetJudge:
    """How the pictures of a setting, over seeds and prompts, lie beside a folder's in the features of a guide.

    made: the pictures of a setting in the search, or in its check where those are fewer.
    known: the numbers of sets that were asked for, since a report asks for the same ones again and again.
    """

    guide: LoadedGuide
    pictures: PictureFolder
    measure: Measure
    made: int
    known: dict[tuple[Kept, ...], list[float]] = field(default_factory=dict, init=False)

    of_sets = True

    @property
    def name(self) -> str:
        sign = "-" if self.measure == "frechet" else ""
        return f"{sign}{self.measure} ({self.guide.guide.name})"

    @cached_property
    def real(self) -> RealPictures:
        """The folder's pictures as the guide sees them. Raises ValueError for one without features, in words."""
        count = min(len(self.pictures), MOST_REAL)
        places = [index * len(self.pictures) // count for index in range(count)]
        found = []
        for start in range(0, count, AT_ONCE):
            comfy.model_management.throw_exception_if_processing_interrupted()
            shown, _ = self.pictures.batch(places[start : start + AT_ONCE])
            found.append(features_of((shown.movedim(1, -1) + 1.0) / 2.0, self.guide))
        try:
            return RealPictures.of(torch.cat(found))
        except ValueError as error:
            raise ValueError(
                f"{self.guide.guide.name} cannot compare with the pictures in {self.pictures.path}: {error}. Choose "
                f"another guide, or another folder."
            ) from None

    @cached_property
    def block(self) -> int:
        return together(min(self.made, self.real.features.shape[0]), self.real.features.shape[1])

    def check(self) -> None:
        """Refuse too few pictures, and guides without features, before anything is drawn."""
        features_of(GREY, self.guide)
        if len(self.pictures) < LEAST_REAL:
            raise ValueError(
                f"{len(self.pictures)} pictures are in {self.pictures.path}; set_measure needs {LEAST_REAL} or more, "
                f"and hundreds are good. Put more into it, or set set_measure to none."
            )
        if self.made < LEAST_MADE:
            raise ValueError(
                f"A setting has {self.made} pictures (seeds or new_seeds, times the batch of latent_image); "
                f"set_measure compares sets and needs {LEAST_MADE} or more. Raise seeds and new_seeds, or the batch."
            )
        assert self.real.features.numel()  # the folder is read here, for what it refuses

    def values(self, images: torch.Tensor, prompt: int) -> list[str]:
        """The features of each picture [B, H, W, 3], in hexadecimal."""
        seen = self.real.seen(features_of(_shaped(images, self.pictures.size), self.guide))
        return [one.numpy().tobytes().hex() for one in seen]

    def numbers(self, kept: Sequence[Kept]) -> list[float]:
        """The share of each picture in the measure of all, more is better; none where they are too few to say."""
        if len(kept) < fewest(self.block):
            return []
        key = tuple(kept)
        if key not in self.known:
            rows = [np.frombuffer(bytes.fromhex(str(text)), np.float16) for text in kept]
            self.known[key] = parts(self.measure, self.real, torch.from_numpy(np.stack(rows)), self.block)
        return self.known[key]

    def facts(self) -> list[Any]:
        """What decides its judgement."""
        pause = comfy.model_management.throw_exception_if_processing_interrupted
        networks = [sample_of(patcher.model) for patcher in self.guide.patchers]
        return [self.name, self.pictures.take_sha256(pause), *networks]


def _shaped(images: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """Pictures [B, H, W, 3] brought to a size as those of the folder were: the largest middle part of that shape."""
    framed = Preprocessing(size=size, filter="bicubic").frame(images[..., :3].movedim(-1, 1))
    return framed.movedim(1, -1).clamp(0.0, 1.0)
