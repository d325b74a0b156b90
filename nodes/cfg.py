"""Nodes around classifier-free guidance: its weight, and what shapes its update."""

from __future__ import annotations

from comfy_api.latest import io

from ..guidance.rules.apg import APG
from ..guidance.rules.cfg import CFG
from ..guidance.rules.clamp import Clamp
from ..guidance.rules.rescale import Rescale
from ..host.common.decoders import check_range
from ..host.engine.install import with_rule
from ..host.engine.page_events import curve
from ..host.schema.inputs import (
    inputs_of,
    interval_inputs,
    interval_validation,
    mask_input,
    region_of,
    schedule_of,
)
from ..host.schema.visibility import shown_for


@interval_validation
class GuidanceCFG(io.ComfyNode):
    """Classifier-free guidance with a weight, a schedule and an interval of its own."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="GuidanceCFG",
            display_name="CFG Combine",
            category="guidance",
            description="Classifier-free guidance in an interval or on a schedule. Where it is off, the negative "
            "prompt is not evaluated: those steps cost half.",
            search_aliases=[
                "classifier-free guidance", "guidance interval", "guidance limit", "limited interval", "cfg schedule",
                "cfg interval", "dynamic cfg", "cfg end", "start percent", "guidance scale", "negative", "speed up",
                "faster", "variety", "diversity", "부정 프롬프트", "가이던스 구간", "동적 CFG", "속도", "다양성",
                "负面提示词", "引导区间", "动态CFG", "加速", "多样性",
            ],
            has_intermediate_output=True,
            inputs=[
                io.Model.Input("model", tooltip="The MODEL to steer."),
                io.Combo.Input(
                    "weight_from", options=["sampler", "node"], default="node",
                    tooltip="node: use the weight below. sampler: use the cfg of the KSampler or guider instead.",
                ),
                *shown_for("weight_from", ["node"], *inputs_of(CFG)),
                *interval_inputs(),
                mask_input(),
            ],
            outputs=[io.Model.Output(tooltip="The MODEL with CFG in this interval.")],
        )

    @classmethod
    def execute(cls, model, weight_from, weight, unit, start, end, schedule=None, mask=None) -> io.NodeOutput:
        weight = None if weight_from == "sampler" else weight
        out = with_rule(model, CFG(weight, schedule_of(unit, start, end, schedule), region=region_of(mask)))
        return io.NodeOutput(out, ui=curve(model, out))


@interval_validation
class GuidanceRescale(io.ComfyNode):
    """Rescale the guided estimate to the spread of the unguided one."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="GuidanceRescale",
            display_name="Guidance Rescale",
            category="guidance",
            description="Brings the spread of the guided picture back to that of the unguided one, against burnt "
            "colours at high weights. Acts after all other guidance of the MODEL; costs no evaluation.",
            search_aliases=[
                "rescale cfg", "cfg rescale", "burnt colours", "fried", "overcooked", "washed out", "과포화", "색 번짐",
                "过饱和", "发灰",
            ],
            has_intermediate_output=True,
            inputs=[
                io.Model.Input("model", tooltip="The MODEL to steer."), *inputs_of(Rescale), *interval_inputs(),
            ],
            outputs=[io.Model.Output(tooltip="The MODEL with rescaling.")],
        )

    @classmethod
    def execute(cls, model, phi, unit, start, end, schedule=None) -> io.NodeOutput:
        out = with_rule(model, Rescale(phi, schedule_of(unit, start, end, schedule)))
        return io.NodeOutput(out, ui=curve(model, out))


@interval_validation
class GuidanceAPG(io.ComfyNode):
    """Adaptive projected guidance on top of CFG."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="GuidanceAPG",
            display_name="Adaptive Projected Guidance",
            category="guidance",
            description="Shapes the update of CFG: removes the part that oversaturates, limits its length, smooths it "
            "over the steps. Uses the cfg in effect (the sampler's, or CFG Combine's); costs no evaluation.",
            search_aliases=[
                "apg", "oversaturation", "projected guidance", "fried", "overcooked", "과포화", "过饱和",
            ],
            has_intermediate_output=True,
            inputs=[io.Model.Input("model", tooltip="The MODEL to steer."), *inputs_of(APG), *interval_inputs()],
            outputs=[io.Model.Output(tooltip="The MODEL with APG.")],
        )

    @classmethod
    def execute(cls, model, eta, norm_threshold, momentum, unit, start, end, schedule=None) -> io.NodeOutput:
        rule = APG(eta, norm_threshold, momentum, schedule_of(unit, start, end, schedule))
        out = with_rule(model, rule)
        return io.NodeOutput(out, ui=curve(model, out))


@interval_validation
class GuidanceClamp(io.ComfyNode):
    """Keep the estimate inside the range of pictures, as the papers' pixel models do."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="GuidanceClamp",
            display_name="Clamp",
            category="guidance",
            description="Keeps the model's estimate inside the range of pictures at every step, as the code of ADM, "
            "P2, PPAP, GLIDE and Imagen does. For models of pictures, not of latents. Acts after CFG and autoguidance, "
            "before classifiers and losses; costs no evaluation.",
            search_aliases=["clip denoised", "dynamic thresholding", "threshold", "clip", "static thresholding"],
            has_intermediate_output=True,
            inputs=[io.Model.Input("model", tooltip="The MODEL to steer."), *inputs_of(Clamp), *interval_inputs()],
            outputs=[io.Model.Output(tooltip="The MODEL with its estimate kept in range.")],
        )

    @classmethod
    def execute(cls, model, limit, quantile, unit, start, end, schedule=None) -> io.NodeOutput:
        if limit:
            check_range(model)
        out = with_rule(model, Clamp(limit, quantile, schedule_of(unit, start, end, schedule)))
        return io.NodeOutput(out, ui=curve(model, out))


NODES: list[type[io.ComfyNode]] = [GuidanceCFG, GuidanceRescale, GuidanceAPG, GuidanceClamp]
