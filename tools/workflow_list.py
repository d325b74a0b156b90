"""The workflows of the pack, one function each: what they show, said in nodes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from workflow_apps import APPS
from workflow_big import BIG
from workflow_compare import compare, tune
from workflow_degrade import degraded_guide
from workflow_experts import map_experts, own_experts, ppap, ppap_maps, train_experts
from workflow_glide import ppap_glide
from workflow_gradients import classifier, experts, targets
from workflow_graph import Stamps
from workflow_inspect import inspector
from workflow_papers import PAPERS
from workflow_scene import SEED, Scene
from workflow_training import lora_guide, p2_training

# Where guidance of this model helps, in sigma: the noisy and the clean end.
NOISY, CLEAN = 5.0, 0.15


def first_steps(object_info: dict, stamps: Stamps) -> dict:
    scene = Scene(
        "first_steps", "The same noise drawn without guidance and with classifier-free guidance (CFG Combine).",
        object_info, stamps,
    )
    scene.shared(
        "## First steps\nThe two lanes differ in one node: **CFG Combine**.\n\nPress Run: same seed, same words (one "
        "phrase per column: a colour, a shape, a ground). Under each picture stands the shape that a judge sees in it, "
        "green where it was asked for.\n\nThis seed is one at which the unguided model errs often. Over 176 pictures "
        "the judge finds 85 % of its right, with CFG 2 97 %, with CFG 4 95 %.\n\nNext: change *weight*, *seed* and "
        "the words in *Classes*, or take any model of yours in place of the tiny one.",
        high=364, world="scenes",
    )
    plain = scene.lane("Unguided")
    scene.picture(plain, scene.main["MODEL"], "unguided", seed=0)
    lane = scene.lane("CFG")
    cfg = scene.add("GuidanceCFG", lane, 1, model=scene.main["MODEL"], weight_from="node", weight=4.0)
    scene.picture(lane, cfg["MODEL"], "CFG 4", seed=0, unfolded=True)
    return scene.build()


def autoguidance(object_info: dict, stamps: Stamps) -> dict:
    scene = Scene(
        "autoguidance", "A model steered away from the mistakes of a smaller, and of a less trained version of itself.",
        object_info, stamps,
    )
    scene.shared(
        "## Autoguidance\nThe guide is the same kind of model, but weaker. Where the two disagree, **Autoguidance** "
        "steers away from the guide.\n\nThe small guide has a quarter of the size and less training, the early one the "
        "same size and a sixteenth of the training: it costs more, and guides better here.\n\nBoth see the same class, "
        "so unlike CFG it does not push towards the most typical picture.\n\nWeight 1 is off: then the guide is not "
        "even loaded.",
        weak=True, early=True, high=390,
    )
    plain = scene.lane("Unguided")
    scene.picture(plain, scene.main["MODEL"], "unguided")
    for words, guide in (("small", scene.weak), ("early", scene.early)):
        lane = scene.lane(f"Autoguidance by the {words} model")
        guided = scene.add(
            "GuidanceAutoguidance", lane, 1, model=scene.main["MODEL"], guide_model=guide["MODEL"], weight=2.0
        )
        scene.picture(lane, guided["MODEL"], f"{words} guide, autoguidance 2")
    return scene.build()


def cfg_and_autoguidance(object_info: dict, stamps: Stamps) -> dict:
    scene = Scene(
        "cfg_and_autoguidance", "Unguided, CFG, autoguidance, and one total weight divided between the two.",
        object_info, stamps,
    )
    scene.shared(
        "## CFG + Autoguidance\nFour lanes from the same noise: nothing, CFG, autoguidance, and both.\n\n"
        "**CFG + Autoguidance** divides one total weight: *mix* 0 is the second lane, 1 the third. Chaining CFG "
        "Combine and Autoguidance by hand gives the same, with two weights of your own: their effects add up.",
        weak=True,
    )
    model, weak = scene.main["MODEL"], scene.weak["MODEL"]
    scene.picture(scene.lane("Unguided"), model, "unguided")
    lane = scene.lane("CFG")
    cfg = scene.add("GuidanceCFG", lane, 1, model=model, weight_from="node", weight=2.0)
    scene.picture(lane, cfg["MODEL"], "CFG 2")
    lane = scene.lane("Autoguidance")
    guided = scene.add("GuidanceAutoguidance", lane, 1, model=model, guide_model=weak, weight=2.0)
    scene.picture(lane, guided["MODEL"], "autoguidance 2")
    lane = scene.lane("Both")
    both = scene.add("GuidanceMix", lane, 1, model=model, guide_model=weak, total=2.0, mix=0.5)
    scene.picture(lane, both["MODEL"], "both: total 2, mix 0.5")
    return scene.build()


def interval(object_info: dict, stamps: Stamps) -> dict:
    scene = Scene(
        "interval", "A high CFG weight everywhere, only in an interval of noise levels, and on a falling schedule.",
        object_info, stamps,
    )
    scene.shared(
        "## Interval\nThree lanes with the same high weight: everywhere, only where it helps, and falling towards "
        "clean.\n\n**Guidance Report** says beforehand what a MODEL will do: its plot shows the weight at each step, "
        "the bars the evaluations. Outside the interval the negative prompt is not evaluated, so those steps cost "
        "half.",
    )
    model = scene.main["MODEL"]
    lane, cfg = scene.cfg_lane("CFG 4 at every noise level", 4.0)
    scene.picture(lane, cfg["MODEL"], "CFG 4 everywhere", 4)
    lane = scene.lane("CFG 4 in an interval")
    within = scene.add(
        "GuidanceCFG", lane, 1, model=model, weight_from="node", weight=4.0, unit="sigma", start=NOISY, end=CLEAN
    )
    scene.picture(lane, within["MODEL"], "CFG 4 in (0.15, 5]", 4)
    lane = scene.lane("CFG 4, falling to off")
    fall = scene.add("GuidanceSchedule", lane, 1, shape="cosine", start=0.1, end=0.9)
    cfg = scene.add(
        "GuidanceCFG", lane, 2, model=model, weight_from="node", weight=4.0, schedule=fall["schedule"]
    )
    scene.picture(lane, cfg["MODEL"], "CFG 4 falling", 3)
    scene.report(scene.lane("What the interval will do"), 1, within["MODEL"], "interval")
    return scene.build()


def shaping(object_info: dict, stamps: Stamps) -> dict:
    scene = Scene(
        "shaping", "A CFG weight that is too high, and three ways to tame it: Rescale, APG and a rule of Shape CFG.",
        object_info, stamps,
    )
    scene.shared(
        "## Shaping\nCFG at a weight that burns colours, then the same with **Guidance Rescale**, **Adaptive Projected "
        "Guidance** and a rule of **Shape CFG**.\n\nRescale brings back the spread of the unguided picture. APG "
        "removes the part of the update that oversaturates and limits its length. PMC-CFG "
        "takes the largest weight that keeps the estimate's length. None costs an evaluation. "
        "Choose another rule and queue again.",
    )
    burnt = scene.add("GuidanceCFG", 0, 0, title="CFG 8", model=scene.main["MODEL"], weight_from="node", weight=8.0)
    scene.picture(scene.lane("CFG 8"), burnt["MODEL"], "CFG 8", 3)
    cures: tuple[tuple[str, str, dict[str, Any]], ...] = (
        ("rescale 0.7", "GuidanceRescale", {"phi": 0.7}), ("APG", "GuidanceAPG", {}),
        ("PMC-CFG", "GuidanceShape", {"rule": "PMC-CFG", "rule.limit": 1.05}),
    )
    for words, kind, values in cures:
        lane = scene.lane(f"CFG 8 + {words}")
        mended = scene.add(kind, lane, 2, model=burnt["MODEL"], **values)
        scene.picture(lane, mended["MODEL"], f"CFG 8 + {words}", 3)
    return scene.build()


def adaptive(object_info: dict, stamps: Stamps) -> dict:
    scene = Scene(
        "adaptive", "CFG, the same CFG that stops by itself, and a weight that follows how well the picture is met.",
        object_info, stamps,
    )
    scene.shared(
        "## A weight that chooses itself\nThree lanes: CFG 4, the same CFG that stops as soon as both prompts give the "
        "same picture, and feedback.\n\n**Adaptive Weight** decides for every picture of the batch by itself. *Stop "
        "when alike* keeps the picture nearly as it was and saves the negative prompt's evaluations at the end. "
        "*Feedback* begins near 1, rises while a picture does not show what was asked for, and falls when it does; the "
        "sampler's cfg is not used then.\n\nPut **Inspect Run** behind it to see the weights of a run.",
    )
    model = scene.main["MODEL"]
    lane, cfg = scene.cfg_lane("CFG 4", 4.0)
    scene.picture(lane, cfg["MODEL"], "CFG 4", 3)
    lane, cfg = scene.cfg_lane("CFG 4 that stops", 4.0)
    # Nodes 2.0 has a row for more inputs under the curve, also where this method has none.
    stops = scene.add("GuidanceAdaptiveWeight", lane, 2, model=cfg["MODEL"], similarity=0.998, size=(240, 410))
    scene.picture(lane, stops["MODEL"], "CFG 4 that stops", 3)
    lane = scene.lane("Feedback")
    follows = scene.add("GuidanceAdaptiveWeight", lane, 2, model=model, method="feedback")
    scene.picture(lane, follows["MODEL"], "feedback", 3)
    return scene.build()


def learned(object_info: dict, stamps: Stamps) -> dict:
    scene = Scene(
        "learned", "CFG at a constant weight, at weights learned for the model, and at some learned on the spot.",
        object_info, stamps,
    )
    scene.shared(
        "## Weights that are learned\n**Learned Weight** is CFG whose weight a tiny network says, by the noise and "
        "by how far both prompts are apart. Its curve on the node shows what it has learned beside the constant 2 that "
        "it began with; strength 0 is that constant.\n\nThe last lane learns on the spot, from pictures that the model "
        "itself drew without CFG, so it ends near weight 1. This is a taste: **Train Guidance** wants pictures of "
        "yours (*Load Pictures*) and some hundred iterations.",
    )
    model = scene.main["MODEL"]
    lane = scene.lane("CFG 2")
    constant = scene.add("GuidanceLearnedWeight", lane, 2, title="Strength 0", model=model, strength=0.0)
    scene.picture(lane, constant["MODEL"], "CFG 2", 3)
    lane = scene.lane("Learned on pictures of the world")
    known = scene.add("GuidanceLearnedWeight", lane, 2, model=model)
    scene.picture(lane, known["MODEL"], "learned", 3)
    lane = scene.lane("Learned on the spot")
    drawn = scene.fold(scene.add(
        "GuidanceMakePictures", lane, 2, model=model, positive=scene.classes["CONDITIONING"], count=16, batch_size=16,
        width=32, height=32, steps=12, cfg=1.0, sampler_name="euler", scheduler="karras", seed=SEED, name="of-classes",
    ))
    taught = scene.add(
        "GuidanceTrainGuidance", lane, 2, model=model, pictures=drawn["pictures"], name="shapes-taste",
        positive=scene.classes["CONDITIONING"], iterations=10, batch_size=4, learning_rate=0.05,
    )
    own = scene.add("GuidanceLearnedWeight", lane, 3, model=model, weights=taught["weights"])
    scene.picture(lane, own["MODEL"], "learned on the spot", 4)
    return scene.build()


# By the names of their files, which are the titles in the Templates dialog: first steps first, then what trains.
WORKFLOWS: dict[str, Callable[[dict, Stamps], dict]] = {
    "01-First-steps-CFG": first_steps,
    "02-Autoguidance": autoguidance,
    "03-CFG-and-autoguidance": cfg_and_autoguidance,
    "04-CFG-in-an-interval": interval,
    "05-Too-much-CFG-and-its-cures": shaping,
    "06-Classifier-guidance": classifier,
    "07-Follow-depth-or-segmentation": targets,
    "08-Experts-PPAP": ppap,
    "09-Guided-by-its-degraded-self": degraded_guide,
    "10-Compare-settings": compare,
    "11-Look-into-a-run": inspector,
    "12-Train-experts": train_experts,
    **APPS,
    "More-A-weight-that-chooses-itself": adaptive,
    "More-Weights-that-are-learned": learned,
    "More-Tune-guidance": tune,
    "More-Two-classifiers-in-turn": experts,
    "More-Experts-follow-maps": ppap_maps,
    "More-Train-experts-of-maps": map_experts,
    "More-Train-a-LoRA-with-P2": p2_training,
    "More-A-LoRA-guided-by-its-past": lora_guide,
}
# Wired and stamped here, run by whoever has the files.
NEED_FILES = {**PAPERS, **BIG, "PPAP-Experts-of-your-own": own_experts, "PPAP-GLIDE": ppap_glide}
