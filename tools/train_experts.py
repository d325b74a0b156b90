"""Train a bank of noise-aware experts (PPAP) without ComfyUI: on one machine, or on several GPUs or machines.

    python tools/train_experts.py --guide GUIDE --pictures FOLDER --out BANK [...]
    accelerate launch --multi_gpu tools/train_experts.py --guide GUIDE --pictures FOLDER --out BANK [...]
    torchrun --nproc_per_node 2 tools/train_experts.py --cpu --guide GUIDE --pictures FOLDER --out BANK [...]

The file is the one that the node Train Experts writes. A training that the node left unfinished is taken up with the
node's settings and --work "ComfyUI/output/guidance/unfinished experts".
--guide is a clean network as Load Guide takes it: a transformers folder or a file. --pictures is a folder of pictures
of the diffusion model that is to be guided (Make Pictures), or of your own. Every other flag is a setting of the
recipe; batch is the pictures of one process, so that two processes make steps of twice as many.

Ctrl-C stops after the step that is under way and saves; the same command goes on from there, with the same result.
All processes must see the same files.
"""

from __future__ import annotations

import argparse
import signal
import sys
import time
from collections.abc import Generator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import fields
from importlib.machinery import ModuleSpec
from importlib.util import module_from_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

ROOT = Path(__file__).resolve().parents[1]
if "guidance_pack" not in sys.modules:
    # The checkout's folder may have any name, so the pack gets its module name here, not from sys.path.
    spec = ModuleSpec("guidance_pack", None, is_package=True)
    spec.submodule_search_locations = [str(ROOT)]
    sys.modules["guidance_pack"] = module_from_spec(spec)

from guidance_pack.guidance.checkpoints.guide_source import GuideFileError, GuideSource  # noqa: E402
from guidance_pack.guidance.guide import GuideSpec, families  # noqa: E402
from guidance_pack.guidance.noise_schedule import NAMES  # noqa: E402
from guidance_pack.guidance.training.checkpoint import TrainingFiles, facts_of  # noqa: E402
from guidance_pack.guidance.training.distillation import KINDS  # noqa: E402
from guidance_pack.guidance.training.experts import ExpertReport, ExpertsTraining, Pictures  # noqa: E402
from guidance_pack.guidance.training.lora_targets import Adaptation  # noqa: E402
from guidance_pack.guidance.training.recipe import PRECISIONS, WEIGHTINGS, ExpertRecipe  # noqa: E402
from guidance_pack.host.training.dataset import read_folder, training_pictures  # noqa: E402

SAVE_SECONDS, SAY_SECONDS = 120.0, 10.0
GUIDES = ("models", "guides")
CHOICES = {"learn_from": KINDS, "weighting": WEIGHTINGS, "precision": PRECISIONS, "schedule": NAMES}
HELP = {
    "experts": "how many; each covers an equal range of the schedule's timesteps",
    "iterations": "steps of all experts together",
    "batch": "pictures of one process in one forward",
    "accumulate": "forwards of one step",
    "learning_rate": "at the first step of each expert; it falls straight to 0",
    "weight_decay": "AdamW's",
    "learn_from": "task: the clean network's answer; mse: the same, number by number; labels: the names of the folders",
    "temperature": "of the clean network's answer; below 1 makes it more certain",
    "weighting": "of the timesteps of an expert's range",
    "schedule": "the noise that the experts learn: that of the model to be guided (linear: ADM's)",
    "flip": "mirror every second picture",
    "warm_start": "each expert goes on from the one for cleaner pictures; otherwise from the clean network",
    "precision": "of forward and backward",
    "seed": "the same seed, settings and pictures give the same file",
    "efficient": "LoRA, biases and norms alone, not every weight",
    "rank": "of LoRA",
    "alpha": "LoRA's changes count alpha / rank",
    "layers": "names of the layers that get LoRA, with * and commas; auto is the paper's choice",
}


