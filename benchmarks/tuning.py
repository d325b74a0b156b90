"""Tune Guidance on the embedded world: `.venv/bin/python benchmarks/tuning.py --comfyui FOLDER [--seeds 0] [...]`.

Against the settings as they came, the papers' values, the best cell of a full grid and a random search of equal budget;
each counted in evaluations, and judged on new pictures by the benchmarks' judge, which takes no part in any search.
Then the cheat test: a clean classifier that steers at the noisy picture is its own only judge, with the limits and
without. Prints markdown tables.
"""

from __future__ import annotations

import argparse
import itertools
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from measures import class_accuracy, frechet_distance
from overhead import begin

VARY = "cfg weight: 1 .. 8\nautoguidance weight: 1 .. 3\ncfg start: 0 .. 0.5"
GRID = {"cfg weight": (1.0, 2.0, 4.0, 8.0), "autoguidance weight": (1.0, 1.5, 3.0), "cfg start": (0.0,)}
PAPERS = {"cfg weight": 2.0, "autoguidance weight": 2.0, "cfg start": 0.0}  # a mild CFG; 1.7 to 2.9 of 2406.02507
CAME = {"cfg weight": 1.5, "autoguidance weight": 1.2}
CHEAT = "classifier scale: 0.5 .. 64 log"
REFERENCE_SEED = 90_001


def main() -> None:
    options = parse()
    begin(options)
    sys.path.append(str(Path(__file__).resolve().parents[1] / "tools"))
    import comfy.utils

    comfy.utils.PROGRESS_BAR_ENABLED = False
    with torch.inference_mode():
        judge = UnseenJudge(options.pictures)
        print("| seed | settings from | evaluations | cfg | autoguidance | start | accuracy | Frechet |")
        print("|---|---|---|---|---|---|---|---|")
        for seed in options.seeds:
            compare(options, judge, seed)
        print("\n| seed | limits | scale | its own judge | accuracy | contrast | clipped |")
        print("|---|---|---|---|---|---|---|")
        for seed in options.seeds:
            cheat(options, judge, seed)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--comfyui", type=Path, required=True, help="folder of a ComfyUI")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--budget", type=int, default=600, help="evaluations of each search, of a batch of ten")
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--pictures", type=int, default=200, help="that the judge sees, of each setting")
    return parser.parse_args()


