"""Tune Guidance on the embedded world, against a grid, a random search, the papers' values and plain CFG.

    python benchmarks/tuning.py --comfyui FOLDER [--seeds 0 1 2] [--only three four cheat] [--out FILE.jsonl]
    python benchmarks/tuning.py --comfyui FOLDER --table FILE.jsonl

Two searches: three settings (a grid of 48 cells), and four of which all interact (a grid of 144). All ways see the same
noise, the same judge (the clean classifier) and the same limits, and both searches get a fifth of what the grid takes;
every evaluation is counted, those of the check too. The benchmarks' judge, which takes no part, sees new pictures of
what each way has chosen, and of plain CFG at the weight that this came to. Then the cheat test: a clean classifier that
steers at the noisy picture is its own only judge, with the limits and without.
Results are kept, a JSON line each, and the same command goes on where it was stopped.
"""

from __future__ import annotations

import argparse
import itertools
import json
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from measures import class_accuracy
from overhead import ROOT, begin

CFG, AUTO, START, PHI = "cfg weight", "autoguidance weight", "cfg start", "rescale phi"
VARY = {CFG: "1 .. 8", AUTO: "1 .. 3", START: "0 .. 0.5", PHI: "0 .. 1"}
GRID = {CFG: (1.0, 2.0, 4.0, 8.0), AUTO: (1.0, 1.5, 2.0, 3.0), START: (0.0, 0.2, 0.4), PHI: (0.0, 0.4, 0.8)}
PAPERS = {CFG: 2.0, AUTO: 2.0, START: 0.0, PHI: 0.7}  # a mild CFG; 1.7 to 2.9 of 2406.02507; 2305.08891
CAME = {CFG: 1.5, AUTO: 1.2, PHI: 0.1}
CASES = {"three": (CFG, AUTO, START), "four": (CFG, AUTO, START, PHI)}
CHEAT = "classifier scale: 0.5 .. 64 log"
WIDE = 2.5  # times the unguided pictures' contrast and saturation: pictures of this world may become much stronger
SHARE = 5  # the searches get one part of so many of the grid's evaluations
REFERENCE_SEED = 90_001
REAL, REAL_SEED = 500, 90_002  # pictures of the folder that a search may aim at
BATCH = 10


def main() -> None:
    options = parse()
    if options.table is None:
        begin(options)
        sys.path.append(str(ROOT / "tools"))
        import comfy.utils

        comfy.utils.PROGRESS_BAR_ENABLED = False
        with torch.inference_mode():
            Study(options).run()
    print(table(read(options.table or options.out)))


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--comfyui", type=Path, help="folder of a ComfyUI")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--only", nargs="+", choices=(*CASES, "cheat"), default=[*CASES, "cheat"])
    parser.add_argument("--ways", nargs="+", default=list(WAYS), help="names of what is compared, or a part of them")
    parser.add_argument("--steps", type=int, default=6)
    parser.add_argument("--runs", type=int, default=4, help="of ten pictures, by which a setting is judged")
    parser.add_argument("--pictures", type=int, default=200, help="that the unseen judge sees, of each setting")
    parser.add_argument("--aim", choices=("class", "frechet"), default="class",
                        help="of the search: the classifier's opinion, or the distance to rendered pictures in it")
    parser.add_argument("--out", type=Path, default=ROOT / ".cache" / "tuning.jsonl")
    parser.add_argument("--table", type=Path, help="only show what a file has")
    options = parser.parse_args()
    if options.table is None and options.comfyui is None:
        parser.error("--comfyui is needed")
    return options


