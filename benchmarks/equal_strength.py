"""What rules gain against plain CFG that is as strong (2602.22570), on the embedded world.

    python benchmarks/equal_strength.py [--samples 400] [--seeds 0 1 2] [--weights 2 5] --out FILE.jsonl
    python benchmarks/equal_strength.py --table FILE.jsonl [--picture FILE.png]

Every rule is run at its defaults over CFG weights, or with that number for its own weight, from the same noise and
labels; its effective weight a = (D' - D_negative, Delta) / (Delta, Delta) is averaged over the run, and plain CFG is
run at that weight. CFG++, which is made for steps of the first order, goes by Euler, and so does the CFG beside it.
What a rule does at a weight that is too high shows at the largest one: numbers beyond the range of pictures, before
they are cut off, and contrast, the mean over pictures of their standard deviation after it. Results are kept, a JSON
line per run, and the same command goes on where it was stopped; --picture draws those at the largest weight.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch
from equal_strength_picture import equal_strength
from measures import class_accuracy
from quality import ROOT, Judge, sample
from sampling import Denoiser, Guided, Setting, noise_levels
from torch import Tensor
from world import LABELS
from world.judge import JUDGE

from guidance_pack.guidance.algebra import dot, ratio
from guidance_pack.guidance.branch import NEGATIVE, POSITIVE, Branch
from guidance_pack.guidance.compose import Guidance, Memory
from guidance_pack.guidance.networks.tiny.files import build, read_denoiser
from guidance_pack.guidance.networks.tiny.preconditioning import precondition
from guidance_pack.guidance.noise_level import NoiseLevel
from guidance_pack.guidance.rule import Rule
from guidance_pack.guidance.rules.apg import APG
from guidance_pack.guidance.rules.autoguidance import Autoguidance
from guidance_pack.guidance.rules.cfg import CFG
from guidance_pack.guidance.rules.cfg_norm import CFGNorm
from guidance_pack.guidance.rules.cfg_pp import CFGPlusPlus
from guidance_pack.guidance.rules.cfg_zero import CFGZero
from guidance_pack.guidance.rules.fdg import FDG
from guidance_pack.guidance.rules.feedback import Feedback
from guidance_pack.guidance.rules.higs import HiGS
from guidance_pack.guidance.rules.mambo_g import MamboG
from guidance_pack.guidance.rules.mimic import Mimic
from guidance_pack.guidance.rules.momentum import Momentum
from guidance_pack.guidance.rules.pmc import PMC
from guidance_pack.guidance.rules.renorm import Renorm
from guidance_pack.guidance.rules.rescale import Rescale
from guidance_pack.guidance.rules.skim import Skim
from guidance_pack.guidance.rules.tag import TAG
from guidance_pack.guidance.rules.tcfg import TCFG
from guidance_pack.guidance.schedule import Interval
from guidance_pack.guidance.tuning.sets import frechet_distance, precision_recall

PLAIN, WEAK = "plain CFG", "guide"
RULES: dict[str, tuple[Rule, ...]] = {
    "CFG-Zero*": (CFGZero(),), "TCFG": (TCFG(),), "FDG": (FDG(),), "MAMBO-G": (MamboG(),),
    "PMC-CFG": (PMC(),), "skimmed CFG": (Skim(),), "dynamic thresholding": (Mimic(),), "RenormCFG": (Renorm(),),
    "CFGNorm": (CFGNorm(),), "TAG": (TAG(),), "APG": (APG(),), "Rescale": (Rescale(),), "momentum": (Momentum(),),
    "HiGS": (HiGS(),),
}  # fmt: skip
INSTEAD: dict[str, Callable[[float], Rule]] = {  # of CFG, by its weight
    "CFG in (0.15, 5]": lambda weight: CFG(weight, Interval(5.0, 0.15, "sigma_ve")),
    "autoguidance": lambda weight: Autoguidance(weight, guide=WEAK),
    "feedback": lambda weight: Feedback(max_weight=weight),
    "CFG++": lambda weight: CFGPlusPlus(share=weight / (1.0 + weight)),
}
EARLIER = ("CFG in (0.15, 5]",)  # of these, before the others
BY_EULER = ("CFG++",)


class Steered(Guided):
    """The embedded denoiser under any rules, and how strong they were as plain CFG is.

    weak: the network that autoguidance goes away from. levels: those of the run, 0 at the end.
    """

    def __init__(
        self, networks: tuple[Denoiser, Denoiser], rules: tuple[Rule, ...], null: int, levels: list[float]
    ) -> None:
        super().__init__(*networks, Setting(""), "edm", null)
        self.levels = dict(zip(levels[:-1], levels[1:], strict=True))
        run = NoiseLevel.variance_exploding(torch.tensor(levels, dtype=torch.float64))
        self.guidance, self.memory = Guidance(rules).over(run), Memory()
        self.weights: list[Tensor] = []
        self.last = math.inf

    def __call__(self, x: Tensor, sigma: float, y: Tensor) -> Tensor:
        seen: dict[Branch, Tensor] = {}
        level = NoiseLevel.variance_exploding(torch.full((len(x),), sigma))

        def network(branch: Branch) -> Tensor:
            labels = torch.full_like(y, self.null) if branch == NEGATIVE else y
            return seen.setdefault(branch, self.networks[branch.network](x, level.b.float(), labels))

        def evaluate(branch: Branch) -> Tensor:
            self.evaluations += 1
            return network(branch)

        if sigma > self.last:  # the next part of the pictures
            self.memory = Memory()
        if sigma != self.last:
            self.memory.move_to(self.memory.position + 1)
        self.last = sigma
        following = NoiseLevel.variance_exploding(torch.full((len(x),), self.levels[sigma]))
        guided = self.guidance.denoise(evaluate, x, level, memory=self.memory, following=following)
        if NEGATIVE in seen or not torch.equal(guided, seen[POSITIVE]):
            delta = seen[POSITIVE] - network(NEGATIVE)  # not counted where the rule does without it
            self.weights.append(ratio(dot(guided - seen[NEGATIVE], delta), dot(delta, delta)).flatten())
        else:
            self.weights.append(torch.ones(len(x)))
        return guided

    @property
    def weight(self) -> float:
        """The mean over evaluations of the effective weight's size, as Inspect Run gives it."""
        return float(torch.stack([one.mean().abs() for one in self.weights]).mean())


