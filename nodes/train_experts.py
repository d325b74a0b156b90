"""The node that makes a bank of noise-aware experts from a clean guide."""

from __future__ import annotations

from comfy_api.latest import io

from ..host.common.errors import user_error
from ..host.common.page_pictures import show_pictures
from ..host.models.expert_switch import KNOWN_SCHEDULES
from ..host.schema.inputs import GuideSocket, PicturesSocket
from ..host.schema.validation import validation
from ..host.training.train import (
    KINDS,
    PRECISIONS,
    WEIGHTINGS,
    Request,
    page_of,
    recipe_of,
    recipe_problem,
    run,
)  # fmt: skip

LossMap = io.Custom("LOSS_MAP")


@validation(recipe_problem, "name", "experts", "iterations", "rank")
class GuidanceTrainExperts(io.ComfyNode):
    """PPAP's training, without data of one's own."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="GuidanceTrainExperts",
            display_name="Train Experts (PPAP)",
            category="guidance/train",
            description="Makes a clean network into a bank of experts that see through noise, each through its own "
            "range (PPAP, 2212.05973). The network itself teaches them on the pictures; no labels are needed. The "
            "bank is saved in models/guides, and steers by Classifier Guidance or Loss Guidance.",
            search_aliases=["ppap", "train classifier", "noise aware", "multi experts", "train guide", "lora experts"],
            inputs=[
                *_wires(),
                *_main_inputs(),
                *_more_inputs(),
                *_rare_inputs(),
                *_preview_model(),
            ],
            outputs=[
                GuideSocket.Output(display_name="guide", tooltip="The experts, as one guide."),
                LossMap.Output(display_name="loss", tooltip="For Plot Loss Graph: all experts, one after another."),
                io.Image.Output(
                    display_name="curve", tooltip="The loss of each expert; with a model, its last preview below."
                ),
            ],
            hidden=[io.Hidden.prompt, io.Hidden.extra_pnginfo],
            is_output_node=True,
        )

    @classmethod
    @user_error()
    def execute(cls, guide, pictures, name, preview_scale, model=None, vae=None, **settings) -> io.NodeOutput:
        page = cls.hidden.extra_pnginfo or {}
        made_on = page_of(page.get("workflow"), cls.hidden.prompt)
        trained, curve = run(
            Request(guide, pictures, name, recipe_of(settings), made_on, model, vae), model, preview_scale
        )
        losses = [loss for curve in trained.curves for loss in curve]
        return io.NodeOutput(trained.guide, {"loss": losses}, curve, ui=show_pictures(curve, cls))


def _wires() -> list[io.Input]:
    return [
        GuideSocket.Input("guide", tooltip="A network that sees clean pictures (Load Guide). It is not changed."),
        PicturesSocket.Input(
            "pictures", tooltip="What the experts practise on: Make Pictures draws them with the model that is "
            "to be guided; Load Pictures takes a folder."
        ),
        io.String.Input(
            "name", default="experts",
            tooltip="The bank's file in models/guides. A training that was stopped goes on under its name; a "
            "finished bank of the same settings is loaded, one of other settings is left alone.",
        ),
    ]


def _preview_model() -> list[io.Input]:
    return [
        io.Model.Input(
            "model", optional=True,
            tooltip="The model that is to be guided: after each expert it draws a preview, steered by the "
            "experts so far. Not needed for the training, but for experts of latents (vae).",
        ),
        io.Vae.Input(
            "vae", optional=True,
            tooltip="For a latent model, its VAE: the experts are then small networks that look at the model's noisy "
            "latents, taught by what the guide says of the pictures. They steer without a VAE. rank, alpha, layers, "
            "efficient and flip do not count.",
        ),
    ]


def _main_inputs() -> list[io.Input]:
    return [
        io.Int.Input(
            "experts", default=5, min=1, max=100,
            tooltip="How many, each for an equal range of timesteps. 1 = a single noise-aware network. PPAP: 5.",
        ),
        io.Int.Input(
            "iterations", default=5000, min=1, max=10_000_000,
            tooltip="Steps of all experts together, shared equally. PPAP: 300000, with batches of 256.",
        ),
        io.Int.Input("batch_size", default=32, min=1, max=4096, tooltip="Pictures per step. Less if memory runs out."),
        io.Float.Input(
            "learning_rate", default=0.001, min=0.000001, max=1.0, step=0.0001, round=0.000001,
            tooltip="At the first step of each expert; it falls straight to 0. PPAP: 0.0001, over far more steps.",
        ),
        io.Int.Input(
            "rank", default=16, min=1, max=512,
            tooltip="Of the experts' low-rank changes (LoRA): larger sees more and takes more disk. PPAP: 16.",
        ),
        io.Combo.Input(
            "schedule", options=KNOWN_SCHEDULES,
            tooltip="The noise that the experts learn, whose timesteps are shared out: adm linear for pictures of 256 "
            "pixels, cosine for 64 and smaller, stable diffusion, flow for Flux, SD3, Chroma and others. It need not "
            "be the model's own: noise levels are matched.",
        ),
        io.Int.Input(
            "seed", default=0, min=0, max=0xFFFFFFFF, control_after_generate=False,
            tooltip="The same seed, settings and pictures give the same file.",
        ),
    ]


def _more_inputs() -> list[io.Input]:
    return [
        io.Combo.Input(
            "learn_from", options=KINDS, advanced=True,
            tooltip="task: the clean network's answer, compared as its task wants (classification and segmentation: "
            "soft labels; depth: up to scale and shift; embedding: direction). mse: the same answer, number by number. "
            "labels: the names of the pictures' folders, for comparison with supervised training.",
        ),
        io.Float.Input(
            "temperature", default=0.25, min=0.01, max=10.0, step=0.05, round=0.001, advanced=True,
            tooltip="For soft labels: below 1 the clean network's answers are made more certain. PPAP: 0.25.",
        ),
        io.Combo.Input(
            "weighting", options=WEIGHTINGS, advanced=True,
            tooltip="Which timesteps of an expert's range count how much: uniform as in PPAP, or as P2 or min-SNR.",
        ),
        io.Boolean.Input(
            "efficient", default=True, advanced=True,
            tooltip="On: LoRA, biases and norms, a few percent of the network per expert. Off: whole networks, for "
            "comparison; the file holds one per expert.",
        ),
    ]


def _rare_inputs() -> list[io.Input]:
    return [
        io.Int.Input(
            "alpha", default=8, min=1, max=1024, advanced=True,
            tooltip="LoRA's changes count alpha / rank. PPAP: 8 for rank 16.",
        ),
        io.String.Input(
            "layers", default="auto", advanced=True,
            tooltip="Which layers get LoRA: auto (PPAP's for ResNet, ViT and DeiT; otherwise all but the last), or "
            "names with * and commas.",
        ),
        io.Int.Input(
            "accumulate", default=1, min=1, max=1024, advanced=True,
            tooltip="Batches of each step: 4 batches of 8 need the memory of 8.",
        ),
        io.Float.Input(
            "weight_decay", default=0.05, min=0.0, max=10.0, step=0.01, round=0.0001, advanced=True,
            tooltip="AdamW's. PPAP: 0.05.",
        ),
        io.Boolean.Input(
            "flip", default=True, advanced=True,
            tooltip="Mirror every second picture. Off for what must not be mirrored, such as letters.",
        ),
        io.Combo.Input(
            "precision", options=PRECISIONS, advanced=True,
            tooltip="Of the evaluations: bf16 and fp16 are faster on a GPU and take less memory.",
        ),
        io.Boolean.Input(
            "warm_start", default=True, advanced=True,
            tooltip="On: each expert goes on from the one for cleaner pictures, as PPAP's own code does; far better in "
            "short trainings. Off: every expert starts from the clean network.",
        ),
        io.Float.Input(
            "preview_scale", default=4.0, min=0.0, max=10000.0, step=0.5, round=0.01, advanced=True,
            tooltip="With a model connected: the guidance scale of the previews. 0 = none.",
        ),
    ]


NODES: list[type[io.ComfyNode]] = [GuidanceTrainExperts]