def read(path: Path) -> list[dict[str, Any]]:
    """The lines of a file; none if it is not there."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if path.exists() else []


class Study:
    """All rows, made one after the other and kept in a file."""

    def __init__(self, options: argparse.Namespace):
        self.options, self.judge = options, UnseenJudge(options.pictures)
        self.done = {tuple(line["key"]): line for line in read(options.out)}
        self.unguided: dict[int, list[Any]] = {}  # readings by seed

    def run(self) -> None:
        """What is not in the file yet."""
        for seed, case in itertools.product(self.options.seeds, self.options.only):
            if case == "cheat":
                for name in ("kept", "none"):
                    self.keep((case, seed, name), lambda seed=seed, name=name: cheat(self, seed, name))
                continue
            problem = guided_problem(self.options, seed, CASES[case])
            for name in self.options.ways:
                self.keep((case, seed, name), lambda p=problem, c=case, s=seed, n=name: self.row(p, c, s, n))

    def keep(self, key: tuple, make: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """The line of this key: from the file, or made now and added to it."""
        if key not in self.done:
            started = time.process_time()
            line = {"key": key, **make()}
            line["seconds"] = round(time.process_time() - started, 1)
            with self.options.out.open("a", encoding="utf-8") as out:
                out.write(json.dumps(line) + "\n")
            self.done[key] = line
        return self.done[key]

    def row(self, problem: Any, case: str, seed: int, name: str) -> dict[str, Any]:
        """What a way has chosen, what it took, and what the unseen judge says of it."""
        settings, facts = WAYS[name](self, problem, case, seed)
        found = {**facts, "values": values_of(settings), **self.judge.verdict(problem, settings)}
        weight = effective_weight(problem, settings)
        if weight is not None:
            plain = replace(settings, rules=(), cfg=weight)
            found |= {"weight": weight, "plain": self.judge.verdict(problem, plain)}
        return found

    def cell(self, problem: Any, case: str, seed: int, values: dict[str, float]) -> dict[str, Any]:
        """A cell of the grid, judged over the search's runs."""
        from guidance_pack.host.tuning.space import set_all

        def make() -> dict[str, Any]:
            settings = set_all(problem.first, problem.space, values)
            readings = [problem.run(settings, index, _nothing)[0] for index in range(problem.effort.seeds)]
            mean = sum(sum(r.values[0]) for r in readings) / sum(len(r.values[0]) for r in readings)
            spent = sum(reading.evaluations for reading in readings)
            return {"mean": mean, "kept": self.keeps(problem, readings, seed), "evaluations": spent}

        return self.keep((case, seed, "cell", *values.values()), make)

    def keeps(self, problem: Any, readings: list[Any], seed: int) -> bool:
        """Whether pictures keep the limits."""
        from guidance_pack.host.tuning.problem import seen_in

        if seed not in self.unguided:
            indices = range(len(readings))
            self.unguided[seed] = [problem.run(problem.unguided, index, _nothing)[0] for index in indices]
        excess = problem.limits.excess(seen_in(readings), seen_in(self.unguided[seed]))
        return all(value <= 0.0 for value in excess.values())


