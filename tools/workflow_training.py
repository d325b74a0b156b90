"""The workflows that train: LoRAs by ComfyUI's own node, with P2 weighting, and as guides of each other."""

from __future__ import annotations

from workflow_graph import Node, Stamps
from workflow_scene import SEED, STEPS, Scene


def p2_training(object_info: dict, stamps: Stamps) -> dict:
    scene = Scene(
        "p2_training", "A LoRA trained on the model's own best pictures, its loss weighted over noise as P2 does.",
        object_info, stamps,
    )
    scene.shared(
        "## P2 training\n**Loss Weighting** stands before ComfyUI's own **Train LoRA** and decides how much each noise "
        "level counts. Here the lessons are pictures that the model drew with guidance; after some steps it draws "
        "more like them without.\n\nThe plot shows where the training looks, beside ComfyUI's own loss. For pictures "
        "of your own connect VAE Encode to *latents*. Keep *batch_size* 1 and raise *grad_accumulation_steps* instead.",
    )
    model = scene.main["MODEL"]
    star, lessons = _lessons(scene)
    lane = scene.lane("Train")
    weighted = scene.add("GuidanceLossWeighting", lane, 1, model=model, weighting="p2", gamma=1.0)
    trained = scene.add(
        "TrainLoraNode", lane, 1, model=weighted["MODEL"], latents=lessons["LATENT"],
        positive=star["CONDITIONING"], batch_size=1, grad_accumulation_steps=4, steps=40, learning_rate=0.0005, rank=4,
        training_dtype="fp32", lora_dtype="fp32", gradient_checkpointing=False,
    )
    scene.add(
        "LossGraphNode", lane, 2, size=(220, 290), loss=trained["loss_map"],
        filename_prefix="guidance/p2_training_loss",
    )
    lane = scene.lane("Before")
    scene.picture(lane, model, "before", 3)
    lane = scene.lane("After")
    adapted = scene.add("LoraModelLoader", lane, 2, model=model, lora=trained["lora"], strength_model=1.0)
    scene.picture(lane, adapted["model"], "after", 3)
    return scene.build()


def lora_guide(object_info: dict, stamps: Stamps) -> dict:
    scene = Scene(
        "lora_guide", "A LoRA guided by an earlier snapshot of itself, over one model in memory.", object_info, stamps,
    )
    scene.shared(
        "## A LoRA guided by its own past\nTwo snapshots of one training: after 10 steps and after 60. Both go on the "
        "same model. **Autoguidance** steers the late one away from what the early one still got wrong.\n\nThe model "
        "is in memory once: while the guide is evaluated, the difference of the two LoRAs is switched on. Guidance "
        "Report says so.\n\nWith LoRAs of yours: Load LoRA twice in place of the training. The base without any LoRA "
        "can be the guide too.",
    )
    model = scene.main["MODEL"]
    star, lessons = _lessons(scene)
    lane = scene.lane("Two snapshots of one training")
    early, late = (_trained(scene, lane, model, lessons, star, steps) for steps in (10, 60))
    scene.fold(early)  # but for the steps its settings are those of the other
    lane = scene.lane("The late LoRA")
    main = scene.add("LoraModelLoader", lane, 1, title="Late", model=model, lora=late["lora"], strength_model=1.0)
    scene.picture(lane, main["model"], "late LoRA", 3)
    lane = scene.lane("Guided by the early LoRA")
    weak = scene.add("LoraModelLoader", lane, 1, title="Early", model=model, lora=early["lora"], strength_model=1.0)
    scene.fold(weak)
    steered = scene.add("GuidanceAutoguidance", lane, 1, model=main["model"], guide_model=weak["model"], weight=2.0)
    scene.picture(lane, steered["MODEL"], "late guided by early", 3)
    return scene.build()


def _trained(scene: Scene, lane, model, lessons, positive, steps: int):
    """ComfyUI's own trainer: the same seed, so that fewer steps are an earlier snapshot."""
    return scene.add(
        "TrainLoraNode", lane, 1, title=f"After {steps} steps", size=(240, 610), model=model, latents=lessons["LATENT"],
        positive=positive["CONDITIONING"], batch_size=1, grad_accumulation_steps=4, steps=steps, learning_rate=0.0005,
        rank=4, training_dtype="fp32", lora_dtype="fp32", gradient_checkpointing=False,
    )


def _lessons(scene: Scene) -> tuple[Node, Node]:
    """A class, and pictures of it that the model draws with guidance."""
    model = scene.main["MODEL"]
    lane = scene.lane("Lessons: guided pictures of one class")
    star = scene.add("GuidanceClassLabel", lane, 1, title="The class of the lessons", model=model, label="star")
    guided = scene.add("GuidanceCFG", lane, 1, model=model, weight_from="node", weight=2.0)
    lessons = scene.add(
        "KSampler", lane, 1, title="Lessons", model=guided["MODEL"], positive=star["CONDITIONING"],
        negative=scene.no_class["CONDITIONING"], latent_image=scene.latents["LATENT"], seed=SEED + 1, steps=STEPS,
        cfg=1.0, sampler_name="euler", scheduler="karras",
    )
    return star, scene.fold(lessons)
