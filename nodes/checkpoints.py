"""Nodes that make files: a published checkpoint as safetensors, and an average of EDM2 snapshots."""

from __future__ import annotations

from comfy_api.latest import io, ui

from ..host.common.errors import user_error
from ..host.models.convert import SCHEDULES, average, convert
from ..host.models.denoisers import denoiser_names, path_of
from ..host.schema.validation import validation

NONE = "(none)"
SNAPSHOT = (
    "A stored average of one training, its time and width in its name: edm2-img512-xs-2147483-0.050.pkl. Different "
    "times or widths; two are enough, more are more exact."
)


def files_problem(*names: str | None) -> str | None:
    """Why one of the files is not there, in words; None if all are that are known."""
    try:
        for name in names:
            if name is not None and name != NONE:
                path_of(name)
    except ValueError as error:
        return str(error)
    return None


@validation(files_problem, "name")
class GuidanceConvertCheckpoint(io.ComfyNode):
    """A .pt or .pkl denoiser as safetensors."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="GuidanceConvertCheckpoint",
            display_name="Convert Checkpoint",
            category="guidance/papers",
            description="Writes an ADM, P2, GLIDE or EDM2 file (.pt, .pkl) as safetensors beside it. Nothing that the "
            "file carries is run; its SHA-256 is noted in the new one.",
            search_aliases=["pickle to safetensors", "edm2 pkl", "convert pt"],
            is_output_node=True,
            inputs=[
                io.Combo.Input("name", options=denoiser_names(), tooltip="The file to convert. It stays as it is."),
                io.Int.Input(
                    "heads", default=0, min=0, max=64, advanced=True,
                    tooltip="ADM and P2 of your own training: its attention heads (num_heads; 4 is that script's "
                    "default), which a .pt does not tell. 0 = as known of the released ones.",
                ),
                io.Combo.Input(
                    "schedule", options=SCHEDULES, advanced=True,
                    tooltip="ADM and P2 of your own training: its noise_schedule.",
                ),
                io.Int.Input(
                    "diffusion_steps", default=0, min=0, max=10000, advanced=True,
                    tooltip="ADM and P2 of your own training: its diffusion_steps. 0 = as known, which is 1000.",
                ),
            ],
            outputs=[io.String.Output(display_name="name", tooltip="The new file's name, for Load Denoiser.")],
        )

    @classmethod
    @user_error()
    def execute(cls, name, heads=0, schedule=SCHEDULES[0], diffusion_steps=0) -> io.NodeOutput:
        made = convert(name, heads, schedule, diffusion_steps)
        return io.NodeOutput(made, ui=ui.PreviewText(made))


@validation(files_problem, "first", "second", "third", "fourth")
class GuidancePostHocEMA(io.ComfyNode):
    """Another averaging width from stored ones."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        names = denoiser_names()
        return io.Schema(
            node_id="GuidancePostHocEMA",
            display_name="Post-hoc EMA (EDM2)",
            category="guidance/papers",
            description="Makes the average of another width from two or more stored ones of one training (EDM2, "
            "2312.02696). Autoguidance tunes the widths of both networks.",
            search_aliases=["ema reconstruction", "edm2 ema", "power function ema"],
            is_output_node=True,
            inputs=[
                io.Combo.Input("first", options=names, tooltip=SNAPSHOT),
                io.Combo.Input("second", options=names, tooltip=SNAPSHOT),
                io.Combo.Input("third", options=[NONE, *names], tooltip=SNAPSHOT),
                io.Combo.Input("fourth", options=[NONE, *names], tooltip=SNAPSHOT),
                io.Float.Input(
                    "std", default=0.1, min=0.01, max=0.28, step=0.005, round=0.001,
                    tooltip="Width of the new average as a share of the training (sigma_rel). The guides of the "
                    "autoguidance paper use 0.110 to 0.205, its main networks 0.045 to 0.130.",
                ),
            ],
            outputs=[
                io.String.Output(display_name="name", tooltip="The new file's name, for Load Denoiser."),
                io.String.Output(display_name="shares", tooltip="The share of each snapshot in it."),
            ],
        )

    @classmethod
    @user_error()
    def execute(cls, first, second, third, fourth, std) -> io.NodeOutput:
        name, shares = average([snapshot for snapshot in (first, second, third, fourth) if snapshot != NONE], std)
        return io.NodeOutput(name, shares, ui=ui.PreviewText(f"{name}\n{shares}"))


NODES: list[type[io.ComfyNode]] = [GuidanceConvertCheckpoint, GuidancePostHocEMA]
