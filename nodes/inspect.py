"""The nodes that look into a run: one on the MODEL, one that shows what it saw."""

from __future__ import annotations

from comfy_api.latest import io, ui

from ..host.common.page_pictures import show_pictures
from ..host.engine.install import with_inspection
from ..host.recording.inspection import Inspection
from ..host.report.show import InspectionSocket, show
from ..host.schema.validation import validation


@validation()
class GuidanceInspect(io.ComfyNode):
    """Writes down what every evaluation of a run is made of."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="GuidanceInspect",
            display_name="Inspect Run",
            category="guidance/look",
            description="Writes down, step by step, what guidance does while a sampler runs: networks evaluated, how "
            "hard each component pushes, what guides say, time and memory. It changes no bit of the picture. Connect "
            "inspection to Show Inspection to see it.",
            search_aliases=["debug guidance", "log steps", "probe", "monitor", "measure guidance", "why"],
            inputs=[
                io.Model.Input(
                    "model", tooltip="The MODEL with components, or any other. The place in the chain does not matter."
                ),
                io.Boolean.Input(
                    "on", default=True, tooltip="Off: nothing is written down, and sampling is exactly as without "
                    "this node."
                ),
            ],
            outputs=[
                io.Model.Output(tooltip="The MODEL for the sampler; what it does is written down."),
                InspectionSocket.Output(
                    display_name="inspection", tooltip="What was written down, for Show Inspection."
                ),
            ],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def execute(cls, model, on=True) -> io.NodeOutput:
        inspection = Inspection(node=cls.hidden.unique_id or "" if cls.hidden else "", on=on)
        return io.NodeOutput(with_inspection(model, inspection) if on else model, inspection)


@validation()
class GuidanceInspection(io.ComfyNode):
    """Shows what Inspect Run saw."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="GuidanceInspection",
            display_name="Show Inspection",
            category="guidance/look",
            description="Shows what Inspect Run wrote down: a plot, the denoised estimate over the steps, a "
            "table, and every number as JSON.",
            search_aliases=["guidance plot", "steps plot", "denoised steps", "guidance log", "profile", "show steps"],
            is_output_node=True,
            inputs=[
                InspectionSocket.Input("inspection", tooltip="From Inspect Run."),
                io.AnyType.Input(
                    "sampled",
                    tooltip="What the sampler made: its latent, or the image. It is not looked at; it makes this node "
                    "wait until the run is over.",
                ),
                io.Int.Input(
                    "run", default=0, min=0, max=10000,
                    tooltip="Which run to show, if several samplers or a detailer used the MODEL: 1 is the first of "
                    "this prompt, 0 the last.",
                ),
            ],
            outputs=[
                io.Image.Output(
                    display_name="plot", tooltip="Updates, weights, guides, evaluations and time per step."
                ),
                io.Image.Output(display_name="strip", tooltip="The estimate of the clean picture over the steps."),
                io.String.Output(display_name="table", tooltip="One row per evaluation, in markdown."),
                io.String.Output(display_name="json", tooltip="Every number of every run and sample."),
            ],
        )

    @classmethod
    def execute(cls, inspection, sampled, run=0) -> io.NodeOutput:
        seen = show(inspection, run)
        page = {**show_pictures(seen.preview, cls), **ui.PreviewText(seen.table).as_dict()}
        return io.NodeOutput(seen.plot, seen.strip, seen.table, seen.json, ui=page)


NODES: list[type[io.ComfyNode]] = [GuidanceInspect, GuidanceInspection]
