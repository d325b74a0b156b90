"""Optuna's part: what is tried next, and a memory of all runs that several processes share. Needs optuna.

Every trial is drawn from its own number, so that it does not depend on the process that makes it. Runs are kept beside
the trials, by their settings: none is made twice, and what was stopped goes on.
"""

from __future__ import annotations

import uuid
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import optuna
import sqlalchemy.exc
from optuna.samplers import BaseSampler, TPESampler
from optuna.storages import BaseStorage, JournalStorage, RDBStorage
from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock
from optuna.trial import FrozenTrial, Trial, TrialState

from .reading import BudgetSpent, Reading

if TYPE_CHECKING:
    from .space import Dimension

STARTS = 10  # trials that are spread at random before there is anything to learn from
HALVES = 2  # of the trials that reach a rung, the better half goes on
RUN, CLAIM = "run", "claim"


@dataclass(frozen=True)
class Tried:
    """A trial that was judged: its number, its values by dimension, and whether all its runs were made."""

    number: int
    values: dict[str, Any]
    whole: bool


class NumberedSampler(BaseSampler):
    """Optuna's tree-structured Parzen estimator, drawing every trial from the study's seed and the trial's number."""

    def __init__(self, seed: int):
        self.seed = seed

    def _of(self, trial: FrozenTrial) -> TPESampler:
        seed = (self.seed * 1_000_003 + trial.number) % 2**32
        return TPESampler(seed=seed, multivariate=True, n_startup_trials=STARTS)

    def infer_relative_search_space(self, study, trial):
        return self._of(trial).infer_relative_search_space(study, trial)

    def sample_relative(self, study, trial, search_space):
        return self._of(trial).sample_relative(study, trial, search_space)

    def sample_independent(self, study, trial, param_name, param_distribution):
        seeded = TPESampler(seed=hash_of(self.seed, trial.number, param_name), n_startup_trials=STARTS)
        return seeded.sample_independent(study, trial, param_name, param_distribution)


def hash_of(*parts: Any) -> int:
    """A seed of 32 bits from some parts, the same in every process."""
    return uuid.uuid5(uuid.NAMESPACE_OID, "/".join(map(str, parts))).int % 2**32


