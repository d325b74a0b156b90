"""A weaker version of a MODEL, for Autoguidance without a second file."""

from __future__ import annotations

from comfy_api.latest import io

from ..host.degrade.attention import ATTENTION_KINDS
from ..host.degrade.blocks import BLOCK_KINDS
from ..host.degrade.degrade import INPUT_NOISE, KINDS, degrade, strength_problem
from ..host.degrade.tokens import SHUFFLED
from ..host.schema.validation import validation
from ..host.schema.visibility import shown_for


@validation(strength_problem, "kind", "strength")
class GuidanceDegrade(io.ComfyNode):
    """Make a weaker version of a MODEL of the same weights."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="GuidanceDegrade",
            display_name="Degraded Model",
            category="guidance",
            description="A weaker version of your own MODEL, damaged on purpose while it runs: for guide_model of "
            "Autoguidance when nobody publishes a weaker file. Same weights, no second load.",
            search_aliases=["weak model", "pag", "perturbed attention", "seg", "slg", "skip layer guidance", "stg",
                            "dropout", "s2 guidance", "tpg", "token perturbation", "bad model", "flux cfg"],
            inputs=[
                io.Model.Input("model", tooltip="The MODEL to make a weaker version of. It stays as it is."),
                io.Combo.Input("kind", options=list(KINDS), tooltip=KIND_TOOLTIP),
                io.Float.Input(
                    "strength", default=1.0, min=0.0, max=1.0, step=0.01, round=0.001,
                    tooltip="0 = off. Attention and skipped layers: how much of the change, 1 = all of it. Random "
                    "blocks: the chance of each block. Dropout: the rate. Input noise: by how much the noise level "
                    "rises (0.1 = 10 %). Shuffled tokens: the share that changes places.",
                ),
                *_rare_inputs(),
            ],
            outputs=[io.Model.Output(tooltip="The weaker MODEL, for guide_model of Autoguidance.")],
        )  # fmt: skip

    @classmethod
    def execute(cls, model, kind, strength, layers, seed, blur, pooling) -> io.NodeOutput:
        return io.NodeOutput(degrade(model, kind, strength, layers, seed, blur, pooling))


def _rare_inputs() -> list[io.Input]:
    """What only some kinds read."""
    return [
        *shown_for(
            "kind", [*ATTENTION_KINDS, *BLOCK_KINDS, SHUFFLED],
            io.String.Input(
                "layers", default="", advanced=True,
                tooltip="Which layers, such as: middle, input 4-5 (U-Nets) or double 7-9, single 3 "
                "(transformers). Empty = the usual ones: all for random blocks and dropout, else a U-Net's "
                "middle or an eighth of a transformer's blocks. Not used by input noise.",
            ),
        ),
        *shown_for(
            "kind", ["random blocks", "dropout", INPUT_NOISE, SHUFFLED],
            io.Int.Input(
                "seed", default=0, min=0, max=0xFFFFFFFFFFFFFFFF, control_after_generate=False, advanced=True,
                tooltip="For what is drawn at random: the same seed damages the same way.",
            ),
        ),
        *shown_for(
            "kind", ["blurred attention"],
            io.Float.Input(
                "blur", default=10.0, min=0.1, max=1000.0, step=0.1, round=0.01, advanced=True,
                tooltip="For blurred attention: the blur's width in tokens. 1000 = the average of all.",
            ),
        ),
        *shown_for(
            "kind", ["pooled attention"],
            io.Int.Input(
                "pooling", default=2, min=2, max=16, control_after_generate=False, advanced=True,
                tooltip="For pooled attention: the side of the squares of tokens that become one.",
            ),
        ),
    ]


KIND_TOOLTIP = (
    "identity attention: picture tokens see only themselves (PAG). blurred attention: blurred queries (SEG). pooled "
    "attention: coarse keys and values. skipped layers: left out (SLG, STG). random blocks: others at each step "
    "(S2-Guidance). dropout, input noise: the paper's study; for models that have the same weakness, see the help. "
    "shuffled tokens: the picture's places mixed up (TPG); transformers only."
)


NODES: list[type[io.ComfyNode]] = [GuidanceDegrade]