def rules_of(name: str, weight: float) -> tuple[Rule, ...]:
    """The rules of a cell of the study."""
    return (INSTEAD[name](weight),) if name in INSTEAD else (CFG(weight), *RULES.get(name, ()))


def runs(options: argparse.Namespace) -> Iterator[tuple[str, float, int]]:
    """Name, CFG weight and seed of every rule's run; the plain one that is as strong follows each."""
    for seed in options.seeds:
        for weight in options.weights:
            later = (name for name in INSTEAD if name not in EARLIER)
            yield from ((name, weight, seed) for name in (PLAIN, *EARLIER, *RULES, *later))


@torch.no_grad()
def study(options: argparse.Namespace) -> None:
    """Run what is not in the file yet, until the time is up."""
    networks = network_of("shapes-edm"), network_of("shapes-edm-weak")
    judge, labels = Judge(JUDGE, options.samples), torch.arange(options.samples) % len(LABELS)
    done = {(one["name"], one["weight"], one["seed"]) for one in read(options.out)}
    began = time.monotonic()
    for name, weight, seed in runs(options):
        if (name, weight, seed) in done or time.monotonic() - began > options.minutes * 60:
            continue
        options.seed = seed
        ask = partial(measured, networks, labels=labels, judge=judge, options=options, euler=name in BY_EULER)
        own = ask(rules_of(name, weight))
        plain = None if name == PLAIN else ask((CFG(own["effective"]),))
        line = {"name": name, "weight": weight, "seed": seed, "samples": options.samples, "rule": own, "plain": plain}
        with options.out.open("a", encoding="utf-8") as out:
            out.write(json.dumps(line) + "\n")


def network_of(name: str) -> Denoiser:
    """One of the embedded denoisers, a function of (x, sigma, y)."""
    file = read_denoiser(ROOT / "assets" / f"{name}.safetensors")
    return precondition(build(file), "edm", file.sigma_data)


