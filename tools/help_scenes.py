"""What the pictures of the help pages show: a workflow for each, and where its results stand in the picture.

Each function adds nodes to a `Strip` and returns the panels of its picture, from top to bottom, as help_layout.py
draws them. They name a run's pictures and texts by the titles of the nodes that show them.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from help_steered import (
    adaptive_weight,
    apg,
    autoguidance,
    cfg,
    clamp,
    classifier,
    degrade,
    expert_switch,
    learned_weight,
    load_guide,
    loss,
    mix,
    rescale,
    schedule,
    shape,
    train_experts,
    train_guidance,
)
from help_strip import FOUR, NAMES, STEPS, Panels, Strip, grid, one, words
from workflow_scene import JUDGE


def class_label(strip: Strip) -> Panels:
    strip.begin("star", 4)
    guided = strip.cfg(3.0)
    for label in ("star", "star, heart", FOUR):
        strip.shot(label, guided, strip.asked(label))
    strip.shot("empty", guided, strip.none, seed=8)
    rows = [[one(label, 0, 1, 2, 3)] for label in ("star", "star, heart", FOUR, "empty")]
    return [grid([""], rows, ["star", "star,\nheart", "cross,\nheart,\nmoon,\narrow", "(empty)"])]


def tiny_model(strip: Strip) -> Panels:
    strip.begin(NAMES, 12, 0)
    strip.shot("ten", strip.cfg(8.0))
    names = NAMES.split(", ")
    return [grid(names[i : i + 5], [[one("ten", j) for j in range(i, i + 5)]]) for i in (0, 5)]


def make_pictures(strip: Strip) -> Panels:
    model = strip.begin(FOUR, 1)
    made = strip.put(
        "GuidanceMakePictures",
        model=model,
        positive=strip.asked(NAMES),
        count=10,
        batch_size=10,
        width=32,
        height=32,
        steps=STEPS,
        cfg=1.0,
        sampler_name="euler",
        scheduler="karras",
        seed=7,
        name="help-pictures",
    )
    strip.save("set", made["preview"])
    return [words("The first pictures of a set"), grid([""], [[one("set", *range(8), across=4)]], zoom=4)]


def report(strip: Strip) -> Panels:
    strip.begin(FOUR, 1)
    weak = strip.weak_model()
    weighted = strip.cfg(4.0, unit="sigma", start=5.0, end=0.15)
    guided = strip.put("GuidanceAutoguidance", model=weighted, guide_model=weak, weight=2.0)["MODEL"]
    strip.put("GuidanceReport", "report", model=guided, cfg=1.0, scheduler="karras", steps=STEPS)
    plot = {"kind": "whole", "shot": "report", "width": 560}
    plan = {"kind": "words", "of": "report", "wide": 54, "first": 3, "last": -1}
    return [words("Blue: CFG weight. Orange: autoguidance weight.\nBars: evaluations per step."), plot, plan]


def inspect(strip: Strip) -> Panels:
    strip.begin(FOUR, 4)
    weak = strip.weak_model()
    weighted = strip.cfg(3.0, unit="sigma", start=5.0, end=0.15)
    guided = strip.put("GuidanceAutoguidance", model=weighted, guide_model=weak, weight=2.0)["MODEL"]
    watched = strip.put("GuidanceInspect", model=guided)
    sampled = strip.shot("result", watched["MODEL"])
    seen = strip.put("GuidanceInspection", "inspection", inspection=watched["inspection"], sampled=sampled)
    strip.save("plot", seen["plot"])
    strip.save("strip", seen["strip"])
    strip.tell("json", seen["json"])
    # Two of the strip's rows, without its small words.
    estimates = {"kind": "whole", "shot": "strip", "width": 560, "part": (19, 278, 941, 504)}
    drawn = {"kind": "chart", "draws": "pushes", "of": "json"}
    return [words("How hard each component pushes, in %"), drawn, words("The estimate over the steps"), estimates]


def compare(strip: Strip) -> Panels:
    strip.begin("heart, moon", 2)
    weak = strip.weak_model()
    guided = strip.put("GuidanceAutoguidance", model=strip.cfg(2.0), guide_model=weak, weight=2.0)["MODEL"]
    made = strip.put(
        "GuidanceCompare",
        model=guided,
        positive=strip.classes,
        negative=strip.none,
        latent_image=strip.empty,
        vae=strip.main["VAE"],
        x_parameter="cfg weight",
        x_values="off, 2, 4",
        y_parameter="autoguidance weight",
        y_values="off, 2, 3",
        seed=7,
        steps=STEPS,
        cfg=1.0,
        sampler_name="euler",
        scheduler="karras",
        cell_size=256,
    )
    strip.save("grid", made["grid"])
    said = "Columns: CFG weight off, 2, 4.\nRows: autoguidance weight off, 2, 3."
    return [words(said), {"kind": "whole", "shot": "grid", "width": 520}]


def tune(strip: Strip) -> Panels:
    strip.begin(FOUR, 8)
    guided = strip.put(
        "GuidanceAutoguidance", model=strip.cfg(1.5), guide_model=strip.weak_model(), weight=1.2
    )["MODEL"]
    made = strip.put(
        "GuidanceTune",
        model=guided,
        positive=strip.classes,
        negative=strip.none,
        latent_image=strip.empty,
        vae=strip.main["VAE"],
        guide=strip.guide("shapes-classifier"),
        label=FOUR,
        vary="cfg weight: 1 .. 4\nautoguidance weight: 1 .. 2.5",
        budget=700,
        seeds=3,
        new_seeds=3,
        study="help",
        seed=strip.seed,
        steps=8,
        cfg=1.0,
        sampler_name="euler",
        scheduler="karras",
        cell_size=64,
    )
    strip.save("plot", made["plot"])
    strip.save("strip", made["strip"])
    # Without the third column, which is empty.
    plot = {"kind": "whole", "shot": "plot", "width": 560, "part": (0, 66, 660, 402)}
    return [words("What each weight does to the judge"), plot, {"kind": "whole", "shot": "strip", "width": 560}]


def load_recipe(strip: Strip) -> Panels:
    strip.begin(FOUR, 4)
    recipe = (
        '{"format": "guidance-components/recipe/1", "components": '
        '[{"kind": "cfg", "weight": 3.0}, {"kind": "rescale", "phi": 0.5}]}'
    )
    strip.shot("without", strip.model)
    strip.shot("with", strip.put("GuidanceLoadRecipe", model=strip.model, recipe=recipe)["MODEL"])
    rows = [[one(name, 0, 1, 2, 3)] for name in ("without", "with")]
    said = "cfg 3 and rescale 0.5 from a text,\nwithout a node for each"
    return [words(said), grid([""], rows, ["as it\ncame", "with the\nrecipe"])]


def score(strip: Strip) -> Panels:
    strip.begin(FOUR, 8)
    judge = strip.guide(f"shapes-{JUDGE}")
    shots = {"unguided": strip.shot("drawn", strip.model), "CFG 3": strip.shot("drawn with CFG", strip.cfg(3.0))}
    for heading, images in shots.items():
        said = strip.put("GuidanceScore", images=images, guide=judge, label=FOUR, heading=heading, cell_size=96)
        strip.save(heading, said["sheet"])
    return [{"kind": "whole", "shot": heading, "width": 440} for heading in shots]


def loss_weighting(strip: Strip) -> Panels:
    model = strip.begin(FOUR, 1)
    titles = ("p2", "x0", "eps", "min-SNR")
    for weighting in titles:
        out = strip.put("GuidanceLossWeighting", f"curve {weighting}", model=model, weighting=weighting, gamma=1.0)
        strip.save(f"plot {weighting}", out["plot"])
    drawn = {
        "kind": "chart", "draws": "strengths", "of": [f"curve {one}" for one in titles], "stages": True,
        "names": ["p2", "x0 (ComfyUI's own)", "eps", "min-SNR"], "ticks": [0, 2, 4, 6], "high": 7,
    }  # fmt: skip
    return [words("How much each noise level counts,\nfrom pure noise to clean"), drawn]


def negative_attention(strip: Strip) -> Panels:
    strip.begin(FOUR, 1)
    strip.tell("nothing", strip.none)  # the embedded models read no prompt
    drawn = {
        "kind": "chart", "draws": "limits", "of": [(2.5, 0.25), (5.0, 0.25), (2.5, 0.5)], "most": 6, "high": 2.05,
        "ticks": [1, 1.5, 2],
    }  # fmt: skip
    return [words("How many times larger an attention\nbecomes, at most, by the weight"), drawn]


def load_pictures(strip: Strip) -> Panels:
    strip.begin(FOUR, 1)
    for title, width, height in (("as they are", 32, 32), ("wide", 32, 16), ("high", 16, 32)):
        loaded = strip.put(
            "GuidanceLoadPictures", folder="guidance/pictures/help-pictures [output]", width=width, height=height
        )
        strip.save(title, loaded["preview"])
    rows = [[one(title, 1, 3, 5, 6)] for title in ("as they are", "wide", "high")]
    return [grid([""], rows, ["the files", "width 32,\nheight 16", "width 16,\nheight 32"])]


def load_denoiser(strip: Strip) -> Panels:
    model = strip.begin(FOUR, 1, 8)
    levels = strip.put("BasicScheduler", model=model, scheduler="karras", steps=STEPS, denoise=1.0)["SIGMAS"]
    euler = strip.put("KSamplerSelect", sampler_name="euler")["SAMPLER"]
    steps = (6, 12, 16, 24)
    for step in steps:
        first = strip.put("SplitSigmas", sigmas=levels, step=step)
        sampled = strip.put(
            "SamplerCustom",
            model=strip.cfg(3.0),
            add_noise=True,
            noise_seed=strip.seed,
            cfg=1.0,
            sampler=euler,
            positive=strip.classes,
            negative=strip.none,
            sigmas=first["high_sigmas"],
            latent_image=strip.empty,
        )
        for output in ("output", "denoised_output"):
            strip.save(
                f"{output} {step}", strip.put("VAEDecode", samples=sampled[output], vae=strip.main["VAE"])["IMAGE"]
            )
    rows = [[one(f"{output} {step}", 0) for step in steps] for output in ("output", "denoised_output")]
    chain = {"kind": "flow", "boxes": ["published\nfile", "MODEL", "any\nsampler"]}
    return [chain, grid([f"step {step}" for step in steps], rows, ["noisy x", "estimate D"])]


def paper_sigmas(strip: Strip) -> Panels:
    strip.begin(FOUR, 1)
    strip.tell("nothing", strip.none)
    return [
        words("Which of 1000 timesteps are visited"),
        {"kind": "chart", "draws": "visits", "of": ["ddim25", "25", "fast27"]},
    ]


def low_resolution(strip: Strip) -> Panels:
    strip.begin(FOUR, 4)
    strip.shot("large", strip.cfg(3.0))
    rows = [[one("large", i, small=8, kept=True), one("large", i, small=8), one("large", i, sigma=1.0)] for i in (1, 3)]
    return [grid(["small\npicture", "resized:\n3 channels", "noisy x:\n3 channels"], rows, zoom=4)]


def glide_prompt(strip: Strip) -> Panels:
    strip.begin(FOUR, 1)
    strip.tell("nothing", strip.none)
    told = {"kind": "flow", "boxes": ["An oil painting\nof a corgi", "7 tokens,\n121 padding", "GLIDE"]}
    empty = {"kind": "flow", "boxes": ["(empty)", "128 padding", "GLIDE"]}
    return [words("A text"), told, words("No text: no vocabulary needed"), empty]


def noise_of(timestep: int) -> float:
    """Noise to signal at a timestep of ADM's linear schedule."""
    kept = math.prod(1 - (1e-4 + (0.02 - 1e-4) * i / 999) for i in range(timestep + 1))
    return math.sqrt((1 - kept) / kept)