class UnseenJudge:
    """The benchmarks' judge, which guides nothing and takes no part in a search."""

    def __init__(self, pictures: int):
        from world import render
        from world.judge import read_judge

        from guidance_pack.guidance.networks.tiny.files import build

        self.network, self.pictures = build(read_judge()), pictures
        self.real = self.network.features(render(max(pictures, 200), REFERENCE_SEED).images)

    def verdict(self, problem: Any, settings: Any) -> tuple[float, float]:
        """Class accuracy and Frechet distance over new pictures, from seeds that no search uses."""
        runs = range(1000, 1000 + -(-self.pictures // 10))
        images = torch.cat([problem.run(settings, index, _nothing)[1] for index in runs]).movedim(-1, 1) * 2 - 1
        labels = torch.arange(len(images)) % 10
        accuracy = class_accuracy(self.network(images), labels)
        return accuracy, frechet_distance(self.real, self.network.features(images))


def compare(options: argparse.Namespace, judge: UnseenJudge, seed: int) -> None:
    """The rows of one seed."""
    from optuna.samplers import RandomSampler

    from guidance_pack.host.tuning.space import set_all
    from guidance_pack.host.tuning.tune import tune

    problem = guided_problem(options, seed)

    def row(name: str, settings: Any, evaluations: int | str) -> None:
        accuracy, distance = judge.verdict(problem, settings)
        cfg, auto = settings.rules
        start = getattr(cfg.schedule, "start", 0.0)
        print(f"| {seed} | {name} | {evaluations} | {cfg.weight:g} | {auto.weight:g} | {start:g} | {accuracy:.1%} "
              f"| {distance:.1f} |", flush=True)  # fmt: skip

    row("as it came", problem.first, 0)
    row("papers", set_all(problem.first, problem.space, PAPERS), 0)
    cells = [dict(zip(GRID, values, strict=True)) for values in itertools.product(*GRID.values())]
    best, spent = searched_grid(problem, [set_all(problem.first, problem.space, cell) for cell in cells])
    row(f"grid of {len(cells)}, best cell", best, spent)
    for name, sampler in (("random search", RandomSampler(seed)), ("Tune Guidance", None)):
        started = time.process_time()
        found = tune(problem, study_of(problem, seed, sampler), _nothing)
        settings = found.winner.settings if found.winner is not None else problem.first
        sure = f"{found.check.chances[0]:.0%} sure" if found.check is not None else "not told apart"
        row(f"{name} ({sure}, {len(found.candidates)} settings)", settings, found.spent)
        print(f"{name}: {time.process_time() - started:.0f} s of the processor", file=sys.stderr)


def searched_grid(problem: Any, cells: list[Any]) -> tuple[Any, int]:
    """The cell that the search's judge likes best over the search's seeds, and what all took; no limits."""
    values, spent = {}, 0
    for cell in cells:
        readings = [problem.run(cell, index, _nothing)[0] for index in range(problem.effort.seeds)]
        values[cell] = sum(sum(reading.values[0]) for reading in readings)
        spent += sum(reading.evaluations for reading in readings)
    return max(values, key=values.__getitem__), spent


def cheat(options: argparse.Namespace, judge: UnseenJudge, seed: int) -> None:
    """What a classifier chooses as its own judge."""
    from guidance_pack.guidance.tuning.guards import Limits
    from guidance_pack.host.tuning.problem import seen_in
    from guidance_pack.host.tuning.tune import tune

    problem = classifier_problem(options, seed)
    for name, limits in (("kept", Limits()), ("none", Limits(0.0, 0.0, 0.0, 0.0))):
        asked = replace(problem, limits=limits)
        found = tune(asked, study_of(asked, seed, None), _nothing)
        best = found.winner or found.first
        look, plain = seen_in(best.readings), seen_in([asked.run(asked.unguided, 0, _nothing)[0]])
        accuracy, _ = judge.verdict(asked, best.settings)
        print(f"| {seed} | {name} | {best.settings.rules[0].scale:g} | {best.means[0]:.2f} | {accuracy:.1%} "
              f"| {look.contrast / plain.contrast:.2f} | {look.clipping:.2f} |", flush=True)  # fmt: skip


def study_of(problem: Any, seed: int, sampler: Any) -> Any:
    from guidance_pack.host.tuning.study import Study

    return Study(None, problem.fingerprint(), 1, seed, sampler)


def guided_problem(options: argparse.Namespace, seed: int) -> Any:
    """CFG and autoguidance of the embedded model, all ten classes in every run."""
    from guidance_pack.guidance.rules.autoguidance import Autoguidance
    from guidance_pack.guidance.rules.cfg import CFG
    from guidance_pack.host.engine.install import with_autoguidance, with_rule
    from guidance_pack.host.models.tiny import load_tiny_model

    model = with_rule(load_tiny_model("shapes-edm"), CFG(CAME["cfg weight"]))
    auto = Autoguidance(CAME["autoguidance weight"])
    guided = with_autoguidance(model, load_tiny_model("shapes-edm-weak"), auto)
    return problem_of(options, seed, guided, VARY, told=True)


def classifier_problem(options: argparse.Namespace, seed: int) -> Any:
    """The unconditional model steered by the clean classifier at the noisy picture (ADM's naive way)."""
    from guidance_pack.guidance.rules.gradient import GradientGuidance
    from guidance_pack.host.engine.steer import steer_to_class
    from guidance_pack.host.models.guides import load_guide
    from guidance_pack.host.models.tiny import load_tiny_model

    guide, model = load_guide("shapes-classifier"), load_tiny_model("shapes-edm")
    steered = steer_to_class(
        model, guide, all_classes(), GradientGuidance(1.0), at="noisy input", decoder="vae", vae=None
    )
    return problem_of(options, seed, steered, CHEAT, told=False)


def problem_of(options: argparse.Namespace, seed: int, model: Any, vary: str, told: bool) -> Any:
    """told: whether the model itself is told the classes."""
    from guidance_pack.guidance.tuning.guards import Limits
    from guidance_pack.host.common.labels import class_conditioning
    from guidance_pack.host.compare.compare import Scene
    from guidance_pack.host.compare.score import Wanted
    from guidance_pack.host.compare.settings import Settings
    from guidance_pack.host.engine.plan import plan_of
    from guidance_pack.host.models.guides import load_guide
    from guidance_pack.host.models.tiny import pixel_vae
    from guidance_pack.host.tuning.problem import Effort, Judge, Problem
    from guidance_pack.host.tuning.space import parse_space

    positive, negative = class_conditioning(model, all_classes() if told else ""), class_conditioning(model, "")
    latent = {"samples": torch.zeros(10, 4, 4, 4), "downscale_ratio_spacial": 8}
    first = Settings(0, plan_of(model).guidance.rules, 1.0, options.steps, 100 * seed, 1.0, "euler", "karras")
    judges = (Judge(load_guide("shapes-classifier"), (Wanted(all_classes()),)),)
    scene = Scene((model,), positive, negative, latent, pixel_vae())
    effort = Effort(seeds=3, checks=3, budget=options.budget)
    return Problem((scene,), first, parse_space(vary, first), judges, Limits(), effort)


def all_classes() -> str:
    from world import LABELS

    return ", ".join(LABELS)


def _nothing(*said: Any) -> None:
    pass


if __name__ == "__main__":
    main()
