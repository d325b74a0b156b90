"""The node that says how many pictures are as asked."""

from __future__ import annotations

from comfy_api.latest import io, ui

from ..host.common.page_pictures import show_pictures
from ..host.compare.score import score
from ..host.compare.score_sheet import score_sheet
from ..host.schema.inputs import GuideSocket
from ..host.schema.validation import validation


@validation()
class GuidanceScore(io.ComfyNode):
    """A verdict on finished pictures, by a guide."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="GuidanceScore",
            display_name="Score Pictures",
            category="guidance/look",
            description="Shows pictures in a grid with what a guide says of each: the class that it sees and whether "
            "it was asked for, or how well the picture agrees with a target. One number says how much a change of "
            "guidance helped. Judge with another network than the one that steers.",
            search_aliases=["verdict", "accuracy", "evaluate", "metric", "judge", "classify image", "image grid"],
            is_output_node=True,
            inputs=[
                io.Image.Input("images", tooltip="The finished pictures."),
                GuideSocket.Input("guide", tooltip="The network that judges. It sees the pictures clean."),
                io.String.Input(
                    "label", default="",
                    tooltip="For a classifier: the classes that were asked for, dealt to the pictures in turn, as in "
                    "Class Label. Empty = say only what is seen.",
                ),
                io.String.Input("heading", default="", tooltip="Words before the verdict, such as: CFG 4."),
                io.Int.Input("columns", default=4, min=1, max=64, tooltip="Pictures beside each other."),
                io.Int.Input(
                    "cell_size", default=128, min=16, max=2048,
                    tooltip="Longest side of a picture on the sheet, in pixels. Small ones grow by whole factors.",
                ),
                io.Image.Input(
                    "target", optional=True,
                    tooltip="For depth, segmentation and embeddings: the pictures that these should agree with, dealt "
                    "in turn.",
                ),
            ],
            outputs=[
                io.Image.Output(display_name="sheet", tooltip="All pictures with their verdicts."),
                io.Float.Output(
                    display_name="score", tooltip="Share of pictures as asked, or the mean agreement with the target."
                ),
                io.String.Output(display_name="text", tooltip="The verdict in words."),
            ],
        )

    @classmethod
    def execute(cls, images, guide, label, heading, columns, cell_size, target=None) -> io.NodeOutput:
        said = score(images, guide, label, target)
        sheet = score_sheet(images, said, heading, columns, cell_size)
        shown = {**show_pictures(sheet, cls), **ui.PreviewText(said.words).as_dict()}
        return io.NodeOutput(sheet, said.value, said.words, ui=shown)


NODES: list[type[io.ComfyNode]] = [GuidanceScore]
