"""Nodes that load guides, and that let several take turns by noise level."""

from __future__ import annotations

from comfy_api.latest import io

from ..host.common.errors import user_error
from ..host.common.labels import CLASSES, told
from ..host.engine.page_events import expert_curve
from ..host.models.expert_switch import (
    DEFAULT_EDGES,
    EDGES_FROM,
    SCHEDULES,
    SIGMA,
    SNR,
    TIMESTEPS,
    edges_problem,
    expert_switch,
)
from ..host.models.guides import (
    NONE,
    backbone_names,
    classes_of,
    embedded_classes,
    file_names,
    fingerprint,
    guide_names,
    guide_problem,
    load_guide,
    name_over,
)  # fmt: skip
from ..host.schema.inputs import GuideSocket
from ..host.schema.validation import validation
from ..host.schema.visibility import shown_for

MOST = 16


@validation(guide_problem, "name", "clip")
class GuidanceLoadGuide(io.ComfyNode):
    """A network whose gradient steers."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="GuidanceLoadGuide",
            display_name="Load Guide",
            category="guidance",
            description="Loads a network that judges pictures: a classifier, a depth or segmentation network, CLIP or "
            "SigLIP, an aesthetic score, a face. Classifier Guidance and Loss Guidance steer the sampler by its "
            "gradient.",
            search_aliases=[
                "classifier", "load classifier", "guide network", "clip guidance", "depth", "segmentation", "aesthetic",
                "pickscore", "hps", "reward", "arcface", "face",
            ],
            has_intermediate_output=True,
            inputs=[
                io.Combo.Input(
                    "name", options=guide_names(),
                    tooltip="The shapes ones are embedded. Others lie in models/guides: a transformers folder "
                    "(config.json, preprocessor_config.json, model.safetensors), ADM's noisy classifiers as they are "
                    "(256x256_classifier.pt), or a torchvision state dict as .safetensors whose metadata name its "
                    "architecture, an aesthetic head, an ArcFace network for faces, MiDaS small, or a bank of Train "
                    "Experts. A .pt or .pth is read as tensors only; other pickles (.bin) are not opened.",
                    extra_dict={CLASSES: embedded_classes()},
                ),
                *shown_for(
                    "name", file_names(),
                    io.Combo.Input(
                        "clip", options=backbone_names(), default=NONE, optional=True,
                        tooltip="For an aesthetic head: the CLIP folder in models/guides whose features it reads, the "
                        "one that it was trained on. none for all other guides, which are whole networks.",
                    ),
                ),
            ],
            outputs=[GuideSocket.Output(display_name="guide", tooltip="For any guide input.")],
        )

    @classmethod
    def fingerprint_inputs(cls, name, clip=NONE):
        return fingerprint(name_over(name, clip))

    @classmethod
    @user_error()
    def execute(cls, name, clip=NONE) -> io.NodeOutput:
        guide = load_guide(name_over(name, clip))
        return io.NodeOutput(guide, ui=told(name, classes_of(guide)))


def switch_inputs() -> list[io.Input]:
    guide = GuideSocket.Input("guide", tooltip="The next guide, for noisier pictures than the one above it.")
    return [
        io.Autogrow.Input(
            "guides", template=io.Autogrow.TemplatePrefix(guide, prefix="guide", min=2, max=MOST),
            tooltip="The guides, from the one for the cleanest pictures to the one for the noisiest. They must "
            "do the same task with the same labels.",
        ),
        io.Combo.Input(
            "edges_from", options=EDGES_FROM,
            tooltip="A schedule's name: its timesteps are divided equally, as in PPAP (own schedule: that of "
            "the first guide that was trained on noise). timesteps, sigma, snr: what the numbers in edges are.",
        ),
        *shown_for(
            "edges_from", [TIMESTEPS, SIGMA, SNR],
            io.String.Input(
                "edges", default=DEFAULT_EDGES,
                tooltip="For edges_from = timesteps, sigma or snr: where one guide hands over to the next, from "
                "clean to noisy, with commas, one number fewer than guides. The noisier guide is in charge at the "
                "edge itself. sigma is that of x0 + sigma * noise; snr is 1 / sigma^2.",
            ),
        ),
        *shown_for(
            "edges_from", [TIMESTEPS],
            io.Combo.Input(
                "schedule", options=SCHEDULES,
                tooltip="For edges_from = timesteps: the schedule that counts them.",
            ),
        ),
        io.Float.Input(
            "handover", default=0.0, min=0.0, max=10.0, step=0.05, round=0.001, advanced=True,
            tooltip="Width in ln sigma over which one guide passes to the next; both are asked there. 0 = at "
            "once, as in PPAP.",
        ),
    ]


def switch_problem(guides: dict | None, *widgets) -> str | None:
    """What is wrong with the edges between so many guides, in words; None if nothing is."""
    return edges_problem(len(guides) if guides else None, *widgets)


@validation(switch_problem, "guides", "edges_from", "edges", "schedule", "handover")
class GuidanceExpertSwitch(io.ComfyNode):
    """Several guides as one, each for its own noise levels."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="GuidanceExpertSwitch",
            display_name="Expert Switch",
            category="guidance",
            description="Several guides take turns by noise level (PPAP, 2212.05973): only the one in charge of a "
            "picture's noise level is asked. The first guide is in charge of the cleanest pictures.",
            search_aliases=["experts", "ppap", "multi expert", "switch guides", "mixture of experts"],
            has_intermediate_output=True,
            inputs=switch_inputs(),
            outputs=[GuideSocket.Output(display_name="guide", tooltip="All of them, as one guide.")],
        )

    @classmethod
    def execute(cls, guides, edges_from, edges, schedule, handover) -> io.NodeOutput:
        guide = expert_switch(list(guides.values()), edges_from, edges, schedule, handover)
        return io.NodeOutput(guide, ui=expert_curve(guide))


NODES: list[type[io.ComfyNode]] = [GuidanceLoadGuide, GuidanceExpertSwitch]
