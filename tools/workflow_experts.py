"""The workflows of noise-aware experts (PPAP): train them, and steer by them."""

from __future__ import annotations

from typing import Any

from workflow_graph import Node, Output, Stamps
from workflow_papers import ADM, DDIM, LABEL, RESNET, RESNET_NOTE, Published, made_by_hand
from workflow_scene import CLASSES, SEED, Scene

CLASS_SCALE = 10.0
# Of the clean network and of its experts, each about the best of benchmarks/ppap.py.
STRENGTHS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "classifier": ({"scale": CLASS_SCALE}, {"scale": CLASS_SCALE}),
    "depth": ({"scale": 400.0}, {"scale": 6400.0, "cap": 0.5}),
    "segmentation": ({"scale": 160.0}, {"scale": 2560.0, "cap": 0.5}),
}
PICTURES, ITERATIONS = 64, 150


def to_learn_from(scene: Scene, lane: int) -> Node:
    """Pictures that the model draws without a class."""
    return scene.add(
        "GuidanceMakePictures", lane, 1, model=scene.main["MODEL"], count=PICTURES, batch_size=16, width=32, height=32,
        steps=12, cfg=1.0, sampler_name="euler", scheduler="karras", seed=SEED, name="shapes",
    )


def judge_of(scene: Scene, task: str) -> Output:
    """The network of the other kind of map, which says how well pictures agree with the references."""
    other = {"depth": "segmentation", "segmentation": "depth"}[task]
    judge = scene.add("GuidanceLoadGuide", 0, 0, title=f"Judge: {other}", name=f"shapes-{other}")
    return scene.fold(judge)["guide"]


def train_experts(object_info: dict, stamps: Stamps) -> dict:
    scene = Scene(
        "train_experts", "A clean classifier becomes a bank of noise-aware experts, on pictures that the model made.",
        object_info, stamps,
    )
    scene.shared(
        "## Train experts (PPAP)\nA clean classifier cannot judge noisy pictures. **Make Pictures** lets the model "
        "draw some, **Train Experts** lets the classifier teach experts on them, each for its own range of noise. No "
        "data, no labels.\n\nThis is a taste: few pictures, a minute of training. The last lane has experts that were "
        "trained for longer; *08 Experts PPAP* puts the clean classifier beside them, at the same seed, a good one. "
        "For your own: thousands of pictures, thousands of iterations, your model and a network from *models/guides*.",
    )
    model = scene.main["MODEL"]
    lane = scene.lane("Pictures and training")
    pictures = to_learn_from(scene, lane)
    clean = scene.add("GuidanceLoadGuide", lane, 1, title="The clean classifier", name="shapes-classifier")
    trained = scene.add(
        "GuidanceTrainExperts", lane, 2, guide=clean["guide"], pictures=pictures["pictures"], name="shapes-taste",
        experts=3, iterations=ITERATIONS, batch_size=16, learning_rate=0.002, schedule="cosine", alpha=16,
    )
    scene.add(
        "LossGraphNode", lane, 3, title="The loss, expert by expert", loss=trained["loss"],
        filename_prefix="guidance/train_experts_loss",
    )
    ready = scene.add("GuidanceLoadGuide", lane, 1, title="Experts trained for longer", name="shapes-experts")
    for title, guide in (("The experts just trained", trained), ("Experts trained for longer", scene.fold(ready))):
        lane = scene.lane(title)
        steered = scene.add(
            "GuidanceClassifier", lane, 3, model=model, guide=guide["guide"], label=CLASSES, scale=CLASS_SCALE,
            at="noisy input",
        )
        scene.picture(lane, steered["MODEL"], title, 4, unconditional=True, seed=2)
    return scene.build()


def ppap(object_info: dict, stamps: Stamps) -> dict:
    scene = Scene(
        "ppap", "A class followed by experts that see through noise, beside the clean classifier that they come from.",
        object_info, stamps,
    )
    scene.shared(
        "## PPAP\nThe model is told no class. Both lanes steer it by the same classifier looking at the noisy picture "
        "itself: first as it is, then as a bank of experts that were trained to see through noise, each at its own "
        "noise levels. This seed is a good one: over ten seeds the experts have 42 of 80 right, the clean classifier "
        "10.\n\n**Load Guide** lists banks of experts beside other guides. *More Experts follow maps* does the same "
        "with depth and segmentation, *12 Train experts* makes a bank.",
        high=320,
    )
    for kind, name, strength in zip(
        ("The clean classifier", "Its experts"), ("shapes-classifier", "shapes-experts"), STRENGTHS["classifier"],
        strict=True,
    ):
        lane = scene.lane(kind)
        guide = scene.add("GuidanceLoadGuide", lane, 1, title=kind, name=name)
        steered = scene.add(
            "GuidanceClassifier", lane, 1, model=scene.main["MODEL"], guide=guide["guide"], label=CLASSES,
            at="noisy input", **strength,
        )
        scene.picture(lane, steered["MODEL"], kind.lower(), 3, True, 2)
    return scene.build()


