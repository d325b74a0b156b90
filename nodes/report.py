"""The node that says what a MODEL will do."""

from __future__ import annotations

from comfy_api.latest import io, ui

from ..host.common.page_pictures import show_pictures
from ..host.report.plot import draw
from ..host.report.report import report, scheduler_names, sigmas_of
from ..host.schema.validation import validation


@validation()
class GuidanceReport(io.ComfyNode):
    """The plan of a MODEL in words and as a plot."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="GuidanceReport",
            display_name="Guidance Report",
            category="guidance/look",
            description="Says what the components of this MODEL will do: weights over the noise levels, evaluations "
            "per step, expected cost. Runs nothing.",
            search_aliases=["guidance plan", "plot guidance", "cost", "inspect guidance"],
            is_output_node=True,
            inputs=[
                io.Model.Input("model", tooltip="The MODEL with components."),
                io.Float.Input(
                    "cfg", default=4.0, min=0.0, max=100.0, step=0.1, round=0.01,
                    tooltip="The cfg that the sampler will use, where no CFG Combine sets its own.",
                ),
                io.Combo.Input(
                    "scheduler", options=scheduler_names(),
                    tooltip="The sampler's scheduler. Not used if sigmas is connected.",
                ),
                io.Int.Input(
                    "steps", default=20, min=1, max=10000,
                    tooltip="The sampler's steps. Not used if sigmas is connected.",
                ),
                io.Sigmas.Input("sigmas", optional=True, tooltip="The noise levels to report on."),
            ],
            outputs=[
                io.Model.Output(tooltip="The MODEL, unchanged."),
                io.String.Output(display_name="text", tooltip="The plan in words."),
                io.Image.Output(display_name="plot", tooltip="The weights over the noise levels."),
            ],
        )

    @classmethod
    def execute(cls, model, cfg, scheduler, steps, sigmas=None) -> io.NodeOutput:
        levels = sigmas_of(model, scheduler, steps) if sigmas is None else sigmas
        if len(levels) < 2:
            raise ValueError(f"sigmas has {len(levels)} value(s); a run needs two or more.")
        plan = report(model, levels, cfg)
        picture = draw(plan)
        shown = {**show_pictures(picture, cls), **ui.PreviewText(plan.text).as_dict()}
        return io.NodeOutput(model, plan.text, picture, ui=shown)


NODES: list[type[io.ComfyNode]] = [GuidanceReport]
