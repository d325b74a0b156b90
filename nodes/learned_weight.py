"""The nodes of weights that are learned for a model: what trains them, and what uses them."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io

from ..guidance.learned import LearnedRule
from ..guidance.rules.autoguidance import Autoguidance
from ..guidance.rules.cfg import CFG
from ..guidance.rules.learned_autoguidance import LearnedAutoguidance
from ..guidance.rules.learned_weight import LearnedWeight
from ..host.common.errors import user_error
from ..host.common.page_pictures import show_pictures
from ..host.common.remarks import remark
from ..host.engine.install import with_autoguidance, with_rule
from ..host.engine.page_events import curve
from ..host.models.guidance_weights import load_weights, weights_file_problem, weights_fingerprint, weights_names
from ..host.schema.inputs import (
    GuideSocket,
    PicturesSocket,
    WeightsSocket,
    interval_inputs,
    interval_problem,
    schedule_of,
    words_of,
)
from ..host.schema.validation import validation
from ..host.training.learn import (
    OBJECTIVES,
    WeightsRequest,
    recipe_of_weights,
    run_training,
    training_problem,
    weights_plot,
)


def learned_problem(file, unit, start, end):
    """What is wrong with the widgets of Learned Weight, in words."""
    return interval_problem(unit, start, end) or (weights_file_problem(file) if file is not None else None)


@validation(learned_problem, "file", "unit", "start", "end")
class GuidanceLearnedWeight(io.ComfyNode):
    """CFG, and autoguidance, with weights that were learned for the model."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="GuidanceLearnedWeight",
            display_name="Learned Weight",
            category="guidance",
            description="CFG with a weight that Train Guidance has learned for this model: another one at every step "
            "and for every picture. With a weaker model connected, autoguidance with a learned weight too.",
            search_aliases=[
                "learned cfg", "learned guidance", "learn to guide", "dynamic cfg", "cfg schedule", "auto cfg",
                "annealing guidance", "학습된 가이던스", "자동 cfg", "学习引导", "自动CFG",
            ],
            has_intermediate_output=True,
            inputs=[
                io.Model.Input("model", tooltip="The MODEL to steer: the one that the weights were learned for."),
                io.Combo.Input(
                    "file", options=weights_names(),
                    tooltip="A file of Train Guidance, from models/guidance_weights. shapes-weights belongs to the "
                    "Tiny Model. Press R to renew the list.",
                ),
                io.Float.Input(
                    "strength", default=1.0, min=0.0, max=2.0, step=0.05, round=0.001,
                    tooltip=words_of(LearnedRule, "amount"),
                ),
                *interval_inputs(),
                WeightsSocket.Input(
                    "weights", optional=True, tooltip="From Train Guidance, in place of a file."
                ),
                io.Model.Input("guide_model", optional=True, lazy=True, tooltip=GUIDE_TOOLTIP),
                io.Conditioning.Input(
                    "guide_positive", optional=True,
                    tooltip="The prompt for guide_model. Leave open for the sampler's positive.",
                ),
            ],
            outputs=[io.Model.Output(tooltip="The MODEL with the learned weights.")],
        )  # fmt: skip

    @classmethod
    def fingerprint_inputs(cls, file=None, **kwargs):
        return None if file is None or weights_file_problem(file) else weights_fingerprint(file)

    @classmethod
    def check_lazy_status(cls, **given):
        return ["guide_model"] if given.get("guide_model", True) is None else []

    @classmethod
    @user_error()
    def execute(
        cls, model, file, strength, unit, start, end, schedule=None, weights: Any = None, guide_model: Any = None,
        guide_positive=None,
    ) -> io.NodeOutput:
        where = schedule_of(unit, start, end, schedule)
        found = load_weights(file) if weights is None else weights
        out = with_rule(model, CFG(found.cfg.constant, where))
        out = with_rule(out, LearnedWeight(strength, where, found.cfg))
        if guide_model is not None:
            if found.autoguidance is None:
                raise ValueError(
                    "These weights were learned without a guide_model, so there is none for autoguidance among them. "
                    "Connect the weaker model to Train Guidance too, or leave guide_model open and add Autoguidance."
                )
            constant = Autoguidance(found.autoguidance.constant, where)
            out = with_autoguidance(out, guide_model, constant, guide_positive)
            learned = LearnedAutoguidance(strength, where, found.autoguidance)
            out = with_autoguidance(out, guide_model, learned, guide_positive)
        if found.cfg.shown_for:
            remark(f"The curve is {found.cfg.shown_for}; in a run each picture has its own.")
        return io.NodeOutput(out, ui=curve(model, out))


