"""PPAP on GLIDE: its pictures, experts of them, the steered run and the upsampler; run by whoever has the files."""

from __future__ import annotations

from workflow_graph import Node, Output, Stamps
from workflow_papers import DDPM, LABEL, RESNET, RESNET_NOTE, Published, made_by_hand

GLIDE = "https://openaipublic.blob.core.windows.net/diffusion/dec-2021"
SIDE, LARGE = 64, 256
EMPTY = "none (the text is empty)"


def ppap_glide(object_info: dict, stamps: Stamps) -> dict:
    made = Published(
        "ppap_glide",
        "GLIDE without a text, steered by experts of a ResNet-50 that its own pictures taught, then enlarged.",
        object_info, stamps,
    )
    left = made.lane("Files")
    made.note(
        left, 0,
        "## PPAP on GLIDE\nNeeds:\n\n"
        f"- {GLIDE}/base.pt and\n- {GLIDE}/upsample.pt in *models/diffusion_models* (OpenAI, MIT licence; their card "
        f"advises against commercial use)\n{RESNET_NOTE}\n\nThe empty text makes GLIDE unconditional and needs no "
        "vocabulary. **Make Pictures** draws what the experts learn from: the paper's set is 500,000 (2212.05973), "
        "this one a start. Both it and the training go on where they were stopped. PPAP's authors released no experts "
        "for GLIDE; these are your own. The first stage takes 250 steps of DDPM, the upsampler its 27. "
        "Depth and segmentation go the same way: a DPT folder or torchvision's deeplabv3_resnet50 as the guide, Loss "
        "Guidance in place of Classifier Guidance.",
        (360, 540),
    )
    lane = made.lane("Pictures and experts")
    base, nothing = made.denoiser(lane, 1, "base.pt", GLIDE, "GLIDE, 64 by 64"), prompt(made, lane)
    clamped = made.clamp(lane, 1, base["MODEL"])
    pictures = made.add(
        "GuidanceMakePictures", lane, 2, model=clamped, name="glide-64", count=2000, batch_size=16,
        width=SIDE, height=SIDE, steps=25, scheduler="ddim_uniform",
    )
    clean = made_by_hand(made.add("GuidanceLoadGuide", lane, 2, name=RESNET), RESNET, "guides")
    trained = made.add(
        "GuidanceTrainExperts", lane, 3, guide=clean["guide"], pictures=pictures["pictures"], name="glide-resnet50-5",
        experts=5, iterations=20000, batch_size=32, learning_rate=0.0003, schedule="cosine",
    )
    lane = made.lane("64 by 64")
    steered = made.add(
        "GuidanceClassifier", lane, 1, model=clamped, guide=trained["guide"], label=LABEL, scale=7.5, at="noisy input",
        form="mean shift",
    )
    small = made.picture(lane, 2, steered["MODEL"], nothing, base["VAE"], SIDE, "ppap_glide_64", DDPM)
    lane = made.lane("256 by 256")
    large = made.denoiser(lane, 1, "upsample.pt", GLIDE, "GLIDE, its upsampler")
    seen = made.add("GuidanceLowResolution", lane, 1, conditioning=nothing, image=small)["CONDITIONING"]
    enlarged = made.clamp(lane, 1, large["MODEL"])
    made.picture(lane, 2, enlarged, seen, large["VAE"], LARGE, "ppap_glide_256", ("euler", "fast27"), 0.997)
    return made.build()


def prompt(made: Published, lane: int) -> Output:
    """The empty text."""
    node: Node = made.add("GuidanceGlidePrompt", lane, 1, title="No text", text="", vocabulary=EMPTY)
    return node["CONDITIONING"]
