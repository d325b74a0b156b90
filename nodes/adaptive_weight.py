"""The node whose weight of guidance chooses itself while the sampler runs."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io

from ..guidance.rule import is_one
from ..guidance.rules.adaptive_stop import AdaptiveStop
from ..guidance.rules.feedback import Feedback
from ..guidance.rules.feedback_autoguidance import FeedbackAutoguidance
from ..host.engine.install import with_autoguidance, with_rule
from ..host.engine.page_events import curve
from ..host.schema.inputs import inputs_of, interval_inputs, interval_validation, schedule_of
from ..host.schema.visibility import shown_for

STOP, FEEDBACK = "stop when alike", "feedback"


@interval_validation
class GuidanceAdaptiveWeight(io.ComfyNode):
    """A weight of CFG, or of autoguidance, that follows what the run shows."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        (similarity,) = inputs_of(AdaptiveStop)
        max_weight, pi, t0, t1, reuse = inputs_of(FeedbackAutoguidance)
        return io.Schema(
            node_id="GuidanceAdaptiveWeight",
            display_name="Adaptive Weight",
            category="guidance",
            description="Lets the weight of guidance choose itself, at every step and for every picture: CFG that "
            "stops when the negative prompt no longer differs (faster), or a weight that falls when the picture "
            "already shows the prompt (more variety).",
            search_aliases=[
                "adaptive guidance", "adaptive cfg", "dynamic cfg", "auto cfg", "speed up", "faster", "skip negative",
                "cosine similarity", "feedback guidance", "fbg", "step ag", "variety", "적응형 가이던스", "자동 cfg",
                "속도", "自适应引导", "自动CFG", "加速",
            ],
            has_intermediate_output=True,
            inputs=[
                io.Model.Input("model", tooltip="The MODEL to steer."),
                io.Combo.Input("method", options=[STOP, FEEDBACK], tooltip=METHOD_TOOLTIP),
                *shown_for("method", [STOP], similarity),
                *shown_for("method", [FEEDBACK], max_weight),
                *interval_inputs(),
                *shown_for("method", [FEEDBACK], pi, t0, t1),
                io.Model.Input("guide_model", optional=True, lazy=True, tooltip=GUIDE_TOOLTIP),
                io.Conditioning.Input(
                    "guide_positive", optional=True,
                    tooltip="The prompt for guide_model. Leave open for the sampler's positive.",
                ),
                *shown_for("method", [FEEDBACK], reuse),
            ],
            outputs=[io.Model.Output(tooltip="The MODEL with a weight that chooses itself.")],
        )  # fmt: skip

    @classmethod
    def check_lazy_status(cls, method, max_weight, **others):
        wanted = method == FEEDBACK and not is_one(max_weight) and others.get("guide_model", True) is None
        return ["guide_model"] if wanted else []

    @classmethod
    def execute(
        cls, model, method, similarity, max_weight, unit, start, end, pi, t0, t1, reuse, schedule=None,
        guide_model: Any = None, guide_positive=None,
    ) -> io.NodeOutput:
        where = schedule_of(unit, start, end, schedule)
        if method == STOP:
            out = with_rule(model, AdaptiveStop(similarity, where))
        elif guide_model is None:
            out = with_rule(model, Feedback(max_weight, pi, t0, t1, where))
        else:
            rule = FeedbackAutoguidance(max_weight, pi, t0, t1, where, reuse=reuse)
            out = with_autoguidance(model, guide_model, rule, guide_positive)
        return io.NodeOutput(out, ui=curve(model, out))


METHOD_TOOLTIP = (
    "stop when alike: CFG at the sampler's cfg (or CFG Combine's) until both prompts give the same picture; from then "
    "on the negative prompt is not evaluated. feedback: a weight of its own in place of the sampler's cfg, which rises "
    "while the picture does not show the prompt and falls when it does (FBG)."
)
GUIDE_TOOLTIP = (
    "For feedback: a weaker version of the model (Degraded Model, an earlier checkpoint) in the place of the negative "
    "prompt, as in Autoguidance; the sampler's cfg then stays as it is. Leave open for CFG. Not loaded for stop when "
    "alike."
)


NODES: list[type[io.ComfyNode]] = [GuidanceAdaptiveWeight]
