"""Nodes that give pictures to train on: made by the model itself, or the user's own."""

from __future__ import annotations

from comfy_api.latest import io

from ..host.common.page_pictures import show_pictures
from ..host.report.report import scheduler_names
from ..host.schema.inputs import PicturesSocket
from ..host.schema.validation import validation
from ..host.training.generate import Drawing, make_pictures, sampler_names, set_fingerprint, set_name_problem
from ..host.training.pictures import folder_fingerprint, folder_names, folder_problem, load_pictures


def _outputs() -> list[io.Output]:
    return [
        PicturesSocket.Output(display_name="pictures", tooltip="For Train Experts. They stay on disk until needed."),
        io.Image.Output(display_name="preview", tooltip="The first eight."),
    ]


def _size_inputs(what: str) -> list[io.Input]:
    return [
        io.Int.Input("width", default=512, min=8, max=16384, step=8, tooltip=f"{what} width, in pixels."),
        io.Int.Input("height", default=512, min=8, max=16384, step=8, tooltip=f"{what} height, in pixels."),
    ]


@validation(set_name_problem, "name")
class GuidanceMakePictures(io.ComfyNode):
    """Training data without data."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="GuidanceMakePictures",
            display_name="Make Pictures",
            category="guidance/train",
            description="Draws a set of pictures with the MODEL itself, for networks to practise on (PPAP). They are "
            "saved in output/guidance/pictures. Stop it when you like: it goes on where it was.",
            search_aliases=["dataset", "generate dataset", "training pictures", "ppap", "batch generate", "synthetic"],
            inputs=[
                io.Model.Input("model", tooltip="The MODEL that is to be guided later. Its guidance is used, if any."),
                io.Conditioning.Input(
                    "positive", optional=True,
                    tooltip="Not needed for the tiny model, ADM, EDM2 and GLIDE: unconditional pictures. For other "
                    "text-to-image models a prompt, or CLIP Text Encode with an empty text. Several classes are dealt "
                    "in turn.",
                ),
                io.Conditioning.Input("negative", optional=True, tooltip="Needed only if cfg is not 1."),
                io.Vae.Input(
                    "vae", optional=True, tooltip="For models that work on latents. Not used by models of pixels."
                ),
                *_set_inputs(),
                *_size_inputs("The pictures'"),
                *_sampler_inputs(),
            ],
            outputs=_outputs(),
            is_output_node=True,
        )

    @classmethod
    def fingerprint_inputs(cls, name=None, **kwargs):
        return None if name is None else set_fingerprint(name)

    @classmethod
    def execute(
        cls, model, name, count, batch_size, positive=None, negative=None, vae=None, **drawing
    ) -> io.NodeOutput:
        made = make_pictures(model, positive, negative, vae, name, count, batch_size, Drawing(**drawing))
        shown = made.first()
        return io.NodeOutput(made, shown, ui=show_pictures(shown, cls))


@validation(folder_problem, "folder")
class GuidanceLoadPictures(io.ComfyNode):
    """A folder of pictures to train on."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="GuidanceLoadPictures",
            display_name="Load Pictures",
            category="guidance/train",
            description="A folder of your own pictures to train on, from ComfyUI's input folder, or a set that Make "
            "Pictures made. Sub-folders are classes.",
            search_aliases=["dataset", "load folder", "image folder", "training pictures"],
            inputs=[
                io.Combo.Input(
                    "folder", options=folder_names(),
                    tooltip="A folder inside ComfyUI's input folder, or a set that Make Pictures made. jpg, png and "
                    "webp, those of sub-folders too. Press R to renew the list.",
                ),
                *_size_inputs("Every picture is cut to this shape around its middle, and resized:"),
            ],
            outputs=_outputs(),
        )

    @classmethod
    def fingerprint_inputs(cls, folder=None, **kwargs):
        return None if folder is None or folder_problem(folder) else folder_fingerprint(folder)

    @classmethod
    def execute(cls, folder, width, height) -> io.NodeOutput:
        loaded = load_pictures(folder, height, width)
        shown = loaded.first()
        return io.NodeOutput(loaded, shown, ui=show_pictures(shown, cls))


def _set_inputs() -> list[io.Input]:
    return [
        io.String.Input(
            "name", default="pictures",
            tooltip="The folder in output/guidance/pictures. The same settings go on with what is there; other "
            "settings need another name.",
        ),
        io.Int.Input(
            "count", default=1000, min=1, max=1_000_000,
            tooltip="How many. Thousands for real training: PPAP made 500000. It may be raised later.",
        ),
        io.Int.Input(
            "batch_size", default=8, min=1, max=4096,
            tooltip="How many at once: only speed and memory. A picture is the same in any batch.",
        ),
    ]


def _sampler_inputs() -> list[io.Input]:
    return [
        io.Int.Input("steps", default=25, min=1, max=10000, tooltip="The sampler's steps. PPAP: 25."),
        io.Float.Input(
            "cfg", default=1.0, min=0.0, max=100.0, step=0.1, round=0.01,
            tooltip="1 = without classifier-free guidance, so no negative is needed.",
        ),
        io.Combo.Input("sampler_name", options=sampler_names(), default="ddim", tooltip="PPAP: ddim."),
        io.Combo.Input("scheduler", options=scheduler_names(), tooltip="The noise levels of the steps."),
        io.Int.Input(
            "seed", default=0, min=0, max=0xFFFFFFFFFFFFFFFF, control_after_generate=False,
            tooltip="Picture i depends on the seed and on i alone.",
        ),
    ]


NODES: list[type[io.ComfyNode]] = [GuidanceMakePictures, GuidanceLoadPictures]