def import_experts(strip: Strip) -> Panels:
    strip.begin(FOUR, 4)
    strip.shot("clean", strip.cfg(3.0))
    chain = {"kind": "flow", "boxes": ["0_max5.ckpt\n...\n4_max5.ckpt", "one file:\na bank", "Load\nGuide"]}
    noisy = [[one("clean", i, sigma=noise_of(200 * n + 100)) for n in range(5)] for i in (1, 3)]
    return [chain, words("What each expert is in charge of"), grid([f"{n}_max5" for n in range(5)], noisy)]


def export_experts(strip: Strip) -> Panels:
    strip.begin(FOUR, 1)
    guide = strip.guide("shapes-experts")
    strip.put("GuidanceExportExperts", "folder", guide=guide, name="help-experts")
    inside = "expert-0 (cleanest)\n...\nexpert-4 (noisiest)\nexperts.json"
    files = "In each expert's folder:\nadapter_config.json\nadapter_model.safetensors\nwhole.safetensors"
    return [{"kind": "flow", "boxes": ["a bank", inside, "peft"]}, words(files)]


def convert_checkpoint(strip: Strip) -> Panels:
    strip.begin(FOUR, 1)
    strip.tell("nothing", strip.none)
    boxes = ["model.pkl\ntensors and\na program", "model.safetensors\nthe same tensors,\nno program"]
    return [{"kind": "flow", "boxes": boxes}]


