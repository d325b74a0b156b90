"""The node for negative prompts of models that are evaluated once."""

from __future__ import annotations

from comfy_api.latest import io

from ..guidance.negative_attention import NegativeAttention
from ..host.engine.install import with_negative_attention
from ..host.engine.page_events import curve
from ..host.schema.inputs import inputs_of, interval_inputs, interval_validation, schedule_of


@interval_validation
class GuidanceNegativeAttention(io.ComfyNode):
    """A negative prompt in the attention of the network: normalised attention guidance."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="GuidanceNegativeAttention",
            display_name="Negative in Attention (NAG)",
            category="guidance",
            description="A negative prompt for fast models at cfg 1 (Turbo, Lightning, Schnell, distilled): it works "
            "inside the network's attention. One evaluation per step stays one; also beside CFG.",
            search_aliases=[
                "nag", "normalized attention guidance", "negative prompt", "cfg 1", "turbo", "lightning", "schnell",
                "distilled", "lcm", "few steps", "flux negative", "wan negative", "qwen negative", "부정 프롬프트",
                "네거티브", "负面提示词", "蒸馏模型",
            ],
            has_intermediate_output=True,
            inputs=[
                io.Model.Input("model", tooltip="The MODEL to steer."),
                *inputs_of(NegativeAttention),
                *interval_inputs(),
                io.Conditioning.Input("negative", optional=True, tooltip=NEGATIVE_TOOLTIP),
            ],
            outputs=[io.Model.Output(tooltip="The MODEL with a negative prompt in its attention.")],
        )  # fmt: skip

    @classmethod
    def execute(cls, model, weight, tau, alpha, unit, start, end, schedule=None, negative=None) -> io.NodeOutput:
        rule = NegativeAttention(weight, tau, alpha, schedule_of(unit, start, end, schedule))
        out = with_negative_attention(model, rule, negative)
        return io.NodeOutput(out, ui=curve(model, out))


NEGATIVE_TOOLTIP = (
    "The prompt to stay away from. Leave open for the sampler's negative, which counts at cfg 1 too; guiders without a "
    "negative (BasicGuider) need it here."
)


NODES: list[type[io.ComfyNode]] = [GuidanceNegativeAttention]
