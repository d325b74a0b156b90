"""The workflows that look for settings: a grid over two weights, and a search."""

from __future__ import annotations

from workflow_graph import Stamps
from workflow_scene import CLASSES, SEED, STEPS, Scene


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


def tune(object_info: dict, stamps: Stamps) -> dict:
    scene = Scene(
        "tune", "A search for the weight of CFG that a judge likes best, checked on new seeds; the result as a recipe.",
        object_info, stamps,
    )
    scene.shared(
        "## Tune\n**Tune Guidance** tries settings from the same noise, lets a classifier judge, and checks the winner "
        "on seeds that the search did not see. It needs Optuna (the node says how to get it).\n\nIts report says "
        "whether the winner is one. **Load Recipe** puts the settings on the MODEL; another judge, which took no part "
        "in the search, has the last word.\n\nRaise *budget* and run again: the search goes on.",
        high=390,
    )
    lane, cfg = scene.cfg_lane("The MODEL as it came", 1.0)
    scene.picture(lane, cfg["MODEL"], "as it came")
    lane = scene.lane("The search, and what it found")
    critic = scene.fold(
        scene.add("GuidanceLoadGuide", lane, 1, title="Judge of the search", name="shapes-classifier")
    )
    found = scene.add(
        "GuidanceTune", lane, 1, size=(380, 1096), model=cfg["MODEL"], positive=scene.classes["CONDITIONING"],
        negative=scene.no_class["CONDITIONING"], latent_image=scene.latents["LATENT"], vae=scene.main["VAE"],
        guide=critic["guide"], label=CLASSES, vary="cfg weight: 1 .. 3.4", budget=300,
        seeds=2, new_seeds=2, study="workflow", seed=SEED, steps=6, cfg=1.0, sampler_name="euler", scheduler="karras",
        cell_size=64,
    )
    scene.add("PreviewAny", lane, 2, title="The report", size=(380, 420), source=found["report"])
    scene.add(
        "SaveImage", lane, 2, title="What each weight does", size=(380, 300), images=found["plot"],
        filename_prefix="guidance/tune",
    )
    lane = scene.lane("The recipe, judged by another network")
    applied = scene.add("GuidanceLoadRecipe", lane, 1, size=(300, 320), model=cfg["MODEL"], recipe=found["recipe"])
    scene.picture(lane, applied["MODEL"], "with the recipe", 2)
    return scene.build()