def ppap_maps(object_info: dict, stamps: Stamps) -> dict:
    scene = Scene(
        "ppap_maps", "A depth map and a segmentation followed by experts that see through noise.", object_info, stamps,
    )
    scene.shared(
        "## PPAP with maps\nThe model is told no class. The depth network looks at the noisy picture itself: first as "
        "it is, then as a bank of experts that were trained to see through noise. In the last lane experts of the "
        "segmenter do the same. Each lane has the scale that suits it; the experts a *cap* on their pushes.\n\nThe "
        "references are drawn by the first lane; the network of the other kind judges.",
    )
    model = scene.main["MODEL"]
    lane = scene.lane("References")
    guided = scene.add("GuidanceCFG", lane, 1, model=model, weight_from="node", weight=2.0)
    reference = scene.picture(lane, guided["MODEL"], "references")
    judges = {task: judge_of(scene, task) for task in ("depth", "segmentation")}
    for task, kind, name in (
        ("depth", "clean", "shapes-depth"), ("depth", "experts", "shapes-depth-experts"),
        ("segmentation", "experts", "shapes-segmentation-experts"),
    ):
        guide = scene.fold(scene.add("GuidanceLoadGuide", 0, 0, title=f"Guide: {name}", name=name))
        lane = scene.lane(f"{task.capitalize()}: {kind}")
        steered = scene.add(
            "GuidanceLoss", lane, 1, model=model, loss=task, guide=guide["guide"], target=reference,
            at="noisy input", **STRENGTHS[task][kind == "experts"],
        )
        title = f"{task}, {kind}"
        scene.picture(lane, steered["MODEL"], title, 3, True, SEED + 1, judge=judges[task], target=reference)
    return scene.build()


def map_experts(object_info: dict, stamps: Stamps) -> dict:
    scene = Scene(
        "map_experts", "A clean depth network becomes a bank of experts, and the model follows their maps.",
        object_info, stamps,
    )
    scene.shared(
        "## Train experts of maps (PPAP)\nThe same as *12 Train experts*, for networks that draw a map: "
        "**Make Pictures** draws the pictures, the clean network says what they show, and its experts learn to say the "
        "same of noisy ones.\n\nDepth learns by *mse*, a segmenter by *task*. The experts steer at a high scale with a "
        "*cap*, because their pushes grow long. The last lanes are the clean network, then its experts after half a "
        "minute of training. "
        "*More Experts follow maps* has banks that were trained for longer.",
    )
    model = scene.main["MODEL"]
    lane = scene.lane("Pictures and training")
    pictures = scene.fold(to_learn_from(scene, lane))
    clean = scene.fold(scene.add("GuidanceLoadGuide", lane, 1, title="The clean network", name="shapes-depth"))
    trained = scene.add(
        "GuidanceTrainExperts", lane, 1, guide=clean["guide"], pictures=pictures["pictures"], name="shapes-depth-taste",
        experts=3, iterations=ITERATIONS, batch_size=16, learning_rate=0.005, schedule="cosine", alpha=16,
        learn_from="mse",
    )
    lane = scene.lane("References")
    guided = scene.add("GuidanceCFG", lane, 1, model=model, weight_from="node", weight=2.0)
    reference = scene.picture(lane, guided["MODEL"], "references", 3)
    judge = judge_of(scene, "depth")
    for kind, guide, strength in zip(("clean", "experts"), (clean, trained), STRENGTHS["depth"], strict=True):
        lane = scene.lane(f"Depth: {kind}")
        steered = scene.add(
            "GuidanceLoss", lane, 3, model=model, loss="depth", guide=guide["guide"], target=reference,
            at="noisy input", **strength,
        )
        scene.picture(
            lane, steered["MODEL"], f"depth, {kind}", 4, True, SEED + 1, judge=judge, target=reference
        )
    return scene.build()


def own_experts(object_info: dict, stamps: Stamps) -> dict:
    made = Published(
        "own_experts", "Experts of torchvision's ResNet-50 for ADM's ImageNet model, trained on a folder of pictures.",
        object_info, stamps,
    )
    left = made.lane("Files")
    made.note(
        left, 0,
        "## Experts of your own\nNeeds:\n\n"
        f"- {ADM}/256x256_diffusion_uncond.pt in *models/diffusion_models* (OpenAI, MIT licence)\n"
        f"{RESNET_NOTE}\n- pictures in a folder *my-pictures* of ComfyUI's input folder; or take **Make "
        "Pictures** with the model instead.\n\nThe settings are a short training for one GPU; the paper's is 300,000 "
        "iterations of 256 pictures (2212.05973). Stop it when you like: it goes on where it was. The bank lies in "
        "*models/guides* afterwards, and Load Guide takes it.",
        (360, 400),
    )
    lane = made.lane("Train")
    pictures = made.add("GuidanceLoadPictures", lane, 1, folder="my-pictures", width=256, height=256)
    clean = made_by_hand(made.add("GuidanceLoadGuide", lane, 1, name=RESNET), RESNET, "guides")
    main = made.denoiser(lane, 1, "256x256_diffusion_uncond.pt", ADM, "ADM 256, unconditional")
    trained = made.add(
        "GuidanceTrainExperts", lane, 2, guide=clean["guide"], pictures=pictures["pictures"], model=main["MODEL"],
        name="my-resnet50-experts", experts=5, iterations=20000, batch_size=32, learning_rate=0.0003, precision="bf16",
    )
    made.add("LossGraphNode", lane, 3, loss=trained["loss"], filename_prefix="guidance/own_experts_loss")
    lane = made.lane("Steer")
    asked = made.add("GuidanceClassLabel", lane, 1, model=main["MODEL"], label="")["CONDITIONING"]
    steered = made.add(
        "GuidanceClassifier", lane, 2, model=made.clamp(lane, 2, main["MODEL"]), guide=trained["guide"], label=LABEL,
        scale=7.5, at="noisy input",
    )
    made.picture(lane, 3, steered["MODEL"], asked, main["VAE"], 256, "own_experts", DDIM)
    return made.build()
