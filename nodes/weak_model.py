"""Nodes that steer a MODEL away from a weaker one."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io

from ..guidance.compose import split
from ..guidance.rule import is_one
from ..guidance.rules.autoguidance import Autoguidance
from ..guidance.rules.cfg import CFG
from ..host.engine.install import with_autoguidance, with_rule
from ..host.engine.page_events import curve
from ..host.schema.inputs import (
    inputs_of,
    interval_inputs,
    interval_validation,
    mask_input,
    region_of,
    schedule_of,
)

GUIDE_TOOLTIP = (
    "A weaker version of the same model: smaller, less trained, an earlier checkpoint, or without its LoRA. It must "
    "share the latent space. Not loaded while the weight is 1."
)


def guide_inputs() -> list[io.Input]:
    return [
        io.Model.Input("model", tooltip="The MODEL to steer."),
        io.Model.Input("guide_model", lazy=True, tooltip=GUIDE_TOOLTIP),
    ]


def guide_positive() -> io.Input:
    return io.Conditioning.Input(
        "guide_positive", optional=True,
        tooltip="The prompt for the guide. Leave open for the sampler's positive (the paper's way); connect one if the "
        "guide has another text encoder.",
    )


@interval_validation
class GuidanceAutoguidance(io.ComfyNode):
    """Guide a model with a weaker version of itself."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        weight, reuse = inputs_of(Autoguidance)
        return io.Schema(
            node_id="GuidanceAutoguidance",
            display_name="Autoguidance",
            category="guidance",
            description="Steers a model away from the mistakes of a weaker version of itself (2406.02507): better "
            "pictures without the loss of variety of CFG. One evaluation of the guide per step.",
            search_aliases=[
                "weak model", "bad model guidance", "two models", "karras", "auto guidance", "flux cfg", "variety",
                "diversity", "약한 모델", "다양성", "弱模型", "多样性",
            ],
            has_intermediate_output=True,
            inputs=[*guide_inputs(), weight, *interval_inputs(), guide_positive(), reuse, mask_input()],
            outputs=[io.Model.Output(tooltip="The MODEL, guided.")],
        )

    @classmethod
    def check_lazy_status(cls, weight, guide_model=None, **others):
        return ["guide_model"] if not is_one(weight) and guide_model is None else []

    @classmethod
    def execute(
        cls, model, weight, reuse, unit, start, end, guide_model: Any = None, schedule=None, guide_positive=None,
        mask=None,
    ) -> io.NodeOutput:
        if is_one(weight):
            return io.NodeOutput(model)
        rule = Autoguidance(weight, schedule_of(unit, start, end, schedule), reuse=reuse, region=region_of(mask))
        out = with_autoguidance(model, guide_model, rule, guide_positive)
        return io.NodeOutput(out, ui=curve(model, out))


@interval_validation
class GuidanceMix(io.ComfyNode):
    """CFG and autoguidance from one total weight and a mix."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="GuidanceMix",
            display_name="CFG + Autoguidance",
            category="guidance",
            description="One total weight, divided between CFG and autoguidance (2406.02507, Eq. 6). The cfg of the "
            "sampler is not used. Three evaluations per step; fewer where one of the two is off.",
            search_aliases=["autoguidance mix", "cfg and autoguidance", "total weight"],
            has_intermediate_output=True,
            inputs=[
                *guide_inputs(),
                io.Float.Input(
                    "total", default=2.5, min=0.0, max=20.0, step=0.05, round=0.001,
                    tooltip="Total guidance weight. 1 = off.",
                ),
                io.Float.Input(
                    "mix", default=0.5, min=0.0, max=1.0, step=0.01, round=0.001,
                    tooltip="0 = all of it CFG, 1 = all of it autoguidance.",
                ),
                *interval_inputs(),
                guide_positive(),
            ],
            outputs=[io.Model.Output(tooltip="The MODEL, guided by both.")],
        )

    @classmethod
    def check_lazy_status(cls, total, mix, guide_model=None, **others):
        return ["guide_model"] if not is_one(split(total, mix)[1]) and guide_model is None else []

    @classmethod
    def execute(
        cls, model, total, mix, unit, start, end, guide_model: Any = None, schedule=None, guide_positive=None
    ) -> io.NodeOutput:
        cfg, auto = split(total, mix)
        where = schedule_of(unit, start, end, schedule)
        out = with_rule(model, CFG(cfg, where))
        if not is_one(auto):
            out = with_autoguidance(out, guide_model, Autoguidance(auto, where), guide_positive)
        return io.NodeOutput(out, ui=curve(model, out))


NODES: list[type[io.ComfyNode]] = [GuidanceAutoguidance, GuidanceMix]
