"""What Show Inspection gives: plot, strip, table and JSON of an inspection."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from comfy_api.latest import io

from ..recording.inspection import Inspection
from ..recording.text import to_json, to_table
from .plot import QUIET, Canvas
from .run_plot import draw_record
from .strip import draw_strip

InspectionSocket = io.Custom("GUIDANCE_INSPECTION")
SWITCHED_OFF = "Inspect Run is switched off: nothing was written down."


@dataclass(frozen=True)
class Shown:
    """What the node gives, and `preview`: plot and strip under each other. Pictures are IMAGEs [1, H, 960, 3]."""

    plot: torch.Tensor
    strip: torch.Tensor
    table: str
    json: str

    @property
    def preview(self) -> torch.Tensor:
        return torch.cat([self.plot, self.strip], 1)


def show(inspection: Inspection, run: int) -> Shown:
    """A run of an inspection: 1 = the first, 0 = the last.

    Raises:
        ValueError: no sampler used the inspected MODEL, or no run has this number.
    """
    if not inspection.on:
        canvas = Canvas(80)
        canvas.text(24, 40, SWITCHED_OFF, QUIET)
        return Shown(canvas.picture(), canvas.picture(), SWITCHED_OFF, to_json([]))
    record = inspection.record(run)
    return Shown(draw_record(record), draw_strip(record), to_table(record), to_json(inspection.records))
