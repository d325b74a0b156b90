"""Train the networks in assets/ on the shapes world.

    python tools/train_world.py [--only NAME ...] [--out assets] [--work .cache/training] [--steps N] [--minutes M]

Each recipe below is seeded and takes up a stopped training where it left off; with --longer it goes on from the weights
in --out where no stopped training waits. Progress, time and machine are printed. Times on one core of a 2-core AVX-512
server CPU: 0.15 s per step of a main denoiser and 0.1 s of a weak one (batch 32), 0.15 s of the judge (batch 128), and
up to three times as long beside other work; about two hours in all.
"""

from __future__ import annotations

import argparse
import platform
import sys
import time
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, replace
from functools import lru_cache
from importlib.machinery import ModuleSpec
from importlib.util import module_from_spec
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors.torch import load_file

ROOT = Path(__file__).resolve().parents[1]
if "guidance_pack" not in sys.modules:
    # The checkout's folder may have any name, so the pack gets its module name here, not from sys.path.
    spec = ModuleSpec("guidance_pack", None, is_package=True)
    spec.submodule_search_locations = [str(ROOT)]
    sys.modules["guidance_pack"] = module_from_spec(spec)

from world import LABELS, render  # noqa: E402
from world.judge import CLASSIFIER, JUDGE, Classifier  # noqa: E402
from world.loop import Settings, State, train  # noqa: E402
from world.noise import LogitNormal, LogNormal, NoiseSampler  # noqa: E402
from world.scenes import WORDS, render_scenes  # noqa: E402

from guidance_pack.guidance.checkpoints.atomic import atomic_save  # noqa: E402
from guidance_pack.guidance.networks.tiny import files  # noqa: E402
from guidance_pack.guidance.networks.tiny.unet import TinyUNet  # noqa: E402
from guidance_pack.guidance.training.weighting import VelocityWeight  # noqa: E402

SAVE_SECONDS = 120
BLOCK = 16  # steps whose pictures are drawn at once, which is faster
NULL = len(LABELS)
MAIN = {"width": 32, "deep_width": 96, "deep_blocks": 3, "up_blocks": 2}
WEAK = {"width": 16, "deep_width": 48, "deep_blocks": 2, "up_blocks": 1}
FLOW = {"timestep_scale": 0.002}


@dataclass(frozen=True)
class Recipe:
    """One asset: the network's config, its data and its training. The name of a recipe is its identity."""

    config: dict[str, Any]
    settings: Settings | None  # None: the judge, which learns by itself
    steps: int
    batch: int = 32
    data_seed: int = 1
    seed: int = 0
    then: tuple[int, NoiseSampler] | None = None  # after this step, other noise levels
    world: Literal["shapes", "scenes"] = "shapes"


# The files in assets/ of the two main denoisers were made in two parts: after step 9497 (edm) and 5254 (flow) they went
# on from the averaged weights alone, with --longer.
# Shapes are decided at higher noise than the textures of photographs, hence means above the paper's -1.2.
EDM = Settings(steps=0, null_class=NULL, noise=LogNormal(-0.6, 1.3))
FLOW_SETTINGS = replace(EDM, prediction="flow", noise=LogitNormal(), weight=VelocityWeight())
RECIPES: dict[str, Recipe] = {
    "shapes-judge": Recipe({}, None, steps=2000, batch=128, data_seed=3, seed=3),
    "shapes-edm-weak": Recipe(WEAK, EDM, steps=1500, seed=1),
    "shapes-edm-early": Recipe(MAIN, EDM, steps=1500, seed=1),
    "shapes-flow-weak": Recipe(WEAK | FLOW, FLOW_SETTINGS, steps=750, seed=1),
    "shapes-edm": Recipe(MAIN, EDM, steps=25083, then=(3207, LogNormal(0.2, 1.1))),
    "shapes-flow": Recipe(MAIN | FLOW, FLOW_SETTINGS, steps=20934),
}


def parser_of(description: str | None, names: Collection[str], out: Path) -> argparse.ArgumentParser:
    """What every command that trains networks of its own understands."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=names, default=list(names), metavar="NAME")
    parser.add_argument("--out", type=Path, default=out)
    parser.add_argument("--work", type=Path, default=ROOT / ".cache" / "training", help="where stopped trainings wait")
    parser.add_argument("--steps", type=int, help="stop after this many steps instead of the recipe's")
    parser.add_argument("--minutes", type=float, default=float("inf"), help="stop each recipe after this long")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--compile", action="store_true", help="compile first: two minutes, then 1.4 x as fast")
    return parser


def begin(parser: argparse.ArgumentParser) -> argparse.Namespace:
    """What the command line says; folders and threads are ready, and the machine is printed."""
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    for folder in (options.out, options.work):
        folder.mkdir(parents=True, exist_ok=True)
    print(f"{platform.processor() or platform.machine()}, torch {torch.__version__}, {options.threads} thread(s)")
    return options


def main() -> None:
    parser = parser_of(__doc__, RECIPES, ROOT / "assets")
    parser.add_argument(
        "--longer", action="store_true", help="go on from the networks in --out, where no stopped training waits"
    )
    options = begin(parser)
    for name in options.only:
        recipe = RECIPES[name]
        recipe = replace(recipe, steps=options.steps or recipe.steps)
        if recipe.settings is None:
            train_judge(name, recipe, JUDGE.parent, options.work, options.minutes)
        else:
            train_denoiser(name, recipe, options, options.longer)


def batch_of(recipe: Recipe, step: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The pictures of a step: every training walks through its own world once and never sees a picture twice."""
    block, place = divmod(step - 1, BLOCK)
    images, words = _block(recipe.world, recipe.data_seed, block * BLOCK * recipe.batch, BLOCK * recipe.batch)
    here = slice(place * recipe.batch, (place + 1) * recipe.batch)
    return images[here], words[here]


