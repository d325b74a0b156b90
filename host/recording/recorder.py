"""While a MODEL is inspected: every evaluation of a run is watched, and written down a little later."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Protocol

import torch
from comfy.model_patcher import ModelPatcher
from comfy_execution.utils import get_executing_context

from ...guidance.branch import Branch
from ...guidance.compose import Guidance
from ...guidance.inspection import COSINE, EFFECTIVE, HOST, TOTAL, Kept, Watch, figures, probability
from ...guidance.losses.cross_entropy import CrossEntropy
from ...guidance.noise_level import NoiseLevel
from ...guidance.objective import Objective
from ...guidance.rule import Rule
from ...guidance.rules.cfg import CFG
from ...guidance.sigma_list import SigmaList
from ..common.compatibility import describe
from ..common.decoders import latents_of
from .inspection import Inspection
from .live import Live
from .previews import Lens
from .record import Evaluation, Record, Score, TermRecord, shown_steps
from .timer import Meter, memory_held

PAUSE = 0.5  # seconds between two readings: each costs about half a millisecond, and nobody reads faster


@dataclass(frozen=True, eq=False)
class Seen:
    """An evaluation that is done. kept and picture lie on its device."""

    step: int
    sigma: list[float]
    branches: frozenset[Branch]
    level: NoiseLevel
    cfg: torch.Tensor
    meter: Meter
    kept: Kept
    strengths: dict[int, torch.Tensor]  # what adaptive rules chose, by their places in the chain, [B]
    picture: torch.Tensor | None


class ObservedRun(Protocol):
    """What the recorder asks of a run."""

    guidance: Guidance
    sigmas: SigmaList
    latent_shapes: list | None

    @property
    def position(self) -> int:
        """Of the evaluation that is going on, in the sampler's list of noise levels; 1 = the first."""


class Recorder:
    """Writes one run down. What was seen stays on the device until an evaluation begins after a `PAUSE`."""

    def __init__(self, model: ModelPatcher, run: ObservedRun, inspections: tuple[Inspection, ...]):
        context = get_executing_context()
        self.run = run
        self.lens = Lens(latents_of(model), run.latent_shapes)
        self.live = Live([i.node for i in inspections if i.node]) if context else None
        self.rules = label_rules(run.guidance.rules)
        self.record = Record(describe(model), context.node_id if context else "", max(len(run.sigmas.values) - 1, 0))
        self.wanted = [index + 1 for index in shown_steps(self.record.levels)]  # steps whose pictures are still to come
        self.pending: list[Seen] = []
        self.written = time.perf_counter()
        for inspection in inspections:
            inspection.open(self.record, context.prompt_id if context else None)

    def begin(self, device: torch.device) -> Meter:
        """An evaluation starts on this device."""
        if time.perf_counter() - self.written >= PAUSE:
            self._write()
        return Meter(device)

    def end(self, sigma: list[float], meter: Meter, watch: Watch) -> None:
        """It is done. sigma: the model's own, of every sample."""
        meter.stop()
        if self.pending and len(sigma) != len(self.pending[-1].sigma):
            self._write()
        step = min(self.run.position, self.record.levels)  # some samplers look at the last level too
        at, picture = watch.step, self._picture(step, watch.guided)
        branches, kept = frozenset(at.branches), watch.kept()
        self.pending.append(Seen(step, sigma, branches, at.level, at.cfg, meter, kept, watch.strengths, picture))

    def close(self, finished: bool) -> None:
        """The run is over. finished: without an error or interrupt."""
        self.record.finished = finished
        self._write()

    def _write(self) -> None:
        """Everything pending becomes plain numbers."""
        pending, self.pending = self.pending, []
        if pending:
            written = self._evaluations(pending)
            self.record.evaluations += written
            if self.live is not None:
                self.live.tell(written[-1], self.record)
        self.written = time.perf_counter()

    def _evaluations(self, pending: list[Seen]) -> list[Evaluation]:
        """Of as many samples each."""
        memory = memory_held(pending[0].meter.device)
        found = zip(pending, figures([seen.kept for seen in pending]), self._strengths(pending), strict=True)
        return [self._evaluation(*one, memory) for one in found]

    def _strengths(self, pending: list[Seen]) -> list[list[list[float]]]:
        """Of each evaluation: the strengths of CFG and of the rules, a number per sample."""
        level = NoiseLevel(torch.cat([seen.level.a for seen in pending]), torch.cat([seen.level.b for seen in pending]))
        rows = [torch.cat([seen.cfg for seen in pending]), *(rule.strength(level) for _, _, rule in self.rules)]
        for row, (index, _, rule) in zip(rows[1:], self.rules, strict=True):
            if rule.adaptive:
                places = zip(pending, row.split(len(pending[0].sigma)), strict=True)
                row.copy_(torch.cat([seen.strengths.get(index, usual) for seen, usual in places]))
        return torch.stack(rows).view(len(rows), len(pending), -1).movedim(1, 0).tolist()

    def _evaluation(self, seen: Seen, values, strengths: list[list[float]], memory: int) -> Evaluation:
        names, nothing = (("CFG", HOST), *((label, index) for index, label, _ in self.rules)), [0.0] * len(seen.sigma)
        terms = [TermRecord(label, s, values.get(n, nothing)) for (label, n), s in zip(names, strengths, strict=True)]
        return Evaluation(
            seen.step, seen.sigma, tuple(sorted(seen.branches, key=_order)), tuple(terms), values[TOTAL],
            values.get(COSINE), values.get(EFFECTIVE), tuple(_score(name, values[name]) for name in seen.kept.scores),
            seen.meter.seconds(), memory, None if seen.picture is None else seen.picture.cpu(),
        )

    def _picture(self, step: int, denoised: torch.Tensor) -> torch.Tensor | None:
        """Of the estimates that the strip shows."""
        if not self.wanted or step < self.wanted[0]:
            return None
        self.wanted = [later for later in self.wanted if later > step]
        return self.lens.look(denoised)


def label_rules(rules: tuple[Rule, ...]) -> list[tuple[int, str, Rule]]:
    """Every rule beside CFG: its place in the chain, a name of its own, the rule."""
    named: list[tuple[int, str, Rule]] = []
    for index, rule in enumerate(rules):
        if not isinstance(rule, CFG):
            label = rule.label
            again = sum(other.label == label for _, _, other in named)
            named.append((index, f"{label} #{again + 1}" if again else label, rule))
    return named


def _order(branch) -> tuple[bool, str, bool]:
    return branch.network != "main", branch.network, branch.condition != "positive"


def _score(objective: Objective, values: list[float]) -> Score:
    if isinstance(objective.loss, CrossEntropy):
        return Score(objective.words, True, probability(values))
    return Score(objective.words or objective.loss.title, False, [-value for value in values])
