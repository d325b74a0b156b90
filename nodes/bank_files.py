"""Nodes that bring other people's experts in, and take the experts of a bank out."""

from __future__ import annotations

from comfy_api.latest import io, ui

from ..host.common.errors import user_error
from ..host.models.guides import bank_name_problem, fingerprint, guide_names, guide_problem
from ..host.models.peft_export import export_experts
from ..host.models.ppap_import import expert_sets, experts_problem, import_experts, sets_fingerprint
from ..host.schema.inputs import GuideSocket
from ..host.schema.validation import validation


def import_problem(experts: str | None, base: str | None, name: str | None) -> str | None:
    """What is wrong with the widgets, in words; None if nothing is, or if a value is not known yet."""
    return experts_problem(experts, name) or (None if base is None else guide_problem(base))


@validation(import_problem, "experts", "base", "name")
class GuidanceImportExperts(io.ComfyNode):
    """PPAP's released experts as a bank."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="GuidanceImportExperts",
            display_name="Import Experts (PPAP)",
            category="guidance/train",
            description="Turns the experts that PPAP's authors released (0_max5.ckpt to 4_max5.ckpt, of ResNet-50, "
            "DeiT-S or MiDaS small) into one small file beside the clean network, and gives it as a guide.",
            search_aliases=["ppap", "import experts", "max5.ckpt", "multi experts", "lora experts", "convert experts"],
            is_output_node=True,
            inputs=[
                io.Combo.Input(
                    "experts", options=expert_sets(),
                    tooltip="The files, from a folder of their own in models/guides: folder/*_max5.ckpt is all five of "
                    "them. A single file is one network for all noise. They are read as tensors only.",
                ),
                io.Combo.Input(
                    "base", options=guide_names(),
                    tooltip="The clean network that the experts were made of, as in Load Guide: torchvision's resnet50 "
                    "(IMAGENET1K_V2) as .safetensors, the folder facebook/deit-small-patch16-224, or "
                    "midas_v21_small_256.pt.",
                ),
                io.String.Input(
                    "name", default="ppap-experts",
                    tooltip="Of the new file in models/guides, without its ending. A file that is something else is "
                    "never overwritten.",
                ),
                io.Image.Input(
                    "pictures", optional=True,
                    tooltip="A few clean photographs. How DeiT's experts are to be run is settled by which way agrees "
                    "with the clean network on them; without, on the embedded shapes. Not used for ResNet and MiDaS.",
                ),
            ],
            outputs=[
                GuideSocket.Output(display_name="guide", tooltip="All experts, taking turns by noise level."),
                io.String.Output(display_name="report", tooltip="What was found, settled and written."),
            ],
        )

    @classmethod
    def fingerprint_inputs(cls, experts, base, name, pictures=None):
        return f"{sets_fingerprint(experts)}; {fingerprint(base)}; {name}"

    @classmethod
    @user_error()
    def execute(cls, experts, base, name, pictures=None) -> io.NodeOutput:
        guide, report = import_experts(experts, base, name, pictures)
        return io.NodeOutput(guide, report, ui=ui.PreviewText(report))


@validation(bank_name_problem, "name")
class GuidanceExportExperts(io.ComfyNode):
    """A bank's experts as adapters of peft."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="GuidanceExportExperts",
            display_name="Export Experts (PEFT)",
            category="guidance/train",
            description="Writes the experts of a bank as adapters that Hugging Face's peft loads over the clean "
            "network: one folder each, with what LoRA cannot hold beside it.",
            search_aliases=["peft", "export lora", "adapter", "adapter_model.safetensors", "experts to peft"],
            is_output_node=True,
            inputs=[
                GuideSocket.Input("guide", tooltip="A bank: from Train Experts, Import Experts or Load Guide."),
                io.String.Input(
                    "name", default="experts",
                    tooltip="Of the new folder in output/guidance. One that is there already is never overwritten.",
                ),
            ],
            outputs=[io.String.Output(display_name="folder", tooltip="Where the adapters lie.")],
        )

    @classmethod
    @user_error()
    def execute(cls, guide, name) -> io.NodeOutput:
        folder = str(export_experts(guide, name))
        return io.NodeOutput(folder, ui=ui.PreviewText(f"adapters in {folder}"))


NODES: list[type[io.ComfyNode]] = [GuidanceImportExperts, GuidanceExportExperts]
