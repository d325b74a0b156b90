"""Nodes that steer a MODEL by the gradient of a guide, or of a loss."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io

from ..guidance.rules.gradient import GradientGuidance
from ..host.common.remarks import remark
from ..host.engine.page_events import curve
from ..host.engine.steer import steer_to_class, steer_to_target
from ..host.engine.targets import TARGETS, losses_of_pictures, losses_reading
from ..host.schema.inputs import (
    MEAN_SHIFT,
    GuideSocket,
    gradient_inputs,
    interval_inputs,
    interval_validation,
    scale_remark,
    schedule_of,
)
from ..host.schema.visibility import shown_for


@interval_validation
class GuidanceClassifier(io.ComfyNode):
    """Classifier guidance."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="GuidanceClassifier",
            display_name="Classifier Guidance",
            category="guidance",
            description="Steers a model towards a class with the gradient of a classifier (ADM, 2105.05233), even one "
            "that the model knows nothing of. One forward and backward of the guide per step.",
            search_aliases=[
                "classifier gradient", "adm", "ppap", "class guidance", "cond_fn", "분류기", "分类器",
            ],
            has_intermediate_output=True,
            inputs=[
                io.Model.Input("model", tooltip="The MODEL to steer."),
                GuideSocket.Input("guide", lazy=True, tooltip="A classifier (Load Guide, Expert Switch). Not loaded "
                                  "while scale is 0."),
                io.String.Input(
                    "label", default="circle",
                    tooltip="The class wanted, by name or number. Several with weights: cat:0.7 + dog:0.3. Separated "
                    "by commas, they are dealt to the pictures of the batch in turn.",
                ),
                *gradient_inputs(),
                *interval_inputs(),
            ],
            outputs=[io.Model.Output(tooltip="The MODEL, guided.")],
        )

    @classmethod
    def check_lazy_status(cls, scale, **others):
        return [name for name in ("guide", "vae") if scale != 0.0 and others.get(name, True) is None]

    @classmethod
    def execute(
        cls, model, label, scale, cap, at, decoder, normalise, form, unit, start, end, guide: Any = None,
        schedule=None, vae=None,
    ) -> io.NodeOutput:
        if scale == 0.0:
            return io.NodeOutput(model)
        if said := scale_remark(scale, cap):
            remark(said)
        where = schedule_of(unit, start, end, schedule)
        rule = GradientGuidance(scale, cap, normalise, form == MEAN_SHIFT, schedule=where)
        out = steer_to_class(model, guide, label, rule, at=at, decoder=decoder, vae=vae)
        return io.NodeOutput(out, ui=curve(model, out, guide))


@interval_validation
class GuidanceLoss(io.ComfyNode):
    """Guidance by any loss of the picture."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="GuidanceLoss",
            display_name="Loss Guidance",
            category="guidance",
            description="Steers a model towards a target picture: its depth, segmentation, features or text as a "
            "guide sees them, or the picture itself. One backward per step.",
            search_aliases=[
                "depth guidance", "segmentation guidance", "clip guidance", "universal guidance", "style", "스타일",
                "깊이", "风格", "深度",
            ],
            has_intermediate_output=True,
            inputs=[
                io.Model.Input("model", tooltip="The MODEL to steer."),
                io.Combo.Input(
                    "loss", options=losses_of_pictures(),
                    tooltip="What is compared. depth, segmentation, embedding and score need a guide of that kind, "
                    "reward a CLIP and text; the others look at the picture itself.",
                ),
                *gradient_inputs(),
                *target_inputs(),
                *interval_inputs(),
            ],
            outputs=[io.Model.Output(tooltip="The MODEL, guided.")],
        )

    @classmethod
    def check_lazy_status(cls, scale, **others):
        return [name for name in ("guide", "target", "vae") if scale != 0.0 and others.get(name, True) is None]

    @classmethod
    def execute(
        cls, model, loss, scale, cap, at, decoder, normalise, form, target_is, text, cutouts, seed, unit, start, end,
        guide=None, target=None, schedule=None, vae=None,
    ) -> io.NodeOutput:
        if scale == 0.0:
            return io.NodeOutput(model)
        if said := scale_remark(scale, cap):
            remark(said)
        where = schedule_of(unit, start, end, schedule)
        rule = GradientGuidance(scale, cap, normalise, form == MEAN_SHIFT, schedule=where)
        wanted = {"images": target, "kind": target_is, "text": text, "cutouts": cutouts, "seed": seed}
        out = steer_to_target(model, loss, guide, wanted, rule, at=at, decoder=decoder, vae=vae)
        return io.NodeOutput(out, ui=curve(model, out, guide))


def target_inputs() -> list[io.Input]:
    """What a loss compares with."""
    return [
        GuideSocket.Input(
            "guide", optional=True, lazy=True,
            tooltip="A depth, segmentation, embedding or score network (Load Guide). Leave open for a loss of the "
            "picture.",
        ),
        io.Image.Input(
            "target", optional=True, lazy=True,
            tooltip="What the picture should come to: a reference picture, or a finished map of the picture's size. "
            "Several are dealt to the pictures of the batch in turn.",
        ),
        *shown_for(
            "loss", losses_reading("depth", "segmentation", "embedding"),
            io.Combo.Input(
                "target_is", options=TARGETS,
                tooltip="picture: an ordinary picture; the guide finds its depth, segmentation or features. map: the "
                "finished map itself; brighter as the guide gives it for depth, grey level = class number for "
                "segmentation. Not used without a guide.",
            ),
        ),
        *_guided_inputs(),
    ]


def _guided_inputs() -> list[io.Input]:
    """What only guides read."""
    return [
        *shown_for(
            "loss", losses_reading("embedding"),
            io.String.Input(
                "text", default="",
                tooltip="With an image-text guide (CLIP, SigLIP): what the picture should show. Then target is not "
                "used.",
            ),
            io.Int.Input(
                "cutouts", default=0, min=0, max=256, advanced=True,
                tooltip="How many random crops the guide looks at in every step; 0 = the whole picture. 8 to 32 help "
                "CLIP. Each costs an evaluation of the guide.",
            ),
            or_filled=True,
        ),
        *shown_for(
            "loss", losses_reading("depth", "segmentation", "embedding", "score"),
            io.Int.Input(
                "seed", default=0, min=0, max=2**32 - 1, control_after_generate=False, advanced=True,
                tooltip="Of the cutouts, and of the noise for noise-aware guides that look at the denoised estimate.",
            ),
        ),
    ]


NODES: list[type[io.ComfyNode]] = [GuidanceClassifier, GuidanceLoss]
