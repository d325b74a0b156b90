"""The papers' own denoisers: ADM, P2, EDM2 and GLIDE as ordinary MODELs, what they are told, their samplers' steps."""

from __future__ import annotations

from comfy_api.latest import io

from ..guidance.respacing import respacing_problem
from ..host.common.errors import user_error
from ..host.common.labels import offered, told
from ..host.models.adm import with_low_resolution
from ..host.models.denoisers import denoiser_names, denoiser_problem, fingerprint, load_denoiser
from ..host.models.glide_prompt import prompt_conditioning, prompt_problem, vocabularies
from ..host.models.paper_sigmas import with_paper_sigmas
from ..host.schema.validation import validation


@validation(denoiser_problem, "name")
class GuidanceLoadDenoiser(io.ComfyNode):
    """A published denoiser and the VAE that belongs to it."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="GuidanceLoadDenoiser",
            display_name="Load Denoiser (ADM, P2, EDM2, GLIDE)",
            category="guidance/papers",
            description="Loads the networks that the guidance papers published, as ordinary MODELs: ADM "
            "(guided-diffusion, 2105.05233), P2-weighting (2204.00227), EDM2 (2312.02696), GLIDE (2112.10741). Nothing "
            "that a file carries is run. The weights have their own licences: see the help page.",
            search_aliases=[
                "adm", "guided diffusion", "p2", "edm2", "imagenet", "load checkpoint", "pixel model", "glide",
            ],
            has_intermediate_output=True,
            inputs=[
                io.Combo.Input(
                    "name", options=denoiser_names(),
                    tooltip="A .safetensors, .pt or EDM2 .pkl file in models/diffusion_models or models/checkpoints. "
                    "ADM: openaipublic.blob.core.windows.net/diffusion/jul-2021/256x256_diffusion.pt (the help page "
                    "lists all). EDM2: nvlabs-fi-cdn.nvidia.com/edm2/posthoc-reconstructions/. GLIDE: "
                    "openaipublic.blob.core.windows.net/diffusion/dec-2021/base.pt.",
                ),
                io.Vae.Input(
                    "vae", optional=True,
                    tooltip="For EDM2 img512 only, which works on Stable Diffusion's latents: sd-vae-ft-mse, or the "
                    "VAE of a Stable Diffusion 1.5 checkpoint. Networks that work on pictures ignore it.",
                ),
            ],
            outputs=[
                io.Model.Output(tooltip="The denoiser, as an ordinary MODEL."),
                io.Vae.Output(
                    tooltip="For VAE Decode: of a pixel model its pictures are the latents; of EDM2 img512 the VAE "
                    "that was connected, fitted to EDM2's colours."
                ),
            ],
        )

    @classmethod
    def fingerprint_inputs(cls, name, vae=None):
        return fingerprint(name)

    @classmethod
    @user_error()
    def execute(cls, name, vae=None) -> io.NodeOutput:
        model, own_vae = load_denoiser(name, vae)
        return io.NodeOutput(model, own_vae, ui=told(name, offered(getattr(model.model, "labels", ()))))


@validation()
class GuidanceLowResolution(io.ComfyNode):
    """The small picture that an upsampler enlarges."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="GuidanceLowResolution",
            display_name="Low Resolution (ADM and GLIDE upsamplers)",
            category="guidance/papers",
            description="Gives ADM's and GLIDE's upsamplers the small picture that they enlarge: 64x64 for "
            "64_256_upsampler and GLIDE's upsample, 128x128 for 128_512_upsampler.",
            search_aliases=["upsampler", "super resolution", "upscale", "low res"],
            inputs=[
                io.Conditioning.Input(
                    "conditioning", tooltip="The class of the picture (Class Label), or its text (GLIDE Prompt)."
                ),
                io.Image.Input("image", tooltip="The small picture, one for all or one for each of the batch."),
            ],
            outputs=[io.Conditioning.Output(tooltip="For the sampler's positive, and negative if it is used.")],
        )

    @classmethod
    def execute(cls, conditioning, image) -> io.NodeOutput:
        return io.NodeOutput(with_low_resolution(conditioning, image))


@validation(prompt_problem, "text", "vocabulary")
class GuidanceGlidePrompt(io.ComfyNode):
    """A text for GLIDE."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="GuidanceGlidePrompt",
            display_name="GLIDE Prompt",
            category="guidance/papers",
            description="A text for GLIDE's networks, which read GPT-2's tokens with a transformer of their own. "
            "Empty means no text: the negative of CFG, or unconditional pictures.",
            search_aliases=["glide", "text encode", "prompt", "gpt2", "bpe"],
            inputs=[
                io.String.Input(
                    "text", default="", multiline=True,
                    tooltip="What the picture shows, up to 128 tokens, about 100 words. Capitals and spaces around it "
                    "do not count. Empty = no text.",
                ),
                io.Combo.Input(
                    "vocabulary", options=vocabularies(),
                    tooltip="GPT-2's vocab.json and merges.txt, from huggingface.co/openai-community/gpt2, in a folder "
                    "of models/text_encoders, such as gpt2. An empty text needs none.",
                ),
            ],
            outputs=[
                io.Conditioning.Output(tooltip="For positive or negative, of the upsampler too (Low Resolution).")
            ],
        )

    @classmethod
    def execute(cls, text, vocabulary) -> io.NodeOutput:
        return io.NodeOutput(prompt_conditioning(text, vocabulary))


def sigmas_problem(respacing: str) -> str | None:
    """What is wrong with the words, around which spaces do not count; None if nothing is."""
    return respacing_problem(respacing.strip())


@validation(sigmas_problem, "respacing")
class GuidancePaperSigmas(io.ComfyNode):
    """The noise levels of the papers' own samplers, and their start."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="GuidancePaperSigmas",
            display_name="Paper Sigmas",
            category="guidance/papers",
            description="The noise levels that the papers' own samplers visit, for SamplerCustom: ADM's, P2's and "
            "PPAP's respacing of timesteps, or EDM2's steps. The MODEL then starts from their noise.",
            search_aliases=["timestep respacing", "ddim25", "fast27", "sigmas", "scheduler", "edm schedule"],
            inputs=[
                io.Model.Input("model", tooltip="ADM, P2, EDM2, GLIDE, or any MODEL on timesteps such as Stable "
                               "Diffusion."),
                io.String.Input(
                    "respacing", default="ddim25",
                    tooltip="As in the papers' code. ddim25: 25 steps at a whole stride, with sampler euler. 250: so "
                    "many steps from the noisiest to the cleanest timestep, with sampler ddpm. 90,60,60,20,20: steps "
                    "in equal parts, from clean to noisy. fast27: GLIDE's. EDM2: the number of steps, 32 with heun.",
                ),
                io.Float.Input(
                    "temperature", default=1.0, min=0.0, max=2.0, step=0.001, round=0.0001, advanced=True,
                    tooltip="What the start's noise is multiplied by. 1 for all but GLIDE's upsampler, which takes "
                    "0.997: a little less is softer and has less grain.",
                ),
            ],
            outputs=[
                io.Model.Output(tooltip="The MODEL: a run over these sigmas starts from the paper's noise."),
                io.Sigmas.Output(tooltip="For SamplerCustom or SamplerCustomAdvanced."),
            ],
        )

    @classmethod
    def execute(cls, model, respacing, temperature=1.0) -> io.NodeOutput:
        return io.NodeOutput(*with_paper_sigmas(model, respacing.strip(), temperature))


NODES: list[type[io.ComfyNode]] = [
    GuidanceLoadDenoiser, GuidanceLowResolution, GuidancePaperSigmas, GuidanceGlidePrompt
]
