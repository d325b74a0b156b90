"""The node that draws a grid over one or two settings."""

from __future__ import annotations

from comfy_api.latest import io

from ..host.common.page_pictures import show_pictures
from ..host.compare.cell_files import cells_name_problem
from ..host.compare.compare import Scene, compare
from ..host.compare.grid import Axis, axes_problem
from ..host.compare.settings import NONE, Settings, parameter_names
from ..host.report.report import scheduler_names
from ..host.schema.validation import validation
from ..host.schema.visibility import shown_for
from ..host.training.generate import sampler_names

MOST_MODELS = 12


def _problem(name: str | None, *axes) -> str | None:
    return cells_name_problem(name) or axes_problem(*axes)


@validation(_problem, "name", "x_parameter", "x_values", "x_which", "y_parameter", "y_values", "y_which")
class GuidanceCompare(io.ComfyNode):
    """A grid of pictures over up to two settings, with headings."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="GuidanceCompare",
            display_name="Compare Guidance",
            category="guidance/look",
            description="Draws a grid over one or two settings (weights, scales, intervals, guides, experts, steps) "
            "from the same noise, with headings in the picture. Interrupted, it keeps the cells that are done.",
            search_aliases=["xy plot", "x/y/z plot", "grid", "compare", "parameter sweep", "ablation", "contact sheet"],
            is_output_node=True,
            hidden=[io.Hidden.unique_id, io.Hidden.prompt, io.Hidden.extra_pnginfo],
            inputs=[
                *_scene_inputs(), *_axis_inputs("x", "cfg", "1, 2, 4"), *_axis_inputs("y", "none", ""),
                *sampler_inputs(), _size_input(), _which_input("x"), _which_input("y"), _name_input(),
            ],
            outputs=[
                io.Image.Output(display_name="grid", tooltip="All cells in one picture, with headings."),
                io.Image.Output(display_name="cells", tooltip="Every picture at full size, row by row."),
                io.String.Output(display_name="table", tooltip="The settings of every cell, as CSV."),
            ],
        )

    @classmethod
    def execute(
        cls, model, positive, negative, latent_image, vae, x_parameter, x_values, y_parameter, y_values, cell_size,
        x_which, y_which, name="", models=None, **sampler,
    ) -> io.NodeOutput:
        scene = Scene((model, *(models or {}).values()), positive, negative, latent_image, vae)
        x, y = Axis("x", x_parameter, x_values, x_which), Axis("y", y_parameter, y_values, y_which)
        made = compare(scene, Settings(0, (), **sampler), x, y, cell_size, cls.hidden.unique_id or "", name)
        shown = {**show_pictures(made.grid, cls), **made.for_page()}
        return io.NodeOutput(made.grid, made.pictures, made.table, ui=shown)


def _scene_inputs() -> list[io.Input]:
    return [
        io.Model.Input("model", tooltip="The MODEL with the components that are to be varied."),
        models_input(
            "More MODELs, for x_parameter or y_parameter = model: with another guide, with experts instead of one "
            "classifier, without components, ..."
        ),
        io.Conditioning.Input("positive", tooltip="The prompt."),
        io.Conditioning.Input("negative", tooltip="The negative prompt. Evaluated only where CFG asks for it."),
        io.Latent.Input("latent_image", tooltip="What every cell starts from: empty latents, or a picture's with "
                        "denoise below 1. A batch gives several pictures per cell."),
        io.Vae.Input("vae", tooltip="Decodes the pictures."),
    ]


def models_input(tooltip: str) -> io.Input:
    """More MODELs beside the first, as many as are connected."""
    another = io.Model.Input("model", tooltip="Another MODEL, with components or guides of its own.")
    names = [f"model_{number}" for number in range(2, MOST_MODELS + 1)]
    return io.Autogrow.Input(
        "models", template=io.Autogrow.TemplateNames(another, names=names, min=0), tooltip=tooltip
    )


def _axis_inputs(side: str, parameter: str, values: str) -> list[io.Input]:
    where = "column by column" if side == "x" else "row by row"
    return [
        io.Combo.Input(
            f"{side}_parameter", options=parameter_names(), default=parameter,
            tooltip=f"What changes {where}: a setting of the sampler, of a component on the MODEL (named as on its "
            f"node), or model: the MODELs connected to models. total and mix are those of CFG + Autoguidance. "
            f"equal strength: the components beside plain CFG at the weight that they came to.",
        ),
        *shown_for(
            f"{side}_parameter", [name for name in parameter_names() if name != NONE],
            io.String.Input(
                f"{side}_values", default=values,
                tooltip="Numbers with commas (1, 1.5, 2), ranges (1..3 step 0.5), off = without the component. "
                "Intervals: 0.2 to 0.8, 5 to 0.15 sigma, always. For model: a name for each, or nothing.",
            ),
        ),
    ]


def sampler_inputs() -> list[io.Input]:
    """The sampler's own settings, as the nodes have them that sample by themselves."""
    return [
        io.Int.Input(
            "seed", default=0, min=0, max=0xFFFFFFFFFFFFFFFF, control_after_generate=False,
            tooltip="Of the noise, the same in every cell.",
        ),
        io.Int.Input("steps", default=20, min=1, max=10000, tooltip="The sampler's steps."),
        io.Float.Input(
            "cfg", default=4.0, min=0.0, max=100.0, step=0.1, round=0.01,
            tooltip="The sampler's cfg, where no CFG Combine sets its own. 1 = off.",
        ),
        io.Combo.Input("sampler_name", options=sampler_names(), default="euler", tooltip="As in KSampler."),
        io.Combo.Input("scheduler", options=scheduler_names(), tooltip="The noise levels of the steps."),
        io.Float.Input(
            "denoise", default=1.0, min=0.0, max=1.0, step=0.01, round=0.0001,
            tooltip="As in KSampler: below 1, latent_image is changed only partly.",
        ),
    ]


def _size_input() -> io.Input:
    return io.Int.Input(
        "cell_size", default=384, min=64, max=4096, step=8,
        tooltip="The longest side of a cell in the grid, in pixels. Larger pictures are reduced, small ones enlarged "
        "by whole factors. The output cells has them at full size.",
    )


def _which_input(side: str) -> io.Input:
    return io.Int.Input(
        f"{side}_which", default=1, min=1, max=16, advanced=True,
        tooltip=f"If the MODEL has several components of the kind that {side} varies: which, in chain order.",
    )


def _name_input() -> io.Input:
    return io.String.Input(
        "name", default="", optional=True, advanced=True,
        tooltip="Empty: finished cells are kept in memory. With a name they are also kept in output/guidance/cells, so "
        "that they outlast ComfyUI, and several ComfyUIs with one output folder draw one grid together.",
    )


NODES: list[type[io.ComfyNode]] = [GuidanceCompare]
