"""The inspector on a MODEL: what every evaluation of its runs was made of is kept. Without it none of this runs."""

from __future__ import annotations

from dataclasses import dataclass, field

from comfy.model_patcher import ModelPatcher

from ..common.keys import INSPECTIONS
from .record import Record

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
                "Nothing was inspected: no sampler has used the MODEL that comes out of Inspect Run. Connect that "
                "MODEL to the sampler, and the sampler's result to sampled. If they are connected, the host reused an "
                "earlier result: change the seed."
            )
        if not 0 <= run <= len(self.records):
            count = len(self.records)
            raise ValueError(f"run is {run}, and {count} were inspected. Choose 1 to {count}, or 0 for the last one.")
        return self.records[run - 1]


def inspections_of(model: ModelPatcher) -> tuple[Inspection, ...]:
    """Who inspects this MODEL."""
    return model.get_attachment(INSPECTIONS) or ()
