"""The node that shapes CFG by one of many rules."""

from __future__ import annotations

from comfy_api.latest import io

from ..host.engine.install import with_shape
from ..host.engine.page_events import curve
from ..host.schema.inputs import interval_inputs, interval_validation, mask_input, region_of, schedule_of
from ..host.schema.shapes import shape_inputs, shape_rules


@interval_validation
class GuidanceShape(io.ComfyNode):
    """One of the rules that change how CFG pushes, without an evaluation."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="GuidanceShape",
            display_name="Shape CFG",
            category="guidance",
            description="Changes how CFG pushes by one of the rules that people know, at no evaluation (Perp-Neg one): "
            "against burnt colours, too much contrast, lost variety or a bad start. Chain several for several rules.",
            search_aliases=[
                "cfg zero star", "cfgzerostar", "zero init", "tcfg", "tangential damping", "fdg", "frequency decoupled",
                "mambo-g", "pmc-cfg", "cfgnorm", "cfg norm", "renormcfg", "renorm cfg", "skimmed cfg", "anti burn",
                "dynamic thresholding", "mimic scale", "cfg fix", "cfg++", "cfgpp", "momentum guidance",
                "tangential amplifying guidance", "tag", "higs", "history guidance", "perp-neg", "perpneg",
                "perpendicular negative", "oversaturation", "burnt colours", "fried", "overcooked",
                "cfg 형태", "과포화", "색 번짐", "过饱和", "动态阈值", "引导修正",
            ],
            has_intermediate_output=True,
            inputs=[
                io.Model.Input("model", tooltip="The MODEL to steer."), *shape_inputs(), *interval_inputs(),
                mask_input(), io.Conditioning.Input("empty", optional=True, tooltip=EMPTY_TOOLTIP),
            ],
            outputs=[io.Model.Output(tooltip="The MODEL whose CFG is shaped.")],
        )

    @classmethod
    def execute(cls, model, rule, amount, unit, start, end, schedule=None, mask=None, empty=None) -> io.NodeOutput:
        out = model
        for shape in shape_rules(rule, amount, schedule_of(unit, start, end, schedule), region_of(mask)):
            out = with_shape(out, shape, empty)
        return io.NodeOutput(out, ui=curve(model, out))


EMPTY_TOOLTIP = "For Perp-Neg alone: an empty prompt (CLIP Text Encode without text). Other rules do not use it."

NODES: list[type[io.ComfyNode]] = [GuidanceShape]