def post_hoc_ema(strip: Strip) -> Panels:
    strip.begin(FOUR, 1)
    strip.tell("nothing", strip.none)
    return [
        words("How much the weights of each time count"),
        {"kind": "chart", "draws": "profiles", "stored": [0.05, 0.1], "wanted": 0.075},
    ]


def inspection(strip: Strip) -> Panels:
    inspect(strip)
    # Without the times, which are those of the computer.
    plot = {"kind": "whole", "shot": "plot", "width": 600, "part": (0, 40, 960, 712)}
    return [
        words("plot: updates, weights, evaluations"),
        plot,
        words("strip: the estimate over the steps"),
        {"kind": "whole", "shot": "strip", "width": 600, "part": (0, 46, 960, 276)},
    ]


MADE = (
    cfg, autoguidance, mix, adaptive_weight, learned_weight, train_guidance, degrade, schedule, rescale, clamp, apg,
    shape, classifier, loss,
    expert_switch, train_experts, load_guide, class_label, tiny_model, make_pictures, load_pictures, report, inspect,
    inspection, compare, tune, load_recipe, score, loss_weighting, load_denoiser, paper_sigmas, low_resolution,
    import_experts, export_experts, convert_checkpoint, post_hoc_ema, negative_attention, glide_prompt,
)  # fmt: skip
PICTURES: dict[str, Callable[[Strip], Panels]] = {made.__name__: made for made in MADE}
# What must have run before, on the same ComfyUI.
FIRST: dict[str, Callable[[Strip], Panels]] = {"load_pictures": make_pictures}
