"""The node for training: how much each noise level counts in the loss."""

from __future__ import annotations

from comfy_api.latest import io

from ..host.engine.page_events import weighting_curve
from ..host.schema.validation import validation
from ..host.schema.visibility import shown_for
from ..host.training.loss_weighting import WEIGHTINGS, LossWeighting, plot, weight_named, with_loss_weighting


@validation()
class GuidanceLossWeighting(io.ComfyNode):
    """P2, min-SNR or another target's loss for ComfyUI's own Train LoRA."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="GuidanceLossWeighting",
            display_name="Loss Weighting (P2)",
            category="guidance/train",
            description="Makes Train LoRA count noise levels as P2, min-SNR or another loss does: put it before Train "
            "LoRA. Sampling through the MODEL stays as it is, bit for bit.",
            search_aliases=["p2 weighting", "min-snr", "loss weight", "train lora", "perception prioritized", "snr"],
            has_intermediate_output=True,
            inputs=[
                io.Model.Input("model", tooltip="The MODEL to train. Connect the output to Train LoRA."),
                io.Combo.Input(
                    "weighting", options=WEIGHTINGS,
                    tooltip="p2: the eps-loss, less where little noise is left (k, gamma). min-SNR: the eps-loss, "
                    "limited the same way by min_snr_gamma. x0: ComfyUI's own loss, which counts noise most. eps, v, "
                    "flow: the plain loss on that target, whatever the model predicts.",
                ),
                *_strengths(),
                io.Boolean.Input(
                    "normalise", default=True,
                    tooltip="Multiply all weights by one constant, so that a learning rate that suits Train LoRA alone "
                    "suits it still. Off: the papers' weights as they are.",
                ),
            ],
            outputs=[
                io.Model.Output(tooltip="The MODEL for Train LoRA."),
                io.Image.Output(
                    display_name="plot",
                    tooltip="How the training divides its attention over the noise levels, beside ComfyUI's own.",
                ),
            ],
        )

    @classmethod
    def execute(cls, model, weighting, k, gamma, min_snr_gamma, normalise) -> io.NodeOutput:
        weight = weight_named(weighting, k, gamma, min_snr_gamma)
        chosen = LossWeighting(weight, normalise)
        out = with_loss_weighting(model, chosen)
        words = {"p2": f"p2, k {k:g}, gamma {gamma:g}", "min-SNR": f"min-SNR, gamma {min_snr_gamma:g}"}
        picture = plot(out, chosen, words.get(weighting, f"plain {weighting}"))
        return io.NodeOutput(out, picture, ui=weighting_curve(out, weight))


def _strengths() -> list[io.Input]:
    """The numbers of p2 and min-SNR."""
    return [
        *shown_for(
            "weighting", ["p2"],
            io.Float.Input(
                "k", default=1.0, min=0.001, max=1000.0, step=0.1, round=0.001, advanced=True,
                tooltip="For p2: the signal-to-noise ratio above which weights fall. The paper: 1.",
            ),
            io.Float.Input(
                "gamma", default=1.0, min=0.0, max=10.0, step=0.1, round=0.001,
                tooltip="For p2: how strongly weights fall towards clean pictures. 0 = the plain eps-loss. The "
                "paper: 0.5 or 1.",
            ),
        ),
        *shown_for(
            "weighting", ["min-SNR"],
            io.Float.Input(
                "min_snr_gamma", default=5.0, min=0.001, max=1000.0, step=0.5, round=0.001,
                tooltip="For min-SNR: the signal-to-noise ratio above which x0 counts no more. The paper: 5.",
            ),
        ),
    ]


NODES: list[type[io.ComfyNode]] = [GuidanceLossWeighting]
