"""The embedded models and their classes: every workflow runs with no download."""

from __future__ import annotations

from comfy_api.latest import io

from ..host.common.labels import CLASSES, class_conditioning
from ..host.models.tiny import embedded_classes, load_tiny_model, names, pixel_vae
from ..host.schema.validation import validation


@validation()
class GuidanceTinyModel(io.ComfyNode):
    """A small denoiser of one of the embedded worlds."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="GuidanceTinyModel",
            display_name="Tiny Model (shapes)",
            category="guidance",
            description="A small model that draws 32x32 pictures of shapes, or 64x64 scenes of a shape, a colour and a "
            "ground, in seconds on any computer, to try guidance without a download. The -weak ones are smaller and "
            "less trained, the -early ones are less trained: guides for autoguidance.",
            search_aliases=["demo model", "shapes", "embedded model", "toy model"],
            inputs=[
                io.Combo.Input(
                    "name", options=names(), default="shapes-edm",
                    tooltip="edm and flow are two prediction families; a -weak or -early model is a guide for the one "
                    "without.",
                    extra_dict={CLASSES: embedded_classes()},
                ),
            ],
            outputs=[
                io.Model.Output(tooltip="The denoiser, as an ordinary MODEL."),
                io.Vae.Output(tooltip="For VAE Decode: the pictures are the latents."),
            ],
        )

    @classmethod
    def execute(cls, name) -> io.NodeOutput:
        return io.NodeOutput(load_tiny_model(name), pixel_vae())


@validation()
class GuidanceClassLabel(io.ComfyNode):
    """Conditioning for class-conditional models."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="GuidanceClassLabel",
            display_name="Class Label",
            category="guidance",
            description="Chooses the class of a class-conditional model by name or number, as CONDITIONING. Empty "
            "means no class: use it as the negative.",
            search_aliases=["class conditioning", "imagenet class", "label"],
            inputs=[
                io.Model.Input("model", tooltip="The class-conditional MODEL: it knows the names."),
                io.String.Input(
                    "label", default="circle",
                    tooltip="A class name or number; several separated by commas are dealt to the pictures of the "
                    "batch in turn. Empty = no class. The shapes: circle, square, triangle, ...",
                ),
            ],
            outputs=[io.Conditioning.Output(tooltip="For positive or negative.")],
        )

    @classmethod
    def execute(cls, model, label) -> io.NodeOutput:
        return io.NodeOutput(class_conditioning(model, label))


NODES: list[type[io.ComfyNode]] = [GuidanceTinyModel, GuidanceClassLabel]
