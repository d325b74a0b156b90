"""The nodes that find settings by themselves, and that take settings up again."""

from __future__ import annotations

from comfy_api.latest import io, ui

from ..guidance.tuning.guards import Limits
from ..host.common.page_pictures import show_pictures
from ..host.common.remarks import remark
from ..host.compare.compare import Scene
from ..host.compare.settings import Settings
from ..host.schema.inputs import GuideSocket, PicturesSocket, inputs_of
from ..host.schema.validation import validation
from ..host.tuning.problem import MOST_GOALS, Effort
from ..host.tuning.recipes import apply_recipe, parse_recipe, recipe_problem
from ..host.tuning.space import space_problem
from ..host.tuning.task import MEASURE_CHOICES, NONE, Aim, study_problem, tune_guidance
from .compare import models_input, sampler_inputs

MOST_PROMPTS = 16


def tuning_problem(vary: str | None, study: str | None) -> str | None:
    """What is wrong with the texts, in words; None if nothing is that can be told without the MODEL."""
    return space_problem(vary) or study_problem(study)


@validation(tuning_problem, "vary", "study")
class GuidanceTune(io.ComfyNode):
    """Searches for the settings of components."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="GuidanceTune",
            display_name="Tune Guidance",
            category="guidance/look",
            description="Finds weights, intervals and other settings for your model and prompts: tries them from the "
            "same noise, lets guides judge, and checks the winner on new seeds. Interrupted, it keeps every run. Needs "
            "Optuna.",
            search_aliases=["auto tune", "optimise", "optimize", "best settings", "optuna", "hyperparameter", "search"],
            is_output_node=True,
            inputs=[
                *_scene_inputs(), *_aim_inputs(), *_search_inputs(), *sampler_inputs(), *inputs_of(Limits),
                _size_input(), _minutes_input(),
                models_input(
                    "More MODELs to choose among, with a line model in vary. What else varies must be on each."
                ),
                *_set_inputs(),
            ],
            outputs=[
                io.Model.Output(tooltip="The MODEL with the best settings; as it came if none is surely better."),
                io.String.Output(display_name="recipe", tooltip="The settings as JSON, for Load Recipe."),
                io.String.Output(display_name="report", tooltip="The verdict and all that was tried, in Markdown."),
                io.Image.Output(display_name="plot", tooltip="What each parameter does, with the seeds' spread."),
                io.Image.Output(display_name="strip", tooltip="Best, as it came, unguided: from the same new seeds."),
            ],
        )

    @classmethod
    def execute(
        cls, model, positive, negative, latent_image, vae, guide, label, text, vary, budget, seeds, new_seeds, study,
        saturation, contrast, clipping, variety, cell_size, minutes, positives=None, guides=None, target=None,
        models=None, pictures=None, set_measure=NONE, **sampler,
    ) -> io.NodeOutput:
        prompts = (positive, *(positives or {}).values())
        candidates = (model, *(models or {}).values())
        scenes = [Scene(candidates, prompt, negative, latent_image, vae) for prompt in prompts]
        aim = Aim((guide, *(guides or {}).values()), label, text, target, pictures, set_measure)
        limits = Limits(saturation, contrast, clipping, variety)
        first, effort = Settings(0, (), **sampler), Effort(seeds, new_seeds, budget, minutes)
        made = tune_guidance(scenes, first, vary, aim, limits, effort, study, cell_size)
        pictures = [show_pictures(picture, cls) for picture in (made.strip, made.plot)]
        shown = {**pictures[0], "images": [image for found in pictures for image in found["images"]]}
        shown |= ui.PreviewText(made.words).as_dict()
        return io.NodeOutput(made.model, made.recipe, made.report, made.plot, made.strip, ui=shown)


@validation(recipe_problem, "recipe")
class GuidanceLoadRecipe(io.ComfyNode):
    """Puts the settings of a recipe on a MODEL."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="GuidanceLoadRecipe",
            display_name="Load Recipe",
            category="guidance",
            description="Gives the components of a MODEL the settings of a recipe: of Tune Guidance, or of a diffusers "
            "guider (guider_config.json).",
            search_aliases=["preset", "settings", "import settings", "guider config", "diffusers guider"],
            hidden=[io.Hidden.extra_pnginfo],
            inputs=[
                io.Model.Input("model", tooltip="The MODEL. Components that need a network must be on it already."),
                io.String.Input(
                    "recipe", default="", multiline=True,
                    tooltip="The JSON text: what Tune Guidance gave as recipe, or a diffusers guider_config.json.",
                ),
            ],
            outputs=[
                io.Model.Output(tooltip="The MODEL with these settings."),
                io.Float.Output(display_name="cfg", tooltip="The recipe's cfg for the sampler; 1 if it has none."),
                io.Int.Output(display_name="steps", tooltip="The recipe's steps for the sampler; 20 if it has none."),
                io.String.Output(display_name="text", tooltip="What was set, added and left out."),
            ],
        )

    @classmethod
    def execute(cls, model, recipe) -> io.NodeOutput:
        found = parse_recipe(recipe)
        made = apply_recipe(model, found)
        if found.notes:
            remark(found.notes[0])
        if cls.hidden is not None and isinstance(cls.hidden.extra_pnginfo, dict):
            cls.hidden.extra_pnginfo["guidance_recipe"] = found.as_json()
        sampler = found.sampler
        return io.NodeOutput(made.model, float(sampler.get("cfg", 1.0)), int(sampler.get("steps", 20)), made.words)


