"""The PPAP study (2212.05973) on the shapes world: what steers a denoiser by looking at its noisy pictures?

    python benchmarks/ppap.py [--only NAME ...] [--samples 240] [--seeds 3]    the study, or some of its guides
    python benchmarks/ppap.py --rates shapes-classifier|transformer            learning rates by a short training
    python benchmarks/ppap.py --banks                                          the banks in assets/

Every guide is trained with the same total of iterations, sampled over scales with a few-step ODE, and at its best scale
once more with many-step ancestral sampling. The judge, which guides nothing, measures. All that was made waits in
.cache/study, so the script can be stopped, and two can work on different guides. At the end it prints tables of what is
there and writes benchmarks/results/ppap.json, docs/ppap.png and docs/ppap-samples.png.
"""

from __future__ import annotations

import argparse
import json
import platform
from dataclasses import asdict
from pathlib import Path

import torch
from ppap_measure import MAP_SCALES, SAMPLERS, SAMPLES, SCALES, Bench, Cell
from ppap_report import pictures, plot, tables
from ppap_train import ASSETS, calibrations, experts_of, guide_of, try_rates
from ppap_transformer import clean_accuracy, transformer
from ppap_variants import CACHE, CLASSIFIERS, ITERATIONS, VARIANTS, Variant
from quality import ROOT

from guidance_pack.guidance.experts.file import BankFile, write_bank

MAIN = ("naive", "single", "single-labels", "ppap-5", "multi-5")  # measured with several seeds
BANKS = {"ppap-5": "shapes-experts", "depth-ppap-5-mse": "shapes-depth-experts",
         "segmentation-ppap-5": "shapes-segmentation-experts"}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="*", choices=VARIANTS, default=list(VARIANTS), metavar="NAME")
    parser.add_argument("--samples", type=int, default=SAMPLES)
    parser.add_argument("--seeds", type=int, default=3, help=f"of sampling, for {', '.join(MAIN)}")
    parser.add_argument("--quick", action="store_true", help="the sweeps alone")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rates", choices=CLASSIFIERS, help="try learning rates instead")
    parser.add_argument("--banks", action="store_true", help="write the embedded banks instead")
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "results" / "ppap.json")
    parser.add_argument("--docs", type=Path, default=ROOT / "docs", help="where the two pictures go")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if options.rates:
        try_rates(options.rates)
    elif options.banks:
        write_banks([name for name in options.only if name in BANKS])
    else:
        bench = Bench(options.samples)
        measure(bench, [VARIANTS[name] for name in options.only], 0 if options.quick else options.seeds)
        report(bench, options)


def write_banks(names: list[str]) -> None:
    """Train what is missing and put the banks where the workflows find them."""
    for name in names:
        file = experts_of(VARIANTS[name])
        path = ASSETS / f"{BANKS[name]}.safetensors"
        write_bank(path, BankFile(path.stem, file.header, file.adapters, file.training))
        print(f"{path.name}: {path.stat().st_size / 1e6:.2f} MB", flush=True)


def measure(bench: Bench, chosen: list[Variant], seeds: int) -> None:
    """First all sweeps with the ODE, then the best strengths and the strongest with ancestral sampling, then the best
    with other seeds; with 0 seeds the sweeps alone."""
    at = {}
    for variant in chosen:
        task = variant.name.partition("-")[0]
        bench.cell(VARIANTS[f"{task}-naive"] if task in MAP_SCALES else VARIANTS["naive"], "ode", (0, 0))
        strengths = MAP_SCALES.get(task, SCALES)
        at[variant] = best([bench.cell(variant, "ode", strength) for strength in strengths]).strength, strengths[-1]
    for variant, strengths in at.items() if seeds else ():
        for strength in dict.fromkeys(strengths):
            bench.cell(variant, "ancestral", strength)
    for variant in (variant for variant in chosen if variant.name in MAIN):
        for seed in range(1, seeds):
            bench.cell(variant, "ode", at[variant][0], seed)


def best(sweep: list[Cell]) -> Cell:
    """The cell to compare by: of maps the least error; of classes the least Frechet distance among the cells whose
    accuracy is within a tenth of the best."""
    if sweep[0].error is not None:
        return min(sweep, key=lambda cell: cell.error)
    most = max(cell.accuracy for cell in sweep)
    return min((cell for cell in sweep if cell.accuracy >= 0.9 * most), key=lambda cell: cell.frechet)


def report(bench: Bench, options: argparse.Namespace) -> None:
    """Tables, plot, pictures and the record of everything that was measured by now."""
    found = {name: bench.known(variant) for name, variant in VARIANTS.items()}
    found = {name: cells for name, cells in found.items() if cells}
    print(tables(found, best))
    options.out.write_text(json.dumps(record(found, options), indent=1) + "\n", "utf-8")
    plot(found).save(options.docs / "ppap.png", optimize=True)
    pictures(bench, found, best).save(options.docs / "ppap-samples.png", optimize=True)


def record(found: dict[str, list[Cell]], options: argparse.Namespace) -> dict:
    """What is kept: the numbers and what decides them."""
    rates = CACHE / "rates.json"
    clean = {}
    if "vit-naive" in found:
        _, network, spec = transformer()
        clean["transformer"] = clean_accuracy(network, spec)
    return {
        "samples": options.samples, "iterations": ITERATIONS, "steps": SAMPLERS,
        "machine": f"{platform.machine()}, {options.threads} thread(s), torch {torch.__version__}",
        "accuracy on clean pictures": clean,
        "rates": json.loads(rates.read_text("utf-8")) if rates.exists() else {},
        "guides": {name: about(VARIANTS[name]) | {"cells": [asdict(c) for c in found[name]]} for name in found},
    }  # fmt: skip


def about(variant: Variant) -> dict:
    """A guide's training and, of a classifier, what it reads of noisy pictures."""
    told: dict = {"title": variant.title, "base": variant.base}
    if variant.recipe is not None:
        file = experts_of(variant)
        told |= {key: file.training[key] for key in ("recipe", "pictures", "seconds")}
        told["numbers per expert"] = max(adapter.numbers() for adapter in file.adapters)
    network, guide = guide_of(variant)
    if guide.first.task == "classification":
        told["right per tenth of the schedule"] = calibrations(network, guide)
    return told


if __name__ == "__main__":
    main()