@validation(training_problem, "name", "particles", "objective")
class GuidanceTrainGuidance(io.ComfyNode):
    """Learning when to guide, and how much."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="GuidanceTrainGuidance",
            display_name="Train Guidance",
            category="guidance/train",
            description="Learns how much CFG this MODEL needs at each noise level and for each picture: so that its "
            "guided steps land where your pictures, with that much noise, lie (2510.00815). The MODEL is not changed; "
            "a tiny file in models/guidance_weights is, for Learned Weight.",
            search_aliases=["learn guidance", "learn cfg", "learn to guide", "train cfg", "guidance weights", "mmd"],
            inputs=[*_wires(), *_main_inputs(), *_more_inputs(), *_optional_wires(), _by_prompt_input()],
            outputs=[
                WeightsSocket.Output(display_name="weights", tooltip="For Learned Weight."),
                io.Image.Output(display_name="curve", tooltip="The weights over noise, beside the constant."),
            ],
            hidden=[io.Hidden.prompt, io.Hidden.extra_pnginfo],
            is_output_node=True,
        )

    @classmethod
    @user_error()
    def execute(
        cls, model, pictures, name, positive=None, negative=None, vae=None, guide_model=None, guide_positive=None,
        reward_guide=None, **settings,
    ) -> io.NodeOutput:  # fmt: skip
        recipe = recipe_of_weights(settings, guide_model is not None)
        request = WeightsRequest(
            model, pictures, name, recipe, positive, negative, vae, guide_model, guide_positive, reward_guide
        )
        trained = run_training(request, (cls.hidden.extra_pnginfo or {}).get("workflow"), cls.hidden.prompt)
        plot = weights_plot(model, trained)
        return io.NodeOutput(trained, plot, ui=show_pictures(plot, cls))


def _wires() -> list[io.Input]:
    return [
        io.Model.Input("model", tooltip="The MODEL that is to be guided, bare of components. It stays as it is."),
        PicturesSocket.Input(
            "pictures", tooltip="What good pictures look like: your own are best (Load Pictures; sub-folders named as "
            "the model's classes give the classes). Pictures that the model made teach it how it was guided then."
        ),
        io.String.Input(
            "name", default="weights",
            tooltip="The file in models/guidance_weights. A training that was stopped goes on under its name; a "
            "finished one of the same settings is loaded, one of other settings is left alone.",
        ),
    ]


def _main_inputs() -> list[io.Input]:
    return [
        io.Int.Input("iterations", default=300, min=1, max=1_000_000, tooltip="Steps of the training."),
        io.Int.Input(
            "batch_size", default=8, min=1, max=1024,
            tooltip="Pictures per step. Each costs two evaluations per particle, three with a guide_model.",
        ),
        io.Float.Input(
            "weight", default=2.0, min=0.0, max=100.0, step=0.1, round=0.001,
            tooltip="The constant weight of CFG that the training begins with. Learned Weight with strength 0 is this.",
        ),
        io.Combo.Input(
            "objective", options=OBJECTIVES,
            tooltip="How guided steps are compared with pictures. mmd: as distributions (an energy distance), the "
            "paper's. l2: the mean squared distance; needs no more than one particle.",
        ),
        io.Int.Input(
            "seed", default=0, min=0, max=0xFFFFFFFF, control_after_generate=False,
            tooltip="The same seed, settings, model and pictures give the same weights.",
        ),
    ]


def _more_inputs() -> list[io.Input]:
    return [
        io.Float.Input(
            "guide_weight", default=2.0, min=0.0, max=20.0, step=0.05, round=0.001, advanced=True,
            tooltip="With a guide_model: the constant weight of autoguidance that the training begins with.",
        ),
        io.Float.Input(
            "reward", default=0.0, min=0.0, max=1000.0, step=0.1, round=0.001, advanced=True,
            tooltip="With a reward_guide: how much its opinion counts beside the pictures. 0 = not at all.",
        ),
        io.Float.Input(
            "learning_rate", default=0.01, min=0.000001, max=1.0, step=0.001, round=0.000001, advanced=True,
            tooltip="At the first step; it falls straight to 0.",
        ),
        io.Int.Input(
            "particles", default=4, min=1, max=64, advanced=True,
            tooltip="Noises of every picture in a step. mmd needs two or more; the paper found no gain above 4.",
        ),
        io.Float.Input(
            "least_step", default=0.1, min=0.001, max=0.9, step=0.01, round=0.001, advanced=True,
            tooltip="How far a guided step goes at least, as a share of the noise schedule. The paper found 0.1 "
            "better than the small steps of a sampler.",
        ),
        io.Float.Input(
            "reach", default=4.0, min=0.01, max=100.0, step=0.5, round=0.01, advanced=True,
            tooltip="By how much a weight may leave the constant, up or down; never below 0.",
        ),
        io.Int.Input(
            "width", default=32, min=1, max=1024, advanced=True,
            tooltip="Of the small network. Larger has hardly been worth it, says the paper.",
        ),
    ]


def _optional_wires() -> list[io.Input]:
    return [
        io.Conditioning.Input(
            "positive", optional=True,
            tooltip="The pictures' prompt; several classes or prompts as one: the first belongs to the first picture "
            "or folder, and so on in turn. Not needed where folders are named as the model's classes.",
        ),
        io.Conditioning.Input(
            "negative", optional=True, tooltip="What CFG leads away from. Not needed for models of classes."
        ),
        io.Vae.Input("vae", optional=True, tooltip="For models that work on latents. Not used by models of pixels."),
        io.Model.Input(
            "guide_model", optional=True,
            tooltip="A weaker version of the model: the weight of autoguidance by it is learned too.",
        ),
        io.Conditioning.Input(
            "guide_positive", optional=True,
            tooltip="The prompt for guide_model. Leave open for the same as the model's.",
        ),
        GuideSocket.Input(
            "reward_guide", optional=True,
            tooltip="Any guide of clean pictures (Load Guide): what it says of a guided estimate shall be what it says "
            "of the picture itself. Latents are seen in linear RGB. Used where reward is above 0.",
        ),
    ]


def _by_prompt_input() -> io.Input:
    return io.Boolean.Input(
        "by_prompt", default=False, optional=True,
        tooltip="Let the weights differ between classes (Class Label, or folders named as classes) or prompts (by the "
        "pooled vector of the text encoder) too. Needs pictures of each; then the weights are for such prompts.",
    )


GUIDE_TOOLTIP = (
    "The weaker model that the weights were trained with (Degraded Model, an earlier checkpoint), for autoguidance "
    "with a learned weight. Leave open for CFG alone."
)


NODES: list[type[io.ComfyNode]] = [GuidanceLearnedWeight, GuidanceTrainGuidance]
