"""The workflow that compares: one node, a grid over two weights."""

from __future__ import annotations

from workflow_graph import Stamps
from workflow_scene import SEED, STEPS, Scene


def compare(object_info: dict, stamps: Stamps) -> dict:
    scene = Scene(
        "compare", "A grid over the weights of CFG and of autoguidance, from the same noise, with headings.",
        object_info, stamps,
    )
    scene.shared(
        "## Compare\n**Compare Guidance** draws every combination of two settings of the components on the MODEL, with "
        "headings in the picture; *off* is without the component.\n\nChange *x_values*: only the new cells are drawn. "
        "Stop it: the finished cells stay, the next run does the rest.\n\nOther things to try as *x_parameter*: "
        "*autoguidance interval* with 0 to 0.5, 0.5 to 1, always; *steps* with 6, 12, 24; or *model*, with MODELs of "
        "your own connected to *models*.",
        weak=True, high=364,
    )
    lane = scene.lane("The MODEL with the components to compare")
    cfg = scene.add("GuidanceCFG", lane, 1, model=scene.main["MODEL"], weight_from="node", weight=2.0)
    guided = scene.add(
        "GuidanceAutoguidance", lane, 2, model=cfg["MODEL"], guide_model=scene.weak["MODEL"], weight=2.0
    )
    lane = scene.lane("Nine cells of eight pictures")
    grid = scene.add(
        "GuidanceCompare", lane, 1, size=(400, 700), model=guided["MODEL"], positive=scene.classes["CONDITIONING"],
        negative=scene.no_class["CONDITIONING"], latent_image=scene.latents["LATENT"], vae=scene.main["VAE"],
        x_parameter="autoguidance weight", x_values="off, 2, 3", y_parameter="cfg weight", y_values="off, 2, 4",
        seed=SEED, steps=STEPS, cfg=1.0, sampler_name="euler", scheduler="karras",
    )
    scene.add(
        "SaveImage", lane, 2, title="The grid", size=(560, 460), images=grid["grid"],
        filename_prefix="guidance/compare",
    )
    scene.add("PreviewAny", lane, 2, title="The settings of every cell", size=(560, 240), source=grid["table"])
    return scene.build()
