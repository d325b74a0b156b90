"""The workflows that open as apps: a few controls and a result; the graph is one click away."""

from __future__ import annotations

from dataclasses import replace

from workflow_experts import CLASS_SCALE, to_learn_from
from workflow_graph import Node, Output, Stamps
from workflow_scene import CLASSES, SEED, Scene


def lab(object_info: dict, stamps: Stamps) -> dict:
    scene = Scene(
        "lab", "An app: a class, a weight, where it acts and a seed; the model alone and guided, one above the other.",
        object_info, stamps,
    )
    scene.shared(
        "## Guidance lab\nThis opens as an app. Choose a class (circle, square, triangle, star, heart, moon, arrow, "
        "cross, ring, pill), a weight, where it acts (in parts of the run), and a seed.\n\nThe upper pictures are "
        "the model's alone, the lower ones guided by **CFG Combine**, from the same noise. A judge that steers nothing "
        "counts.",
        high=270, one_class="heart",
    )
    number = scene.add("PrimitiveInt", 0, 0, title="Seed", value=SEED)
    seed = replace(number["INT"], value=SEED)
    scene.picture(scene.lane("The model alone"), scene.main["MODEL"], "the model alone", seed=seed)
    alone = scene.nodes[-1]["sheet"]
    lane, cfg = scene.cfg_lane("Guided", 4.0)
    scene.picture(lane, cfg["MODEL"], "guided", seed=seed)
    saved = _one_above_the_other(scene, lane, 4, alone, scene.nodes[-1]["sheet"], "guidance/lab")
    scene.open_as_app(
        {
            "Class": (scene.one_class, "value"), "CFG weight (1 = off)": (cfg, "weight"),
            "Guide from (0 = the first step)": (cfg, "start"), "Guide to (1 = the last step)": (cfg, "end"),
            "Seed": (number, "value"),
        },
        [saved],
    )
    return scene.build()


def experts(object_info: dict, stamps: Stamps) -> dict:
    scene = Scene(
        "experts_app", "An app: train noise-aware experts of a clean classifier, and see both steer the same noise.",
        object_info, stamps,
    )
    scene.shared(
        "## Train experts\nThis opens as an app. **Make Pictures** draws pictures with the model, **Train Experts** "
        "lets the clean classifier teach experts on them, each for its own range of noise (PPAP).\n\nThe upper "
        "pictures are steered by the clean classifier, the lower ones by the experts. A stopped training goes on where "
        "it was; another *name* begins a new one.",
        high=280,
    )
    lane = scene.lane("Pictures and training")
    pictures = to_learn_from(scene, lane)
    clean = scene.add("GuidanceLoadGuide", lane, 1, title="The clean classifier", name="shapes-classifier")
    trained = scene.add(
        "GuidanceTrainExperts", lane, 2, guide=clean["guide"], pictures=pictures["pictures"], name="my-experts",
        experts=3, iterations=150, batch_size=16, learning_rate=0.002, schedule="cosine", alpha=16,
    )
    sheets = []
    for title, guide in (("by the clean classifier", clean), ("by the experts", trained)):
        lane = scene.lane(title.capitalize())
        steered = scene.add(
            "GuidanceClassifier", lane, 3, model=scene.main["MODEL"], guide=guide["guide"], label=CLASSES,
            scale=CLASS_SCALE, at="noisy input",
        )
        scene.picture(lane, steered["MODEL"], title, 4, unconditional=True)
        sheets.append(scene.nodes[-1]["sheet"])
    saved = _one_above_the_other(scene, lane, 5, *sheets, "guidance/experts_app")
    scene.open_as_app(
        {
            "Pictures to learn from": (pictures, "count"), "Name of the bank": (trained, "name"),
            "Experts": (trained, "experts"), "Iterations of each": (trained, "iterations"),
            "Learning rate": (trained, "learning_rate"),
        },
        [trained, saved],
    )
    return scene.build()


def _one_above_the_other(scene: Scene, lane: int, column: int, upper: Output, lower: Output, name: str) -> Node:
    """Two sheets as one saved picture."""
    both = scene.add(
        "ImageStitch", lane, column, image1=upper, image2=lower, direction="down", match_image_size=False
    )
    return scene.add(
        "SaveImage", lane, column, title="One above the other", size=(340, 390), images=both["IMAGE"],
        filename_prefix=name,
    )


APPS = {"App-Guidance-lab": lab, "App-Train-experts": experts}