def measured(
    networks: tuple[Denoiser, Denoiser], rules: tuple[Rule, ...], *, labels: Tensor, judge: Judge, options,
    euler: bool = False,
) -> dict[str, Any]:
    """One run: its effective weight and the measures of its pictures."""
    levels = noise_levels("edm", 2 * options.steps - 1 if euler else options.steps)  # as many evaluations
    steered = Steered(networks, rules, len(LABELS), levels)
    images, evaluations = by_euler(steered, labels, options) if euler else sample(steered, labels, options)
    saturated = float((images.abs() > 1.0).float().mean())
    images = images.clamp(-1, 1)
    parts = images.split(250)
    features = torch.cat([judge.network.features(part) for part in parts])
    near = precision_recall(judge.features, features)
    return {
        "effective": steered.weight, "accuracy": class_accuracy(torch.cat([*map(judge.network, parts)]), labels),
        "frechet": frechet_distance(judge.features, features), "precision": near.precision, "recall": near.recall,
        "evaluations": evaluations, "saturated": saturated, "contrast": float(images.flatten(1).std(1).mean()),
    }  # fmt: skip


def by_euler(steered: Steered, labels: Tensor, options) -> tuple[Tensor, int]:
    """As `quality.sample`, from the same noise, in steps of the first order."""
    noise = torch.randn(len(labels), 3, 32, 32, generator=torch.Generator().manual_seed(options.seed))
    parts = []
    for start, y in zip(noise.split(options.batch), labels.split(options.batch), strict=True):
        x = start * next(iter(steered.levels))
        for sigma, following in steered.levels.items():
            x = x + (following - sigma) * (x - steered(x, sigma, y)) / sigma
        parts.append(x)
    return torch.cat(parts), steered.evaluations // len(parts)


def read(path: Path) -> list[dict[str, Any]]:
    """The runs of a file; none if it is not there."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if path.exists() else []


def table(found: list[dict[str, Any]]) -> str:
    """Means over seeds: the rule, and in brackets plain CFG at its effective weight."""
    heads = [
        "rule", "CFG", "effective", "seeds", "accuracy", "Frechet", "precision", "recall", "beyond range", "contrast",
        "evaluations",
    ]  # fmt: skip
    lines = [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    for name, weight in dict.fromkeys((one["name"], one["weight"]) for one in found):
        mine = [one for one in found if (one["name"], one["weight"]) == (name, weight)]
        shown = [
            _pair(mine, key, form)
            for key, form in (("accuracy", "{:.1%}"), ("frechet", "{:.2f}"), ("precision", "{:.3f}"),
                              ("recall", "{:.3f}"), ("saturated", "{:.1%}"), ("contrast", "{:.3f}"),
                              ("evaluations", "{:.0f}"))
        ]  # fmt: skip
        effective = sum(one["rule"]["effective"] for one in mine) / len(mine)
        lines.append(f"| {name} | {weight:g} | {effective:.2f} | {len(mine)} | {' | '.join(shown)} |")
    return "\n".join(lines)


def _pair(runs: list[dict[str, Any]], key: str, form: str) -> str:
    own, plain = ([one[part][key] for one in runs if one[part]] for part in ("rule", "plain"))
    words = form.format(sum(own) / len(own))
    return f"{words} ({form.format(sum(plain) / len(plain))})" if plain else words


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=int, default=400)
    parser.add_argument("--steps", type=int, default=16)
    parser.add_argument("--batch", type=int, default=100)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--weights", type=float, nargs="+", default=[2.0, 5.0])
    parser.add_argument("--minutes", type=float, default=math.inf)
    parser.add_argument("--out", type=Path, default=ROOT / ".cache" / "equal-strength.jsonl")
    parser.add_argument("--table", type=Path, help="only show what a file has")
    parser.add_argument("--picture", type=Path, help="also draw it")
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.table is None:
        study(options)
    found = read(options.table or options.out)
    print(table(found))
    if options.picture is not None:
        equal_strength(found).save(options.picture)


if __name__ == "__main__":
    main()
