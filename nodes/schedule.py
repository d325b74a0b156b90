"""The node that makes a schedule: how strong a component is over noise."""

from __future__ import annotations

from comfy_api.latest import io

from ..host.schema.inputs import UNITS, ScheduleSocket
from ..host.schema.schedules import SHAPES, make_schedule, schedule_problem
from ..host.schema.validation import validation
from ..host.schema.visibility import shown_for

ALIASES = [
    "weight schedule", "cfg ramp", "guidance curve", "interval", "dynamic cfg", "cfg end", "start percent", "동적 CFG",
    "动态CFG",
]


@validation(schedule_problem, "shape", "unit", "start", "end", "points")
class GuidanceSchedule(io.ComfyNode):
    """One socket for every weight and scale of the pack."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="GuidanceSchedule",
            display_name="Guidance Schedule",
            category="guidance",
            description="How strong a component is over noise: 1 = as strong as its weight says, 0 = off. Chain "
            "several to multiply them.",
            search_aliases=ALIASES,
            inputs=[
                io.Combo.Input(
                    "shape", options=SHAPES,
                    tooltip="linear or cosine: from one strength to another between start and end, constant outside. "
                    "interval: 1 inside, 0 outside. points: straight lines through the points below.",
                ),
                io.Combo.Input(
                    "unit", options=UNITS,
                    tooltip="What positions are: percent of the model's training timesteps (0 = pure noise, 1 = clean) "
                    "or the model's own sigma (large = noisy).",
                ),
                *_shape_inputs(),
                ScheduleSocket.Input("schedule", optional=True, tooltip="Another schedule to multiply with this one."),
            ],
            outputs=[
                ScheduleSocket.Output(display_name="schedule", tooltip="For the schedule input of any component."),
            ],
        )

    @classmethod
    def execute(
        cls, shape, unit, start, end, start_strength, end_strength, points, schedule=None
    ) -> io.NodeOutput:
        made = make_schedule(shape, unit, start, end, start_strength, end_strength, points)
        return io.NodeOutput(made if schedule is None else made * schedule)


def _shape_inputs() -> list[io.Input]:
    """The numbers of each shape."""
    return [
        *shown_for(
            "shape", ["linear", "cosine", "interval"],
            io.Float.Input(
                "start", default=0.0, min=0.0, max=100000.0, step=0.01, round=0.0001,
                tooltip="Noisy end. In percent 0 is the beginning; in sigma it is the larger number.",
            ),
            io.Float.Input(
                "end", default=1.0, min=0.0, max=100000.0, step=0.01, round=0.0001,
                tooltip="Clean end. In percent 1 is the end; in sigma it is the smaller number.",
            ),
        ),
        *shown_for(
            "shape", ["linear", "cosine"],
            io.Float.Input(
                "start_strength", default=1.0, min=-10.0, max=10.0, step=0.01, round=0.0001,
                tooltip="Strength at start, for linear and cosine. 1 = the component's full weight, 0 = off.",
            ),
            io.Float.Input(
                "end_strength", default=0.0, min=-10.0, max=10.0, step=0.01, round=0.0001,
                tooltip="Strength at end, for linear and cosine.",
            ),
        ),
        *shown_for(
            "shape", ["points"],
            io.String.Input(
                "points", default="0: 0, 0.3: 1, 0.7: 1, 1: 0",
                tooltip="For shape = points: position: strength pairs from noisy to clean, separated by "
                "commas.",
            ),
        ),
    ]


NODES: list[type[io.ComfyNode]] = [GuidanceSchedule]