class Processes:
    """The processes that accelerate started: `guidance.training.distributed.ProcessGroup`."""

    def __init__(self, cpu: bool) -> None:
        # First: its functions have the group that is there when they are read for a default, and an optimizer reads
        # them. A group kept so outlives its end, and Gloo's threads abort the process that leaves under them.
        import torch.distributed.nn  # noqa: F401 (importing it is what is needed)
        from accelerate import Accelerator

        self.accelerator = Accelerator(cpu=cpu)
        self.rank, self.count = self.accelerator.process_index, self.accelerator.num_processes
        self.device = self.accelerator.device

    def mean(self, tensor: Tensor) -> Tensor:
        return tensor if self.count == 1 else self.accelerator.reduce(tensor, "mean")

    def any(self, here: bool) -> bool:
        """Whether it is so in any process; all get the same answer, so that all do the same."""
        return bool(self.mean(torch.tensor(float(here), device=self.device)) > 0)

    def agree(self, *numbers: int) -> bool:
        """Whether all processes have the same numbers."""
        mine = torch.tensor([number % (1 << 20) for number in numbers], dtype=torch.float64, device="cpu")
        mine = mine.to(self.device, torch.float32)  # whole numbers below 2^20, which float32 holds exactly
        return not self.any(bool((self.mean(mine) != mine).any()))


class Stop:
    """Remembers Ctrl-C and the end that a cluster's scheduler announces, until the step is done."""

    def __enter__(self) -> Stop:
        self.asked = False
        self._before = {kind: signal.signal(kind, self._ask) for kind in (signal.SIGINT, signal.SIGTERM)}
        return self

    def __exit__(self, *_: object) -> None:
        for kind, handler in self._before.items():
            signal.signal(kind, handler)

    def _ask(self, *_: object) -> None:
        self.asked = True


class Progress:
    """A line now and then, from the first process."""

    def __init__(self, recipe: ExpertRecipe, process_group: Processes) -> None:
        self.recipe, self.process_group = recipe, process_group
        self.began, self.said, self.steps = time.monotonic(), -SAY_SECONDS, 0

    def line(self, words: str) -> None:
        if self.process_group.rank == 0:
            print(words, flush=True)

    def first(self, training: ExpertsTraining) -> None:
        already = f", {len(training.losses)} of them taken before" if training.losses else ""
        steps = self.recipe.steps * self.recipe.experts
        self.line(f"{steps} steps of {self.process_group.count} process(es) on {self.process_group.device}{already}")

    def __call__(self, report: ExpertReport) -> None:
        self.steps += 1
        now = time.monotonic()
        if now - self.said < SAY_SECONDS and report.step < self.recipe.steps:
            return
        self.said = now
        rate = self.steps / max(now - self.began, 1e-9)
        self.line(
            f"expert {report.expert + 1} of {self.recipe.experts}, step {report.step} of {self.recipe.steps}: loss "
            f"{report.loss:.4g}, learning rate {report.learning_rate:.3g}, {rate:.2f} steps/s"
        )


def main(arguments: Sequence[str] | None = None) -> int:
    options = parser().parse_args(arguments)
    process_group = Processes(options.cpu)
    try:
        return train(options, process_group)
    except (ValueError, OSError, FloatingPointError) as error:
        print(error, file=sys.stderr)
        return 1
    finally:
        process_group.accelerator.end_training()


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--guide", type=Path, required=True, help="the clean network: a folder or file")
    made.add_argument("--pictures", type=Path, required=True, help="a folder of pictures, perhaps one per class in it")
    made.add_argument("--out", type=Path, required=True, help="the bank's file, ending in .safetensors")
    made.add_argument("--size", type=int, nargs=2, metavar=("HEIGHT", "WIDTH"), default=(256, 256),
                      help="what the pictures are brought to: the size of the model that is to be guided (256 256)")
    made.add_argument("--base", help="the guide's name in Load Guide (what follows models/guides, or the file's name)")
    made.add_argument("--work", type=Path, help="where a stopped training waits ('unfinished experts' beside --out)")
    made.add_argument("--steps", type=int, default=sys.maxsize, help="stop after so many more steps, as Ctrl-C does")
    made.add_argument("--cpu", action="store_true", help="even where there is a GPU")
    group = made.add_argument_group("recipe")
    for of in (ExpertRecipe, Adaptation):
        for each in fields(of):
            if each.name != "adaptation":
                _add(group, each.name, each.default)
    return made


def _add(group: Any, name: str, default: Any) -> None:
    words, flag = f"{HELP[name]} ({default})", f"--{name.replace('_', '-')}"
    if isinstance(default, bool):
        group.add_argument(flag, action=argparse.BooleanOptionalAction, default=default, help=HELP[name])
    else:
        group.add_argument(flag, type=type(default), choices=CHOICES.get(name), default=default, help=words)


