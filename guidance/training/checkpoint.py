"""The files of a training: the checkpoint of one that was stopped, and what one becomes that is finished."""

from __future__ import annotations

import json
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Protocol

import torch
from safetensors import SafetensorError
from torch import Tensor

from ..checkpoints.atomic import atomic_save, disk_words, make_folder, name_lock, require_room
from ..checkpoints.guide_source import GuideSource
from ..checkpoints.json_text import parse_json
from ..checkpoints.snapshot import read_snapshot
from ..checkpoints.words import shown
from ..experts.file import BankFile, BankHeader, read_bank, write_bank
from ..experts.guide import source_sha256
from ..networks.tiny.files import NetworkFileError
from .experts import ExpertsTraining

ALL_TAKEN = (  # where the bank alone could not be written
    "All steps are taken, and kept where unfinished trainings wait. Make room and run this again: the bank is written "
    "without another step."
)
_TOLD = 8  # differences in a message
STRETCHES = 100  # at most so many numbers of each expert's loss curve are kept


class Stoppable(Protocol):
    """A training as its files see it."""

    @property
    def losses(self) -> Sequence[float]:
        """Of the steps so far."""

    def tensors(self) -> dict[str, Tensor]:
        """All of it, to be given back to `restore`."""

    def restore(self, saved: dict[str, Tensor]) -> None:
        """Go on from there. Raises ValueError, the end of a sentence, where that cannot be."""


@dataclass(frozen=True)
class StoppedFiles:
    """Where a training lies: the file that it becomes, and what waits of it until then.

    Attributes:
        final, waiting: the two files; their names are those that people give.
        facts: what decides the outcome.
        place: where the final file lies, for messages.
        unfinished: the format of what waits.
    """

    final: Path
    waiting: Path
    facts: Mapping[str, Any]
    place: str = "there"
    unfinished: ClassVar[str]

    @contextmanager
    def reserved(self) -> Generator[None]:
        """Keep both names to this process, in folders that can be written.

        Raises:
            NameInUseError: another process trains under this name, in words.
            OSError: one of the folders cannot be written, in words.
        """
        with ExitStack() as kept:
            for path in (self.final, self.waiting):
                with disk_words(path.parent, "Nothing was trained. Mend that and run this again."):
                    kept.enter_context(name_lock(path))
            yield

    def save(self, training: Stoppable) -> None:
        """Write what is to wait, replacing the file only once the new one is whole. Raises OSError in words."""
        kept = {key: tensor.detach().cpu().contiguous() for key, tensor in training.tensors().items()}
        words = (
            f"Of the {len(training.losses)} steps those up to the last save are kept. Make room and run this again to "
            f"go on from there."
        )
        with disk_words(self.waiting.parent, words):
            make_folder(self.waiting.parent)
            atomic_save(self.waiting, kept, {"format": self.unfinished, "facts": json.dumps(dict(self.facts))})

    def resume(self, training: Stoppable) -> None:
        """Go on from what waits; nothing where nothing does.

        Raises:
            NetworkFileError: a file of something else, or a training with other settings, in words.
        """
        if not self.waiting.exists():
            return
        saved = self._read()
        try:
            training.restore(saved)
        except ValueError as error:
            raise NetworkFileError(
                f"{self.waiting} is no state of this training: {error}. Delete it to begin anew."
            ) from None

    def finished(self) -> Any:
        """What the final file holds; None without one. Raises ValueError, in words, if it was trained otherwise."""
        raise NotImplementedError

    def publish(self, write: Callable[[], None]) -> Any:
        """Write the final file, after which nothing waits; what is there instead, if it came in the meantime.

        write: raises FileExistsError then; what does not train keeps no name reserved.

        Raises:
            ValueError: the file that came was trained otherwise, in words.
            OSError: it cannot be written, in words.
        """
        found = None
        try:
            with disk_words(self.final.parent, ALL_TAKEN):
                write()
        except FileExistsError:
            found = self.finished()
        self.waiting.unlink(missing_ok=True)
        return found

    def check_same(self, found: Mapping[str, Any]) -> None:
        """Raise ValueError, in words, if the final file, of these facts, was trained otherwise."""
        if differs := differences(self.facts, {key: found.get(key) for key in self.facts}):
            raise ValueError(
                f"{self.final.name} is {self.place} already and was trained otherwise ({differs}). Choose another "
                f"name, or delete {self.final}."
            )

    def _read(self) -> dict[str, Tensor]:
        path = self.waiting
        try:
            metadata, saved = read_snapshot(path)
        except SafetensorError as error:
            raise NetworkFileError(f"{path} is damaged ({shown(str(error), 120)}); delete it to begin anew.") from None
        if metadata.get("format") != self.unfinished:
            raise NetworkFileError(f"{path} is no training of this version of the pack; delete it to begin anew.")
        try:
            differs = differences(self.facts, parse_json(metadata.get("facts", ""), dict))
        except ValueError as error:
            raise NetworkFileError(f"{path}: the facts in its header {error}; delete it to begin anew.") from None
        if differs:
            raise NetworkFileError(
                f"A training called {path.stem} was stopped and waits with other settings ({differs}). Go on with "
                f"those, choose another name, or delete {path}."
            )
        return saved


