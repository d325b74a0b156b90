"""How well Tune Guidance's search finds the best of four settings that interact, on made-up responses.

    python benchmarks/search.py [--repeats 30] [--runs 4]

No network: a setting's value is 0.9 less its squared distances from a best one that is drawn anew in every repeat,
where CFG, its start, rescale and autoguidance make up for each other; a picture adds its seed's level, which all
settings share, and chance. Optuna, the halving and the first trials are those of the node; the check's evaluations are
kept back as there. Prints the value, without chance, of what each way took for the best: mean and worst of the repeats.
"""

from __future__ import annotations

import argparse
import itertools
import random
import sys
from dataclasses import dataclass
from importlib.machinery import ModuleSpec
from importlib.util import module_from_spec
from pathlib import Path
from statistics import mean

from optuna.samplers import RandomSampler

ROOT = Path(__file__).resolve().parents[1]
if "guidance_pack" not in sys.modules:
    spec = ModuleSpec("guidance_pack", None, is_package=True)
    spec.submodule_search_locations = [str(ROOT)]
    sys.modules["guidance_pack"] = module_from_spec(spec)

from guidance_pack.host.tuning.study import Study  # noqa: E402

RANGES = {"cfg": (1.0, 8.0), "auto": (1.0, 3.0), "start": (0.0, 0.5), "phi": (0.0, 1.0)}
GRID = {"cfg": (1.0, 2.0, 4.0, 8.0), "auto": (1.0, 1.5, 2.0, 3.0), "start": (0.0, 0.2, 0.4), "phi": (0.0, 0.4, 0.8)}
CAME = {"cfg": 1.5, "auto": 1.2, "start": 0.0, "phi": 0.1}
NEW = {"cfg": 4.0, "auto": 2.0, "start": 0.0, "phi": 0.7}  # of new nodes
PICTURES, LEVELS, CHANCE = 10, 0.12, 0.12  # of a run; standard deviations over seeds and beside them
COST, UNGUIDED = 18, 6  # evaluations of a run
Values = dict[str, float]


@dataclass(frozen=True)
class Line:
    """A range as the study asks for it."""

    name: str
    low: float
    high: float
    whole, log, choices = False, False, ()

    def rounded(self, value: float) -> float:
        return float(f"{value:.3g}")


class World:
    """A made-up response, and its noisy pictures: those of a run are the same whoever asks."""

    def __init__(self, repeat: int):
        self.seed, drawn = repeat, random.Random(repeat)
        self.push, self.auto = drawn.uniform(2.5, 5.0), drawn.uniform(1.2, 2.2)
        self.start, self.phi = drawn.uniform(0.0, 0.35), drawn.uniform(0.1, 0.7)

    def value(self, at: Values) -> float:
        push = at["cfg"] * (1 - at["start"]) * (1 - 0.35 * at["phi"]) + 1.2 * (at["auto"] - 1)
        near = 0.02 * (push - self.push) ** 2 + 0.06 * (at["auto"] - self.auto) ** 2
        return 0.9 - near - 0.25 * (at["start"] - self.start) ** 2 - 0.08 * (at["phi"] - self.phi) ** 2

    def run(self, at: Values, index: int) -> float:
        """The mean of one run's pictures."""
        level = mean(random.Random(f"{self.seed}/{index}/{i}").gauss(0.0, LEVELS) for i in range(PICTURES))
        own = random.Random(f"{self.seed}/{index}/{sorted(at.items())}")
        return self.value(at) + level + own.gauss(0.0, CHANCE / PICTURES**0.5)


def by_grid(world: World, runs: int) -> tuple[float, int, int]:
    """The value of the best cell, evaluations, and cells."""
    cells = [dict(zip(GRID, each, strict=True)) for each in itertools.product(*GRID.values())]
    best = max(cells, key=lambda cell: mean(world.run(cell, index) for index in range(runs)))
    return world.value(best), COST * runs * len(cells), len(cells)


def by_search(world: World, runs: int, budget: int, first: list[Values], sampler=None) -> tuple[float, int, int]:
    """The value of the winner, evaluations with those of one check, and settings tried."""
    found = Study(None, f"{world.seed}", 1, world.seed, sampler)
    for values in first:
        found.offer(values)
    space = tuple(Line(name, low, high) for name, (low, high) in RANGES.items())
    whole, spent, tried = [(mean(world.run(CAME, i) for i in range(runs)), CAME)], runs * (COST + UNGUIDED), 0
    most = budget - runs * (3 * COST + UNGUIDED)  # two winners, the settings that came and unguided on new seeds
    while spent + runs * COST <= most:
        trial, values = found.ask(space)
        tried += 1
        seen: list[float] = []
        for index in range(runs):
            spent += COST * (values != CAME)
            seen.append(world.run(values, index))
            trial.report(mean(seen), index + 1)
            if trial.should_prune():
                break
        done = len(seen) == runs
        found.finish(trial, [mean(seen)], {}, whole=done)
        whole += [(mean(seen), values)] if done else []
    best = max(whole, key=lambda pair: pair[0])[1]
    return world.value(best), spent + runs * (2 * COST + UNGUIDED), tried


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=30)
    parser.add_argument("--runs", type=int, default=4, help="of ten pictures, by which a setting is judged")
    options = parser.parse_args()
    worlds = [World(repeat) for repeat in range(options.repeats)]
    runs = options.runs
    print("| way | evaluations | settings | value, mean | worst |\n|---|---|---|---|---|")
    show("grid", [by_grid(world, runs) for world in worlds])
    whole = COST * runs * len(list(itertools.product(*GRID.values())))
    for part in (5, 9):
        budget = whole // part
        show(f"search, 1/{part} of the grid", [by_search(world, runs, budget, [CAME, NEW]) for world in worlds])
        show("without the papers' numbers", [by_search(world, runs, budget, [CAME]) for world in worlds])
        show("at random", [by_search(w, runs, budget, [CAME], RandomSampler(w.seed)) for w in worlds])


def show(name: str, found: list[tuple[float, int, int]]) -> None:
    values, spent, tried = zip(*found, strict=True)
    print(f"| {name} | {mean(spent):.0f} | {mean(tried):.0f} | {mean(values):.4f} | {min(values):.4f} |", flush=True)


if __name__ == "__main__":
    main()