def train(options: argparse.Namespace, process_group: Processes) -> int:
    """Train, from where it was stopped, and write the bank. Raises ValueError or OSError in words."""
    out = options.out
    waiting = (options.work or out.parent / "unfinished experts") / f"{out.stem}.safetensors"
    if out.suffix != ".safetensors":
        raise ValueError(f"--out is {out}; the bank's file must end in .safetensors.")
    recipe = recipe_of(options)
    source = GuideSource(options.guide, options.base or name_of(options.guide))
    pictures = read_folder(options.pictures, *options.size)
    several = {"processes": process_group.count} if process_group.count > 1 else {}  # that share a step
    facts = facts_of(source, recipe.as_dict(), pictures.sha256, len(pictures), **several)
    files = TrainingFiles(out, waiting, facts)
    if files.finished():
        return finished(out, process_group)
    network, spec = built(source)
    training = ExpertsTraining(network.to(process_group.device), spec, recipe, process_group.device, process_group)
    with alone(training, files):
        if files.finished():  # another command has finished it just now
            return finished(out, process_group)
        files.resume(training)
        if not process_group.agree(len(training.losses), len(pictures), int(pictures.sha256[:5], 16)):
            raise ValueError("The processes see different pictures, or different stopped trainings in --work.")
        shown = training_pictures(pictures, spec, recipe.learn_from)
        if follow(training, shown, len(pictures), files, options.steps) and process_group.rank == 0:
            files.save(training)
            files.finish(training, {})
            print(f"wrote {out}, {out.stat().st_size / 2**20:.1f} MB", flush=True)
        return 0


@contextmanager
def alone(training: ExpertsTraining, files: TrainingFiles) -> Generator[None]:
    """Keep the names to this command; the first process does, and all give up where it cannot. Raises in words."""
    process_group: Any = training.process_group
    with ExitStack() as held:
        refused: Exception | None = None
        if process_group.rank == 0:
            try:
                held.enter_context(files.reserved())
                files.require_disk(training)
            except (ValueError, OSError) as error:
                refused = error
        if process_group.any(refused is not None):
            raise refused or ValueError("The first process says why it cannot begin.")
        yield


def follow(training: ExpertsTraining, shown: Pictures, count: int, files: TrainingFiles, most: int) -> bool:
    """Take the steps; whether all were taken. The first process saves now and then, and when it is stopped."""
    process_group: Any = training.process_group
    say, saved = Progress(training.recipe, process_group), time.monotonic()
    say.first(training)
    with Stop() as stop:
        for number, report in enumerate(training.steps(shown, count), 1):
            say(report)
            leave = process_group.any(stop.asked or number >= most) and not training.done
            if process_group.rank == 0 and (leave or time.monotonic() - saved > SAVE_SECONDS):
                files.save(training)
                saved = time.monotonic()
            if leave:
                say.line(f"stopped; the same command goes on from {files.waiting}")
                return False
    return True


def finished(out: Path, process_group: Processes) -> int:
    if process_group.rank == 0:
        print(f"{out} is finished already", flush=True)
    return 0


def recipe_of(options: argparse.Namespace) -> ExpertRecipe:
    """Raises ValueError for what cannot be, in words."""
    given = vars(options)
    adaptation = Adaptation(**{each.name: given[each.name] for each in fields(Adaptation)})
    own = {each.name: given[each.name] for each in fields(ExpertRecipe) if each.name != "adaptation"}
    return ExpertRecipe(**own, adaptation=adaptation)


def name_of(guide: Path) -> str:
    """A guide's name in Load Guide: what follows models/guides; an embedded one has no ending."""
    parts = guide.resolve().parts
    for place in range(len(parts) - 2, 0, -1):
        if parts[place - 1 : place + 1] == GUIDES:
            return "/".join(parts[place + 1 :])
    return guide.stem if guide.resolve().parent == ROOT / "assets" else guide.name


def built(source: GuideSource) -> tuple[nn.Module, GuideSpec]:
    """Raises GuideFileError: nothing that a guide can be, in words."""
    known = [family() for family in families().values()]
    for family in known:
        if family.recognises(source):
            return family.load(source)
    raise GuideFileError(f"{source.name} is no guide; one can be: {'; '.join(family.title for family in known)}.")


if __name__ == "__main__":
    sys.exit(main())
