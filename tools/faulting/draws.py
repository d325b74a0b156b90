"""Which fault a number is: its scene, its kind and its place."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from random import Random
from typing import Any

from . import files, sampling
from .trial import Scene, Trial

SCENES: dict[str, Callable[[], Scene]] = {**sampling.SCENES, **files.SCENES}


class Drawer:
    """Tries faults by their numbers. Scenes take turns in an order of the seed; each is prepared once."""

    def __init__(self, seed: int, scenes: Mapping[str, Callable[[], Scene]] | None = None) -> None:
        self.seed, self.scenes = seed, SCENES if scenes is None else scenes
        self.trials: dict[str, Trial] = {}

    def scene(self, number: int) -> str:
        """The name of the scene: every one comes once before any comes again."""
        turn, place = divmod(number, len(self.scenes))
        return Random(f"{self.seed} {turn}").sample(list(self.scenes), len(self.scenes))[place]

    def record(self, number: int) -> dict[str, Any]:
        """Try it. Raises what the scene raises without a fault."""
        name = self.scene(number)
        if name not in self.trials:
            self.trials[name] = Trial(self.scenes[name]())
        return {"fault": number, "scene": name, **self.trials[name].run(Random(f"{self.seed} fault {number}"))}
