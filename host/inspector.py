"""The inspector: writes down what every evaluation of a run was made of. Without it on a MODEL none of this runs."""

from __future__ import annotations

from collections.abc import Hashable
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING

import torch
from comfy.model_patcher import ModelPatcher
from comfy_execution.utils import get_executing_context

from ..guidance.gradient import Objective
from ..guidance.inspection import Watch, probability
from ..guidance.losses.cross_entropy import CrossEntropy
from ..guidance.rule import Rule
from ..guidance.rules.cfg import CFG
from .compatibility import describe
from .decoders import latents_of
from .inspect_live import Live
from .inspect_meter import Meter
from .inspect_pictures import Lens
from .inspect_record import Evaluation, Record, Score, Term
from .plan import KEY, extended, plan_of
from .report import label_of

if TYPE_CHECKING:
    from .run import Run

ATTACHED = f"{KEY}/inspections"
MOST = 32  # runs that are kept


@dataclass(eq=False)
class Inspection:
    """What an INSPECTION socket carries: the runs of the newest prompt in order, the last `MOST` of them.

    Every sampler, detailer or upscaler of a prompt that uses the MODEL appends a run; the first run of the next prompt
    starts anew. `node` is the inspector's id on the page; `on` is False where it is switched off.
    """

    node: str = ""
    on: bool = True
    records: list[Record] = field(default_factory=list)
    prompt: str | None = None

    def open(self, record: Record, prompt: str | None) -> None:
        """A run begins."""
        if prompt != self.prompt:
            self.records.clear()
        self.prompt = prompt
        self.records.append(record)
        del self.records[:-MOST]

    def record(self, run: int) -> Record:
        """A run by its number, 1 = the first; 0 = the last. Raises ValueError, in words, if it is not there."""
        if not any(record.evaluations for record in self.records):
            raise ValueError(
                "Nothing was inspected: no sampler has used the MODEL that comes out of Inspect. Connect that MODEL to "
                "the sampler, and the sampler's result to sampled. If they are connected, the host reused an earlier "
                "result: change the seed."
            )
        if not 0 <= run <= len(self.records):
            count = len(self.records)
            raise ValueError(f"run is {run}, and {count} were inspected. Choose 1 to {count}, or 0 for the last one.")
        return self.records[run - 1]


def inspected(model: ModelPatcher, inspection: Inspection) -> ModelPatcher:
    """A clone of the MODEL whose runs are written down, beside whoever inspects it already."""
    out = extended(model, plan_of(model))
    out.set_attachments(ATTACHED, (*inspections_of(model), inspection))
    return out


def inspections_of(model: ModelPatcher) -> tuple[Inspection, ...]:
    """Who inspects this MODEL."""
    return model.get_attachment(ATTACHED) or ()


class Recorder:
    """Writes one run down. Figures stay on the device until the next evaluation begins, or until they are read."""

    def __init__(self, model: ModelPatcher, run: Run, inspections: tuple[Inspection, ...]):
        context = get_executing_context()
        self.run = run
        self.lens = Lens(latents_of(model), run.latent_shapes)
        self.live = Live([i.node for i in inspections if i.node]) if context else None
        self.rules = labelled(run.guidance.rules)
        self.record = Record(describe(model), context.node_id if context else "", max(len(run.sigmas) - 1, 0))
        for inspection in inspections:
            inspection.open(self.record, context.prompt_id if context else None)

    def begin(self, timestep: torch.Tensor) -> tuple[list[float], Meter]:
        """An evaluation starts at the model's sigma [B]."""
        sigma: list[float] = timestep.flatten().tolist()  # waits for the device, as the engine does here anyway
        self._fetch()
        return sigma, Meter(timestep.device)

    def end(self, sigma: list[float], meter: Meter, watch: Watch) -> None:
        """It is done; what was seen of it is kept where it lies."""
        meter.stop()
        names, kept = watch.figures()
        picture = self.lens.look(watch.guided)
        self.record.pending.append(
            partial(self._evaluation, sigma, meter, watch.branches, watch.cfg, names, kept, picture)
        )

    def close(self, finished: bool) -> None:
        """The run is over. finished: without an error or interrupt."""
        self.record.finished = finished
        self._fetch()

    def _fetch(self) -> None:
        for evaluation in self.record.fetch():
            if self.live is not None:
                self.live.tell(evaluation, self.record)

    def _evaluation(self, sigma, meter: Meter, branches, cfg, names: tuple[Hashable, ...], kept, picture) -> Evaluation:
        """What was kept, as plain numbers."""
        values: dict[Hashable, list[float]] = dict(zip(names, kept.tolist(), strict=True))
        level = self.run.level(torch.tensor(sigma, dtype=torch.float64))
        nothing = [0.0] * len(sigma)
        terms = [Term("CFG", cfg.tolist(), values["host"])]
        terms += [Term(label, r.strength(level).tolist(), values.get(i, nothing)) for i, label, r in self.rules]
        step = min(self.run.position(sigma[0]), self.record.levels)  # some samplers look at the last level too
        scores = tuple(_score(name, values[name]) for name in names if isinstance(name, Objective))
        return Evaluation(
            step, sigma, tuple(sorted(branches, key=_order)), tuple(terms), values["total"], values.get("cosine"),
            scores, meter.seconds(), meter.memory, None if picture is None else picture.cpu(),
        )


@contextmanager
def watching(run: Run, timestep: torch.Tensor):
    """While inside, the run has a watch; what it saw is written down. Nothing without a recorder."""
    if run.recorder is None:
        yield
        return
    sigma, meter = run.recorder.begin(timestep)
    run.watch = watch = Watch()
    try:
        yield
        run.recorder.end(sigma, meter, watch)
    finally:
        run.watch = None


def labelled(rules: tuple[Rule, ...]) -> list[tuple[int, str, Rule]]:
    """Every rule beside CFG: its place in the chain, a name of its own, the rule."""
    named: list[tuple[int, str, Rule]] = []
    for index, rule in enumerate(rules):
        if not isinstance(rule, CFG):
            label = label_of(rule)
            again = sum(label_of(other) == label for _, _, other in named)
            named.append((index, f"{label} #{again + 1}" if again else label, rule))
    return named


def _order(branch) -> tuple[bool, str, bool]:
    return branch.network != "main", branch.network, branch.condition != "positive"


def _score(objective: Objective, values: list[float]) -> Score:
    if isinstance(objective.loss, CrossEntropy):
        return Score(objective.words, True, probability(values))
    return Score(objective.words or objective.loss.title, False, [-value for value in values])