def _scene_inputs() -> list[io.Input]:
    another = io.Conditioning.Input("positive", tooltip="Another prompt.")
    names = [f"positive_{number}" for number in range(2, MOST_PROMPTS + 1)]
    return [
        io.Model.Input("model", tooltip="The MODEL with the components whose settings are searched."),
        io.Conditioning.Input("positive", tooltip="The prompt."),
        io.Autogrow.Input(
            "positives", template=io.Autogrow.TemplateNames(another, names=names, min=0),
            tooltip="More prompts, so that settings are not fitted to one. Runs take them in turn; seeds should be at "
            "least as many.",
        ),
        io.Conditioning.Input("negative", tooltip="The negative prompt. Evaluated only where CFG asks for it."),
        io.Latent.Input(
            "latent_image", tooltip="Empty latents of the size you want. A batch gives several pictures per run, so "
            "that fewer runs tell settings apart.",
        ),
        io.Vae.Input("vae", tooltip="Decodes the pictures."),
    ]


def _aim_inputs() -> list[io.Input]:
    another = GuideSocket.Input("guide", tooltip="Another judge.")
    names = [f"guide_{number}" for number in range(2, MOST_GOALS + 1)]
    return [
        GuideSocket.Input(
            "guide", tooltip="The network that judges the pictures (Load Guide): a classifier, depth, segmentation, or "
            "CLIP/SigLIP. Not the one that steers.",
        ),
        io.Autogrow.Input(
            "guides", template=io.Autogrow.TemplateNames(another, names=names, min=0),
            tooltip="More judges. Then the report has the front: settings than which none is better for all judges.",
        ),
        io.Image.Input(
            "target", optional=True, tooltip="For depth, segmentation and embeddings: the picture to agree with."
        ),
        io.String.Input(
            "label", default="", multiline=True,
            tooltip="For a classifier: the classes asked for, as in Class Label. One line for all, or one a prompt.",
        ),
        io.String.Input(
            "text", default="", multiline=True,
            tooltip="For CLIP or SigLIP: what the pictures should show. One line for all prompts, or one for each.",
        ),
    ]


def _search_inputs() -> list[io.Input]:
    return [
        io.String.Input(
            "vary", default="cfg weight", multiline=True,
            tooltip="What may change, a line each, named as in Compare Guidance: cfg weight (usual range), cfg "
            "weight: 1 .. 8, classifier scale: 0.5 .. 32 log, steps: 10, 20, cfg interval, shape rule: fdg, tag, model."
            " autoguidance 2 weight: that of the second.",
        ),
        io.Int.Input(
            "budget", default=4000, min=1, max=100_000_000,
            tooltip="Evaluations of networks in all, the check included; one for a whole batch. A run of 20 steps with "
            "CFG takes 40. Raise it and queue again: the search goes on.",
        ),
        io.Int.Input("seeds", default=4, min=2, max=64, tooltip="Runs of each setting that is not stopped early."),
        io.Int.Input(
            "new_seeds", default=8, min=2, max=256,
            tooltip="Runs for the check: the winner against the settings as they came, on seeds not seen before.",
        ),
        io.String.Input(
            "study", default="tuning",
            tooltip="Where runs are kept: a file of this name in output/guidance/studies, or a database that several "
            "servers share, such as sqlite:////data/studies.db.",
        ),
    ]


def _set_inputs() -> list[io.Input]:
    return [
        PicturesSocket.Input(
            "pictures", optional=True,
            tooltip="Your own pictures (Load Pictures, in the shape of what is drawn; 32 or more, better hundreds), "
            "for set_measure.",
        ),
        io.Combo.Input(
            "set_measure", options=MEASURE_CHOICES, default=NONE, optional=True,
            tooltip="How guide compares a setting's pictures with yours, as sets, instead of judging each. frechet: "
            "how near they are on the whole. recall: how much of yours they cover. precision: how many lie among "
            "yours. Needs 16 pictures of a setting.",
        ),
    ]


def _size_input() -> io.Input:
    return io.Int.Input(
        "cell_size", default=160, min=16, max=2048, step=8, advanced=True,
        tooltip="Longest side of a picture in the strip, in pixels. Small ones grow by whole factors.",
    )


def _minutes_input() -> io.Input:
    return io.Float.Input(
        "minutes", default=0.0, min=0.0, max=100_000.0, step=1.0, round=0.01,
        tooltip="Of this run at most, the check included, beside budget; 0 = no limit. Queue again to go on.",
    )


NODES: list[type[io.ComfyNode]] = [GuidanceTune, GuidanceLoadRecipe]