class Study:
    """A search that others may share.

    Args:
        where: a file (created where it is missing), a database as SQLAlchemy writes it (sqlite:///..., mysql://...), or
            None for one that ends with the process.
        name: of this search among those in the same place.
        goals: how many numbers judge a setting.
        sampler: another way to choose what is tried; None = NumberedSampler.

    Raises:
        ValueError: the place cannot be used, in words.
    """

    def __init__(self, where: Path | str | None, name: str, goals: int, seed: int, sampler: BaseSampler | None = None):
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        pruner = optuna.pruners.SuccessiveHalvingPruner(min_resource=1, reduction_factor=HALVES)
        self.worker = uuid.uuid4().hex[:8]
        self.counted: dict[str, int] = {}  # evaluations of the runs that were seen
        self.halving = goals == 1  # Optuna stops no trial early that has several numbers
        self.study = optuna.create_study(
            storage=_storage(where), study_name=name, directions=["maximize"] * goals, load_if_exists=True,
            sampler=sampler or NumberedSampler(seed), pruner=pruner if self.halving else None,
        )
        self.claim(0, 0)

    @property
    def rank(self) -> float:
        """Where this process stands among all that ever took part, from 0 to below 1."""
        names = [name for name in self._notes() if name.startswith(CLAIM)]
        return names.index(f"{CLAIM}/{self.worker}") / len(names)

    def ask(self, space: tuple[Dimension, ...]) -> tuple[Trial, dict[str, Any]]:
        """The next trial, and its values as they are tried."""
        trial = self.study.ask()
        return trial, {d.name: d.rounded(_suggest(trial, d)) for d in space}

    @property
    def begun(self) -> bool:
        """Whether there are trials, if only offered ones."""
        return bool(self.study.get_trials(deepcopy=False))

    def offer(self, values: dict[str, Any]) -> None:
        """Have these values, as Optuna takes them, tried among the next."""
        self.study.enqueue_trial(values, skip_if_exists=True)

    def finish(self, trial: Trial, values: list[float], excess: dict[str, float], whole: bool) -> None:
        """A trial was judged; not whole: it was stopped early, by the better half or by a guard.

        excess: by how much it passes each limit.
        """
        for name, value in excess.items():
            trial.set_constraint(name, value)
        if whole:
            self.study.tell(trial, values)
        else:
            self.study.tell(trial, state=TrialState.PRUNED)

    def put_back(self, trial: Trial) -> None:
        """A trial was broken off: another one goes on with its runs."""
        self.study.tell(trial, state=TrialState.FAIL)
        self.study.enqueue_trial(trial.params)

    def tried(self, space: tuple[Dimension, ...]) -> list[Tried]:
        """All trials of every process that were judged, in the order of their numbers."""
        found = self.study.get_trials(deepcopy=False, states=(TrialState.COMPLETE, TrialState.PRUNED))
        return [
            Tried(t.number, {d.name: d.rounded(t.params[d.name]) for d in space}, t.state == TrialState.COMPLETE)
            for t in found
        ]

    def reading(self, key: str, index: int) -> Reading | None:
        """What a run gave, whoever made it."""
        stem = f"{RUN}/{key}/{index}/"
        found = next((text for name, text in self._notes().items() if name.startswith(stem)), None)
        return None if found is None else Reading.parse(found)

    def keep(self, key: str, index: int, reading: Reading) -> None:
        self.study.set_user_attr(f"{RUN}/{key}/{index}/{self.worker}", reading.text())

    def spent(self) -> int:
        """The evaluations of all runs of every process."""
        for name, text in self._notes().items():
            if name.startswith(RUN) and name not in self.counted:
                self.counted[name] = Reading.parse(text).evaluations
        return sum(self.counted.values())

    def busy(self, key: str, index: int) -> bool:
        """Whether another process is making a run at this moment."""
        mine, run = f"{CLAIM}/{self.worker}", f"{key}/{index}"
        return any(note[1] == run for name, note in self._notes().items() if name.startswith(CLAIM) and name != mine)

    def claim(self, cost: int, budget: int, key: str = "", index: int = 0) -> None:
        """Set evaluations aside before a run, so that processes together keep the budget; 0 gives them back.

        Raises:
            BudgetSpent: there are not so many left.
        """
        self.study.set_user_attr(f"{CLAIM}/{self.worker}", [cost, f"{key}/{index}" if cost else ""])
        claimed = sum(note[0] for name, note in self._notes().items() if name.startswith(CLAIM))
        if cost and self.spent() + claimed > budget:
            self.claim(0, budget)
            raise BudgetSpent

    def importance(self) -> dict[str, float]:
        """How much of the first goal each parameter explains, together 1; empty where too little was tried."""
        whole = self.study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
        if len({_first_goal(trial) for trial in whole}) < STARTS:
            return {}
        evaluator = optuna.importance.PedAnovaImportanceEvaluator()
        lowest = None if self.halving else lambda trial: -_first_goal(trial)  # a target is taken to be low where good
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # it says so every time
            return optuna.importance.get_param_importances(self.study, evaluator=evaluator, target=lowest)

    def _notes(self) -> dict[str, Any]:
        return self.study.user_attrs


def _first_goal(trial: FrozenTrial) -> float:
    assert trial.values, "asked of a trial that is finished"
    return trial.values[0]


def _suggest(trial: Trial, dimension: Dimension) -> Any:
    if dimension.choices:
        return trial.suggest_categorical(dimension.name, [choice.heading for choice in dimension.choices])
    if dimension.whole:
        return trial.suggest_int(dimension.name, int(dimension.low), int(dimension.high), log=dimension.log)
    return trial.suggest_float(dimension.name, dimension.low, dimension.high, log=dimension.log)


def _storage(where: Path | str | None) -> BaseStorage | None:
    if where is None:
        return None
    if isinstance(where, Path):
        where.parent.mkdir(parents=True, exist_ok=True)
        return JournalStorage(JournalFileBackend(str(where), lock_obj=JournalFileOpenLock(str(where))))
    try:
        return RDBStorage(where)
    except (ImportError, sqlalchemy.exc.SQLAlchemyError, optuna.exceptions.StorageInternalError) as error:
        raise ValueError(
            f"The database of study cannot be opened: {error}. An address is such as sqlite:////data/studies.db or "
            f"mysql://user:password@server/name; a plain name is a file in ComfyUI's output folder."
        ) from None