@lru_cache(maxsize=1)
def _block(world: str, seed: int, first: int, count: int) -> tuple[torch.Tensor, torch.Tensor]:
    numbers = torch.arange(first, first + count)
    if world == "scenes":
        scenes = render_scenes(numbers, seed)
        return scenes.images, scenes.words
    pictures = render(numbers, seed)
    return pictures.images, pictures.labels


def train_denoiser(name: str, recipe: Recipe, options: argparse.Namespace, longer: bool = False) -> None:
    assert recipe.settings is not None, "the judge has a training of its own"
    settings = replace(recipe.settings, steps=recipe.steps, seed=recipe.seed)
    network = TinyUNet(**recipe.config)
    network.initialise(torch.Generator().manual_seed(recipe.seed))
    state = State(network, settings)
    if options.compile:
        network.compile()
    waiting = options.work / f"{name}.safetensors"
    if waiting.exists():
        state.restore(load_file(waiting))
        print(f"{name}: continues after step {state.step}")
    elif longer:
        begin_with(state, files.read_denoiser(options.out / f"{name}.safetensors"))
        print(f"{name}: continues from the weights of step {state.step}")

    def save() -> None:
        atomic_save(waiting, {key: tensor.contiguous() for key, tensor in state.tensors().items()}, {})
        facts = {"prediction": settings.prediction, "sigma_data": settings.sigma_data}
        facts |= describe(name, recipe, network, state.step)
        averaged = state.average.module.state_dict()
        path = options.out / f"{name}.safetensors"
        files.write_network(path, files.DENOISER, network.config.as_dict(), facts, averaged)

    def steps() -> Iterator[tuple[int, float]]:
        for phase in phases(recipe, settings):
            for report in train(state, lambda step: batch_of(recipe, step), phase):
                yield report.step, report.loss

    follow(name, steps(), recipe.steps, options.minutes, save)


def begin_with(state: State, file: files.NetworkFile) -> None:
    """Continue a training whose state is gone from what it left: its averaged weights. The optimiser starts anew."""
    state.step = file.metadata["steps"]
    state.average.n_averaged.fill_(state.step + 1)
    state.generator.manual_seed(file.metadata["training_seed"] + state.step)
    state.network.load_state_dict(file.tensors)
    state.average.module.load_state_dict(file.tensors)


def phases(recipe: Recipe, settings: Settings) -> list[Settings]:
    """The settings of the whole training, or of its two parts where the recipe changes the noise levels."""
    if recipe.then is None:
        return [settings]
    last, noise = recipe.then
    return [replace(settings, steps=min(last, settings.steps)), replace(settings, noise=noise)]


def train_judge(name: str, recipe: Recipe, out: Path, work: Path, minutes: float) -> None:
    network = Classifier(**recipe.config)
    network.initialise(torch.Generator().manual_seed(recipe.seed))
    optimizer = torch.optim.Adam(network.parameters(), lr=2e-3)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.02, recipe.steps)
    done = 0

    def steps() -> Iterator[tuple[int, float]]:
        nonlocal done
        while done < recipe.steps:
            images, words = batch_of(recipe, done + 1)
            loss = network.loss(images, words)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            schedule.step()
            done += 1
            yield done, loss.item()

    def save() -> None:
        facts = describe(name, recipe, network, done)
        path = out / f"{name}.safetensors"
        files.write_network(path, CLASSIFIER, network.config.as_dict(), facts, network.state_dict())

    follow(name, steps(), recipe.steps, minutes, save)
    fresh = render(2000, seed=recipe.data_seed + 1000)
    with torch.no_grad():
        right = (network.eval()(fresh.images).argmax(1) == fresh.labels).float().mean().item()
    print(f"{name}: {right:.2%} of 2000 fresh pictures classified correctly")


def describe(name: str, recipe: Recipe, network: torch.nn.Module, step: int) -> dict[str, Any]:
    """The facts that every asset carries."""
    return {
        "recipe": name,
        "labels": list(LABELS),
        "attributes": [list(words) for words in WORDS[1:]] if recipe.world == "scenes" else [],
        "data_seed": recipe.data_seed,
        "training_seed": recipe.seed,
        "steps": step,
        "batch": recipe.batch,
        "pictures_seen": step * recipe.batch,
        "parameters": sum(p.numel() for p in network.parameters()),
    }


def follow(name: str, steps: Iterator[tuple[int, float]], last: int, minutes: float, save: Callable[[], None]) -> None:
    """Take the steps, print the mean loss now and then, and save often, so that stopping early loses little."""
    started = saved = time.monotonic()
    losses: list[float] = []
    taken = 0
    for step, loss in steps:
        losses.append(loss)
        taken += 1
        now = time.monotonic()
        if step % 100 == 0 or step == last:
            pace = (now - started) / taken
            mean = sum(losses) / len(losses)
            print(f"{name}: step {step}/{last}, loss {mean:.4f}, {pace:.2f} s/step, {now - started:.0f} s", flush=True)
            losses.clear()
        if now - saved > SAVE_SECONDS:
            save()
            saved = now
        if now - started > 60 * minutes:
            break
    save()
    print(f"{name}: saved after {taken} steps and {time.monotonic() - started:.0f} s", flush=True)


if __name__ == "__main__":
    main()
