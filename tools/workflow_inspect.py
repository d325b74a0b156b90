"""The workflow that looks into a run."""

from __future__ import annotations

from workflow_graph import Node, Stamps
from workflow_scene import CLASSES, Scene

CLASS_SCALE = 10.0


def inspector(object_info: dict, stamps: Stamps) -> dict:
    scene = Scene(
        "inspector", "What guidance does at every step of a run: pushes, weights, guides, evaluations, time, pictures.",
        object_info, stamps,
    )
    scene.shared(
        "## Inspector\n**Inspect Run** stands before the sampler and writes down what guidance does at each step; it "
        "changes no bit of the picture. **Show Inspection** shows it after the run.\n\nIn the plot: how hard each "
        "component pushes, how alike the two prompts' estimates are, how sure the classifier is, what was evaluated "
        "and how long it took. The strip shows how the picture is found. The table and the JSON have the numbers.",
        weak=True,
    )
    model = scene.main["MODEL"]
    lane = scene.lane("CFG in an interval, and autoguidance")
    cfg = scene.add(
        "GuidanceCFG", lane, 1, model=model, weight_from="node", weight=2.0, unit="sigma", start=5.0, end=0.15
    )
    guided = scene.add(
        "GuidanceAutoguidance", lane, 1, model=cfg["MODEL"], guide_model=scene.weak["MODEL"], weight=1.8
    )
    seen = _inspected(scene, lane, guided, "CFG 2 + autoguidance 1.8")
    scene.add("PreviewAny", lane, 4, title="The table", size=(340, 300), source=seen["table"])
    lane = scene.lane("A class that the model is not told")
    guide = scene.add("GuidanceLoadGuide", lane, 1, name="shapes-noisy-classifier")
    steered = scene.add(
        "GuidanceClassifier", lane, 1, model=model, guide=guide["guide"], label=CLASSES, scale=CLASS_SCALE
    )
    _inspected(scene, lane, steered, "classifier 10", unconditional=True)
    return scene.build()


def _inspected(scene: Scene, lane: int, steered: Node, title: str, unconditional: bool = False) -> Node:
    watched = scene.add("GuidanceInspect", lane, 2, size=(240, 160), model=steered["MODEL"])
    pictures = scene.picture(lane, watched["MODEL"], title, 3, unconditional)
    return scene.add(
        "GuidanceInspection", lane, 5, title="Inspection: every step", size=(480, 860),
        inspection=watched["inspection"], sampled=pictures,
    )
