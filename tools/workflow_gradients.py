"""The workflows that steer by the gradient of a guide, one function each."""

from __future__ import annotations

from workflow_graph import Stamps
from workflow_scene import CLASSES, SEED, Scene

DEPTH, SEGMENTATION = "depth", "segmentation"
CLASS_SCALE, DEPTH_SCALE, SEGMENTATION_SCALE = 10.0, 1000.0, 80.0


def classifier(object_info: dict, stamps: Stamps) -> dict:
    scene = Scene(
        "classifier", "A model that is told no class, steered to one by the gradient of a classifier.",
        object_info, stamps,
    )
    scene.shared(
        "## Classifier guidance\nThe model is told no class at all. A classifier looks at the picture while it is "
        "made, and its gradient steers: star, heart, moon, arrow, one per column.\n\nThe **noise-aware** classifier "
        "was trained on noisy pictures and told how noisy (ADM). The **clean** one knows clean pictures alone: it "
        "helps when it looks at the denoised estimate, and not when it looks at the noise.",
    )
    model = scene.main["MODEL"]
    scene.picture(scene.lane("Unguided"), model, "no class, unguided", unconditional=True)
    for name, at, title in (
        ("shapes-noisy-classifier", "noisy input", "noise-aware, noisy input"),
        ("shapes-classifier", "denoised", "clean, denoised estimate"),
        ("shapes-classifier", "noisy input", "clean, noisy input: fails"),
    ):
        lane = scene.lane(title[0].upper() + title[1:])
        guide = scene.fold(scene.add("GuidanceLoadGuide", lane, 1, title=f"Guide: {name}", name=name))
        steered = scene.add(
            "GuidanceClassifier", lane, 1, model=model, guide=guide["guide"], label=CLASSES, scale=CLASS_SCALE, at=at,
        )
        scene.picture(lane, steered["MODEL"], title, unconditional=True)
    return scene.build()


def experts(object_info: dict, stamps: Stamps) -> dict:
    scene = Scene(
        "experts", "Two classifiers take turns by noise level (Expert Switch), and one does it all.",
        object_info, stamps,
    )
    scene.shared(
        "## Experts\n**Expert Switch** makes one guide of several: each is asked at its own noise levels alone, for "
        "each picture by itself.\n\nHere the clean classifier looks at pictures that are nearly finished, the "
        "noise-aware one at all noisier ones. *edges* says where they hand over; a schedule's name divides its "
        "timesteps equally, as in PPAP.",
    )
    model = scene.main["MODEL"]
    lane = scene.lane("One guide")
    noisy = scene.add("GuidanceLoadGuide", lane, 1, name="shapes-noisy-classifier")
    steered = scene.add(
        "GuidanceClassifier", lane, 2, model=model, guide=noisy["guide"], label=CLASSES, scale=CLASS_SCALE
    )
    scene.picture(lane, steered["MODEL"], "one noise-aware classifier", 3, unconditional=True)
    lane = scene.lane("Two guides")
    clean = scene.add("GuidanceLoadGuide", lane, 1, title="For the cleanest pictures", name="shapes-classifier")
    team = scene.add(
        "GuidanceExpertSwitch", lane, 2, size=(240, 314), edges_from="timesteps", edges="100",
        **{"guides.guide0": clean["guide"], "guides.guide1": noisy["guide"]},
    )
    steered = scene.add(
        "GuidanceClassifier", lane, 2, model=model, guide=team["guide"], label=CLASSES, scale=CLASS_SCALE,
        at="noisy input",
    )
    reported = scene.report(lane, 3, steered["MODEL"], "experts")
    scene.picture(lane, reported["MODEL"], "clean and noise-aware in turn", 4, unconditional=True)
    return scene.build()


def targets(object_info: dict, stamps: Stamps) -> dict:
    scene = Scene(
        "targets", "Pictures that follow the depth, or the segmentation, of other pictures (Loss Guidance).",
        object_info, stamps,
    )
    scene.shared(
        "## Targets\nThe first lane draws pictures. The others are told no class; **Loss Guidance** steers them so "
        "that a depth network, or a segmentation network, sees in them what it sees in the first: same places and "
        "shapes, other colours.\n\nFor models of your own put a folder from Hugging Face into *models/guides* and "
        "connect your VAE.",
    )
    model = scene.main["MODEL"]
    lane = scene.lane("References")
    guided = scene.add("GuidanceCFG", lane, 1, model=model, weight_from="node", weight=2.0)
    reference = scene.picture(lane, guided["MODEL"], "references")
    guides = {
        loss: scene.fold(scene.add("GuidanceLoadGuide", 0, 0, title=f"Guide: {loss}", name=f"shapes-{loss}"))["guide"]
        for loss in (DEPTH, SEGMENTATION)
    }
    for loss, other, scale in ((DEPTH, SEGMENTATION, DEPTH_SCALE), (SEGMENTATION, DEPTH, SEGMENTATION_SCALE)):
        lane = scene.lane(loss.capitalize())
        steered = scene.add(
            "GuidanceLoss", lane, 1, model=model, loss=loss, guide=guides[loss], target=reference, scale=scale,
            at="denoised",
        )
        title = f"{loss} of the references"
        scene.picture(lane, steered["MODEL"], title, 2, True, SEED + 1, judge=guides[other], target=reference)
    return scene.build()