@dataclass(frozen=True)
class TrainingFiles(StoppedFiles):
    """Those of a bank of experts; `facts` as `facts_of` gives them."""

    unfinished = "guidance-components/expert-training/1"

    def finished(self) -> BankFile | None:
        """The bank, if it is there. Raises ValueError, in words, if it was trained otherwise."""
        if not self.final.exists():
            return None
        bank = read_bank(self.final)
        self.check_same({**bank.training, "base": bank.header.base, "base_sha256": bank.header.base_sha256})
        return bank

    def require_disk(self, training: ExpertsTraining) -> None:
        """Raise OSError, in words, if there is no room for what the training will write."""
        expert = sum(tensor.nbytes for tensor in training.student.tensors().values())
        require_room(self.final.parent, expert * training.recipe.experts, "the bank")
        moments = 2 * expert
        require_room(self.waiting.parent, expert * training.recipe.experts + moments, "a training that is stopped")

    def finish(self, training: ExpertsTraining, workflow: Mapping[str, str]) -> BankFile:
        """Write the bank, after which nothing waits; the bank. workflow: see `bank_of`.

        Raises:
            ValueError: not all steps are taken, or a bank of something else came in between, in words.
            OSError: it cannot be written, in words.
        """
        bank = bank_of(training, self.final.stem, self.facts, workflow)
        return self.publish(lambda: write_bank(self.final, bank, overwrite=False)) or bank


_OF_LATENTS = ("latents", "vae")  # what `facts_of` holds more for experts that look at latents


def facts_of(
    source: GuideSource, recipe: Mapping[str, Any], pictures_sha256: str, count: int, **more: Any
) -> dict[str, Any]:
    """What decides the outcome of a training, as JSON gives it back: equal facts give the same bank."""
    pictures = {"fingerprint": pictures_sha256, "count": count}
    facts = {"base": source.name, "base_sha256": source_sha256(source), "recipe": recipe, "pictures": pictures, **more}
    return json.loads(json.dumps(facts))


def differences(wanted: Mapping[str, Any], found: Mapping[str, Any], longest: int = 24) -> str:
    """What differs between two nested dicts, in words; empty if nothing does. longest: letters of a value."""
    words = _differing(wanted, found, longest)
    more = f" and {len(words) - _TOLD} more" if len(words) > _TOLD else ""
    return ", ".join(words[:_TOLD]) + more


def _differing(wanted: Mapping[str, Any], found: Mapping[str, Any], longest: int) -> list[str]:
    words = []
    for key in dict.fromkeys([*wanted, *found]):
        mine, theirs = wanted.get(key), found.get(key)
        if isinstance(mine, Mapping) and isinstance(theirs, Mapping):
            words += _differing(mine, theirs, longest)
        elif mine != theirs:
            words.append(f"{shown(key)} {_short(theirs, longest)} instead of {_short(mine, longest)}")
    return words


def _short(value: Any, longest: int) -> str:
    return "none" if value is None else shown(str(value), longest)


def kept_curves(bank: BankFile) -> list[list[float]]:
    """The loss curves that a bank's file keeps. Raises NetworkFileError for what are none, in words."""
    found = bank.training.get("loss")
    curves = found if isinstance(found, list) else []
    right = all(isinstance(curve, list) and 0 < len(curve) <= STRETCHES for curve in curves)
    if not curves or not right or not all(type(loss) in (int, float) for curve in curves for loss in curve):
        raise NetworkFileError(f"{bank.name} has no loss curves in its header that can be drawn; train it again.")
    return curves


def bank_of(
    training: ExpertsTraining, name: str, facts: Mapping[str, Any], workflow: Mapping[str, str]
) -> BankFile:
    """The experts with all that is needed to use, judge and repeat them.

    Args:
        name: of the bank, for people.
        facts: `facts_of` the training.
        workflow: the strings "workflow" and "prompt" of ComfyUI; empty where it was not made there.

    Raises:
        ValueError: the training is not finished.
    """
    recipe, spec = training.recipe, training.spec
    if not training.done:
        raise ValueError(
            f"{name} has {len(training.adapters)} of {recipe.experts} experts; let the training finish before it is "
            f"saved."
        )
    header = BankHeader(
        facts["base"], facts["base_sha256"], spec.task, recipe.schedule, recipe.edges, recipe.adaptation.scale,
        spec.labels, spec.preprocessing, spec.latents, getattr(training.base, "settings", None),
    )
    made = {
        "recipe": recipe.as_dict(), "loss": loss_curves(training), "pictures": dict(facts["pictures"]),
        "processes": training.process_group.count, "torch": torch.__version__,
    } | {key: value for key, value in facts.items() if key in _OF_LATENTS}
    return BankFile(name, header, tuple(training.adapters), made, dict(workflow))


def loss_curves(training: ExpertsTraining) -> list[list[float]]:
    """For each expert the mean loss of equal stretches of its steps so far, at most 100, in order."""
    steps = training.recipe.steps
    stretches = min(STRETCHES, steps)
    own = [training.losses[expert * steps : (expert + 1) * steps] for expert in range(training.recipe.experts)]
    return [stretch_means(losses, len(losses) * stretches // steps) for losses in own]


def stretch_means(losses: Sequence[float], count: int) -> list[float]:
    """The means of equal stretches of losses, in order: `count` of them, at least one; of no losses none."""
    parts = torch.tensor(losses, dtype=torch.float64).tensor_split(max(1, count))
    return [float(f"{float(part.mean()):.6g}") for part in parts if len(part)]
