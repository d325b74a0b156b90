"""The workflow that looks into a run."""

from __future__ import annotations

from workflow_graph import Stamps
from workflow_scene import Scene


def inspector(object_info: dict, stamps: Stamps) -> dict:
    scene = Scene(
        "inspector", "What guidance does at every step of a run: pushes, weights, guides, evaluations, time, pictures.",
        object_info, stamps,
    )
    scene.shared(
        "## Inspector\n**Inspect Run** stands before the sampler and writes down what guidance does at each step; it "
        "changes no bit of the picture. **Show Inspection** shows it after the run.\n\nIn the plot: how hard each "
        "component pushes, how alike the two prompts' estimates are, what was evaluated and how long it took; with a "
        "classifier, how sure it is. The strip shows how the picture is found. The table and the JSON have the "
        "numbers.",
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
    watched = scene.add("GuidanceInspect", lane, 2, size=(240, 160), model=guided["MODEL"])
    pictures = scene.picture(lane, watched["MODEL"], "CFG 2 + autoguidance 1.8", 3)
    seen = scene.add(
        "GuidanceInspection", lane, 5, title="Inspection: every step", size=(480, 860),
        inspection=watched["inspection"], sampled=pictures,
    )
    scene.add("PreviewAny", lane, 4, title="The table", size=(340, 300), source=seen["table"])
    return scene.build()