class UnseenJudge:
    """The benchmarks' judge, which guides nothing and takes no part in a search."""

    def __init__(self, pictures: int):
        from world import render
        from world.judge import read_judge

        from guidance_pack.guidance.networks.tiny.files import build

        self.network, self.pictures = build(read_judge()), pictures
        self.real = self.network.features(render(max(pictures, 200), REFERENCE_SEED).images)

    def verdict(self, problem: Any, settings: Any) -> dict[str, float]:
        """Class accuracy and Frechet distance over new pictures, from seeds that no search uses."""
        from guidance_pack.guidance.tuning.sets import frechet_distance

        runs = range(1000, 1000 + -(-self.pictures // BATCH))
        images = torch.cat([problem.run(settings, index, _nothing)[1] for index in runs]).movedim(-1, 1) * 2 - 1
        labels = torch.arange(len(images)) % BATCH
        distance = frechet_distance(self.real, self.network.features(images))
        return {"accuracy": class_accuracy(self.network(images), labels), "frechet": distance}


def as_it_came(study: Study, problem: Any, case: str, seed: int) -> tuple[Any, dict[str, Any]]:
    return problem.first, {"evaluations": 0}


def of_papers(study: Study, problem: Any, case: str, seed: int) -> tuple[Any, dict[str, Any]]:
    from guidance_pack.host.tuning.space import set_all

    return set_all(problem.first, problem.space, PAPERS), {"evaluations": 0}


def best_cell(study: Study, problem: Any, case: str, seed: int) -> tuple[Any, dict[str, Any]]:
    """The cell that the search's judge likes best over the search's seeds, among those that keep the limits."""
    from guidance_pack.host.tuning.space import set_all

    cells = cells_of(case)
    lines = [study.cell(problem, case, seed, cell) for cell in cells]
    able = [(line["mean"], at) for at, line in enumerate(lines) if line["kept"]]
    best = cells[max(able)[1]] if able else CAME
    spent = sum(line["evaluations"] for line in lines)
    return set_all(problem.first, problem.space, best), {"evaluations": spent, "settings": len(cells)}


def searched(sampler: Callable[[int], Any]) -> Callable[..., tuple[Any, dict[str, Any]]]:
    def search(study: Study, problem: Any, case: str, seed: int) -> tuple[Any, dict[str, Any]]:
        from guidance_pack.host.tuning.tune import tune

        given = replace(problem, effort=replace(problem.effort, budget=budget_of(problem, case)))
        found = tune(given, study_of(given, seed, sampler(seed)), _nothing)
        best = found.winner or found.first
        sure = found.check.chances[0] if found.check is not None else None
        return best.settings, {
            "evaluations": found.spent, "settings": len(found.candidates), "sure": sure, "won": found.won,
            "apart": found.told_apart, "whole": sum(c.whole for c in found.candidates), "mean": best.means[0],
        }

    return search


def at_random(seed: int) -> Any:
    from optuna.samplers import RandomSampler

    return RandomSampler(seed)


WAYS: dict[str, Callable[..., tuple[Any, dict[str, Any]]]] = {
    "as it came": as_it_came, "papers": of_papers, "Tune Guidance": searched(lambda seed: None),
    "random search": searched(at_random), "best cell of the grid": best_cell,
}  # fmt: skip


def cells_of(case: str) -> list[dict[str, float]]:
    names = CASES[case]
    return [dict(zip(names, values, strict=True)) for values in itertools.product(*(GRID[name] for name in names))]


def budget_of(problem: Any, case: str) -> int:
    """A part of what the grid is expected to take, before it is drawn."""
    from guidance_pack.host.tuning.space import set_all

    costs = [problem.cost(set_all(problem.first, problem.space, cell)) for cell in cells_of(case)]
    return problem.effort.seeds * sum(costs) // SHARE


def effective_weight(problem: Any, settings: Any) -> float | None:
    """The weight at which plain CFG is as strong, of one run; None where no step evaluates both prompts."""
    from guidance_pack.host.compare.compare import measure, with_settings

    if settings.rules[0].weight == 1.0:
        return None
    settings = replace(settings, seed=problem.first.seed)
    return measure(problem.scenes[0], with_settings(problem.models[0], settings), settings, None).weight


def values_of(settings: Any) -> dict[str, float]:
    """What was chosen, by name."""
    cfg, auto, *more = settings.rules
    start = getattr(cfg.schedule, "start", 0.0)
    return {CFG: cfg.weight, AUTO: auto.weight, START: start, **({PHI: more[0].phi} if more else {})}


def cheat(study: Study, seed: int, name: str) -> dict[str, Any]:
    """What a classifier chooses as its own judge, with the limits as they are and without."""
    from guidance_pack.guidance.tuning.guards import Limits
    from guidance_pack.host.tuning.problem import seen_in
    from guidance_pack.host.tuning.tune import tune

    asked = classifier_problem(study.options, seed)
    asked = replace(asked, limits=Limits() if name == "kept" else Limits(0.0, 0.0, 0.0, 0.0))
    found = tune(asked, study_of(asked, seed, None), _nothing)
    best = found.winner or found.first
    look, plain = seen_in(best.readings), seen_in([asked.run(asked.unguided, 0, _nothing)[0]])
    return {
        "evaluations": found.spent, "scale": best.settings.rules[0].scale, "own": best.means[0],
        "contrast": look.contrast / plain.contrast, "clipped": look.clipping,
        **study.judge.verdict(asked, best.settings),
    }  # fmt: skip


def study_of(problem: Any, seed: int, sampler: Any) -> Any:
    from guidance_pack.host.tuning.study import Study

    return Study(None, problem.fingerprint(), 1, seed, sampler)


def guided_problem(options: argparse.Namespace, seed: int, names: tuple[str, ...]) -> Any:
    """CFG and autoguidance of the embedded model, with rescaling where it varies, all ten classes in every run."""
    from guidance_pack.guidance.rules.autoguidance import Autoguidance
    from guidance_pack.guidance.rules.cfg import CFG as Combine
    from guidance_pack.guidance.rules.rescale import Rescale
    from guidance_pack.guidance.tuning.guards import Limits
    from guidance_pack.host.engine.install import with_autoguidance, with_rule
    from guidance_pack.host.models.tiny import load_tiny_model

    model = with_rule(load_tiny_model("shapes-edm"), Combine(CAME[CFG]))
    guided = with_autoguidance(model, load_tiny_model("shapes-edm-weak"), Autoguidance(CAME[AUTO]))
    if PHI in names:
        guided = with_rule(guided, Rescale(CAME[PHI]))
    vary = "\n".join(f"{name}: {VARY[name]}" for name in names)
    return problem_of(options, seed, guided, vary, Limits(saturation=WIDE, contrast=WIDE), told=True)


def classifier_problem(options: argparse.Namespace, seed: int) -> Any:
    """The unconditional model steered by the clean classifier at the noisy picture (ADM's naive way)."""
    from guidance_pack.guidance.rules.gradient import GradientGuidance
    from guidance_pack.guidance.tuning.guards import Limits
    from guidance_pack.host.engine.steer import steer_to_class
    from guidance_pack.host.models.guides import load_guide
    from guidance_pack.host.models.tiny import load_tiny_model

    guide, model = load_guide("shapes-classifier"), load_tiny_model("shapes-edm")
    steered = steer_to_class(
        model, guide, all_classes(), GradientGuidance(1.0), at="noisy input", decoder="vae", vae=None
    )
    return problem_of(options, seed, steered, CHEAT, Limits(), told=False)


def problem_of(options: argparse.Namespace, seed: int, model: Any, vary: str, limits: Any, told: bool) -> Any:
    """told: whether the model itself is told the classes."""
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
    latent = {"samples": torch.zeros(BATCH, 4, 4, 4), "downscale_ratio_spacial": 8}
    first = Settings(0, plan_of(model).guidance.rules, 1.0, options.steps, 100 * seed, 1.0, "euler", "karras")
    guide = load_guide("shapes-classifier")
    judge = Judge(guide, (Wanted(all_classes()),)) if options.aim == "class" else towards_rendered(guide, options.runs)
    scene = Scene((model,), positive, negative, latent, pixel_vae())
    effort = Effort(seeds=options.runs, checks=options.runs, budget=600)
    return Problem((scene,), first, parse_space(vary, first), (judge,), limits, effort)


def towards_rendered(guide: Any, runs: int) -> Any:
    """A judge of sets: the Frechet distance to a folder of rendered pictures, in the classifier's features."""
    from PIL import Image
    from world import render

    from guidance_pack.host.training.dataset import read_folder
    from guidance_pack.host.tuning.judges import SetJudge

    folder = ROOT / ".cache" / "rendered pictures"
    folder.mkdir(parents=True, exist_ok=True)
    for index, image in enumerate(render(REAL, REAL_SEED).images):
        pixels = ((image + 1) * 127.5).round().clamp(0, 255).to(torch.uint8).movedim(0, -1)
        Image.fromarray(pixels.numpy()).save(folder / f"{index:04}.png")
    return SetJudge(guide, read_folder(folder, 32, 32), "frechet", runs * BATCH)


def all_classes() -> str:
    from world import LABELS

    return ", ".join(LABELS)


def table(lines: list[dict[str, Any]]) -> str:
    """The rows of all seeds, then their means; those of the cheat test last."""
    parts = []
    for case in CASES:
        rows = [line for line in lines if line["key"][0] == case and line["key"][2] != "cell"]
        if rows:
            parts.append("\n".join([case, *_rows(rows)]))
    rows = [line for line in lines if line["key"][0] == "cheat"]
    if rows:
        parts.append("\n".join(["cheat", *_cheat_rows(rows)]))
    return "\n\n".join(parts)


def _rows(rows: list[dict[str, Any]]) -> list[str]:
    names = list(rows[0]["values"])
    head = ["settings from", "seed", "evaluations", "settings", *names, "accuracy", "Frechet", "plain CFG as strong"]
    out = [f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
    for way in dict.fromkeys(row["key"][2] for row in rows):
        mine = sorted((row for row in rows if row["key"][2] == way), key=lambda row: row["key"][1])
        for row in mine:
            chosen = [f"{row['values'][name]:.3g}" for name in names]
            plain = row.get("plain")
            strong = f"{row['weight']:.2f}: {plain['accuracy']:.1%}, {plain['frechet']:.1f}" if plain else ""
            out.append("| " + " | ".join([
                way, f"{row['key'][1]}", f"{row['evaluations']}", f"{row.get('settings', '')}", *chosen,
                f"{row['accuracy']:.1%}", f"{row['frechet']:.1f}", strong,
            ]) + " |")  # fmt: skip
        means = [sum(row[key] for row in mine) / len(mine) for key in ("evaluations", "accuracy", "frechet")]
        out.append(f"| {way} | mean | {means[0]:.0f} |{' |' * (len(names) + 1)} {means[1]:.1%} | {means[2]:.1f} | |")
    return out


def _cheat_rows(rows: list[dict[str, Any]]) -> list[str]:
    head = ["limits", "seed", "scale", "its own judge", "accuracy", "contrast", "clipped"]
    out = [f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
    for row in sorted(rows, key=lambda row: (row["key"][2], row["key"][1])):
        out.append(f"| {row['key'][2]} | {row['key'][1]} | {row['scale']:.3g} | {row['own']:.2f} | "
                   f"{row['accuracy']:.1%} | {row['contrast']:.2f} | {row['clipped']:.0%} |")  # fmt: skip
    return out


def _nothing(*said: Any) -> None:
    pass


if __name__ == "__main__":
    main()
