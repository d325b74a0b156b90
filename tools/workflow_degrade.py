"""The workflow of a guide that nobody had to train: a damaged version of the model itself."""

from __future__ import annotations

from workflow_graph import Stamps
from workflow_scene import Scene

WEIGHT = 2.0


def degraded_guide(object_info: dict, stamps: Stamps) -> dict:
    scene = Scene(
        "degraded_guide", "Autoguidance with a weaker file, and with a damaged version of the model itself.",
        object_info, stamps,
    )
    scene.shared(
        "## Degraded guide\n**Autoguidance** needs a weaker version of the model. The second lane has one, a smaller "
        "file. The third makes its own: **Degraded Model** damages the same weights while they run.\n\nTry the other "
        "kinds. The real weaker model is the better guide; the damage is there for models that have none.",
        weak=True,
    )
    model = scene.main["MODEL"]
    scene.picture(scene.lane("Unguided"), model, "unguided", 3)
    lane = scene.lane("Guided by the weak file")
    guided = scene.add(
        "GuidanceAutoguidance", lane, 2, model=model, guide_model=scene.weak["MODEL"], weight=WEIGHT
    )
    scene.picture(lane, guided["MODEL"], "the weak file", 3)
    lane = scene.lane("Guided by itself, damaged")
    damaged = scene.add(
        "GuidanceDegrade", lane, 1, model=model, kind="identity attention", strength=1.0, layers="deep 0-2"
    )
    guided = scene.add("GuidanceAutoguidance", lane, 2, model=model, guide_model=damaged["MODEL"], weight=WEIGHT)
    scene.picture(lane, guided["MODEL"], "itself, damaged", 3)
    return scene.build()
