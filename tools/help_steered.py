"""What the pictures of the nodes that steer show: help_scenes.py says how such functions are read."""

from __future__ import annotations

from help_strip import ASKED, CLASS_SCALE, DEALT, FOUR, NAMES, SHAPES, STEPS, Panels, Strip, grid, one, table, words

SHAPED = {"PMC-CFG": {}, "FDG": {"low": 0.2}, "dynamic thresholding": {"mimic": 2.0}}  # and their own numbers


def cfg(strip: Strip) -> Panels:
    model = strip.begin(FOUR, 4)
    strip.shot("1", model)
    for weight in (2, 4, 8):
        strip.shot(str(weight), strip.cfg(weight))
    return [table({"weight 1\n= off": "1", "weight 2": "2", "weight 4": "4", "weight 8": "8"}, SHAPES)]


def autoguidance(strip: Strip) -> Panels:
    model, weak = strip.begin(FOUR, 4), strip.weak_model()
    strip.shot("weak", weak)
    strip.shot("1", model)
    for weight in (2, 3):
        strip.shot(
            str(weight), strip.put("GuidanceAutoguidance", model=model, guide_model=weak, weight=weight)["MODEL"]
        )
    columns = {"the guide\nalone": "weak", "weight 1\n= off": "1", "weight 2": "2", "weight 3": "3"}
    return [table(columns, SHAPES)]


def mix(strip: Strip) -> Panels:
    model, weak = strip.begin(FOUR, 4), strip.weak_model()
    strip.shot("off", model)
    for part in (0.0, 0.5, 1.0):
        mixed = strip.put("GuidanceMix", model=model, guide_model=weak, total=3.0, mix=part)
        strip.shot(f"{part}", mixed["MODEL"])
    columns = {
        "total 1\n= off": "off",
        "3, mix 0\nall CFG": "0.0",
        "3, mix 0.5\nboth": "0.5",
        "3, mix 1\nall auto": "1.0",
    }
    return [table(columns, SHAPES)]


def degrade(strip: Strip) -> Panels:
    model = strip.begin(FOUR, 4)
    damaged = strip.put("GuidanceDegrade", model=model, kind="identity attention", strength=1.0, layers="deep 0-2")
    strip.shot("damaged", damaged["MODEL"])
    strip.shot("model", model)
    guided = strip.put("GuidanceAutoguidance", model=model, guide_model=damaged["MODEL"], weight=2.0)
    strip.shot("guided 2", guided["MODEL"])
    columns = {"the damaged\nmodel": "damaged", "your\nmodel": "model", "guided,\nweight 2": "guided 2"}
    return [table(columns, SHAPES, (0, 2, 3))]


def schedule(strip: Strip) -> Panels:
    strip.begin(FOUR, 4)
    strip.shot("always", strip.cfg(6.0, "curve always"))
    for title, first, last in (("falling", 1.0, 0.0), ("rising", 0.0, 1.0)):
        ramp = strip.put(
            "GuidanceSchedule", shape="cosine", start=0.2, end=0.8, start_strength=first, end_strength=last
        )
        strip.shot(title, strip.cfg(6.0, f"curve {title}", schedule=ramp["schedule"]))
    strip.shot("off", strip.model)
    names = ["no schedule", "falling", "rising"]
    drawn = {
        "kind": "chart", "draws": "strengths", "of": ["curve always", "curve falling", "curve rising"], "names": names,
        "ticks": [1, 3, 6], "high": 6.4,
    }  # fmt: skip
    columns = {"off": "off", "no\nschedule": "always", "falling": "falling", "rising": "rising"}
    return [words("CFG weight 6 over the run"), drawn, table(columns, SHAPES, (0, 1, 2))]


def rescale(strip: Strip) -> Panels:
    model = strip.begin(NAMES, 12, 0)
    strip.shot("off", model)
    strip.shot("cfg", strip.cfg(8.0))
    for phi in (0.5, 0.7):
        strip.shot(f"{phi}", strip.put("GuidanceRescale", model=strip.cfg(8.0), phi=phi)["MODEL"])
    columns = {"no CFG": "off", "CFG 8": "cfg", "CFG 8,\nphi 0.5": "0.5", "CFG 8,\nphi 0.7": "0.7"}
    return [table(columns, DEALT, (2, 3, 9, 11))]


def clamp(strip: Strip) -> Panels:
    strip.begin(NAMES, 12, 0)
    strip.shot("cfg", strip.cfg(8.0))
    for quantile in (0.0, 0.9, 0.6):
        clamped = strip.put("GuidanceClamp", model=strip.cfg(8.0), limit=1.0, quantile=quantile)
        strip.shot(f"{quantile:g}", clamped["MODEL"])
    columns = {"CFG 8": "cfg", "Clamp": "0", "quantile\n0.9": "0.9", "quantile\n0.6": "0.6"}
    return [table(columns, DEALT, (2, 3, 9, 11))]


def apg(strip: Strip) -> Panels:
    model = strip.begin(NAMES, 12, 0)
    strip.shot("off", model)
    strip.shot("cfg", strip.cfg(12.0))
    for longest, momentum in ((2.5, 0.0), (5.0, -0.5)):
        shaped = strip.put("GuidanceAPG", model=strip.cfg(12.0), eta=0.0, norm_threshold=longest, momentum=momentum)
        strip.shot(f"limit {longest:g}", shaped["MODEL"])
    columns = {"no CFG": "off", "CFG 12": "cfg", "APG,\nlimit 2.5": "limit 2.5", "APG, mo-\nmentum": "limit 5"}
    return [table(columns, DEALT, (4, 5, 9, 11))]


def shape(strip: Strip) -> Panels:
    strip.begin(NAMES, 12, 0)
    strip.shot("cfg", strip.cfg(8.0))
    for rule, own in SHAPED.items():
        values = {f"rule.{name}": value for name, value in own.items()}
        strip.shot(rule, strip.put("GuidanceShape", model=strip.cfg(8.0), rule=rule, **values)["MODEL"])
    columns = {"CFG 8": "cfg", "PMC-CFG": "PMC-CFG", "FDG": "FDG", "dynamic\nthresh.": "dynamic thresholding"}
    return [table(columns, DEALT, (2, 3, 9, 11))]


def adaptive_weight(strip: Strip) -> Panels:
    model = strip.begin(NAMES, 12, 0)
    weak = strip.weak_model()
    strip.shot("off", model)
    strip.shot("cfg", strip.cfg(4.0))
    made = {
        "stop": {"model": strip.cfg(4.0), "similarity": 0.998},
        "feedback": {"model": model, "method": "feedback"},
        "guide": {"model": model, "method": "feedback", "guide_model": weak},
    }
    for title, given in made.items():
        strip.shot(title, strip.put("GuidanceAdaptiveWeight", **given)["MODEL"])
    columns = {
        "no CFG": "off", "CFG 4": "cfg", "CFG 4\nthat stops": "stop", "feedback": "feedback",
        "over a\nweak one": "guide",
    }  # fmt: skip
    return [table(columns, DEALT, (2, 3, 9, 11))]


def learned_weight(strip: Strip) -> Panels:
    model = strip.begin(NAMES, 12, 0)
    strip.shot("off", model)
    for title, strength in (("constant", 0.0), ("learned", 1.0)):
        given = {"model": model, "strength": strength}
        strip.shot(title, strip.put("GuidanceLearnedWeight", f"curve {title}", **given)["MODEL"])
    columns = {"no CFG": "off", "strength 0:\nCFG 2": "constant", "learned": "learned"}
    return [words("The weight over the run"), _weights("curve learned"), table(columns, DEALT, (2, 3))]


def train_guidance(strip: Strip) -> Panels:
    model = strip.begin(NAMES, 12, 0)
    drawn = strip.put(
        "GuidanceMakePictures", model=strip.cfg(3.0), positive=strip.classes, count=20, batch_size=20, width=32,
        height=32, steps=STEPS, cfg=1.0, sampler_name="euler", scheduler="karras", seed=5, name="help-lessons",
    )
    taught = strip.put(
        "GuidanceTrainGuidance", model=model, pictures=drawn["pictures"], positive=strip.classes, name="help-weights",
        iterations=40, batch_size=4, learning_rate=0.05,
    )
    learned = strip.put("GuidanceLearnedWeight", "curve learned", model=model, weights=taught["weights"])
    strip.shot("learned", learned["MODEL"])
    return [words("Learned from pictures at CFG 3,\nfrom a constant of 2"), _weights("curve learned")]


def _weights(curve: str) -> dict:
    """The two lines of a node with learned weights."""
    return {
        "kind": "chart", "draws": "strengths", "of": [curve], "names": ["constant", "learned"],
        "ticks": [0, 1, 2, 3, 4, 5, 6], "high": 6.2,
    }  # fmt: skip


def classifier(strip: Strip) -> Panels:
    model = strip.begin("moon", 4, 8, 8)
    aware, clean = strip.guide("shapes-noisy-classifier"), strip.guide("shapes-classifier")
    strip.shot("0", model, strip.none)
    for title, guide, scale in (("3", aware, 3.0), ("10", aware, 10.0), ("clean", clean, 10.0)):
        strip.shot(title, strip.towards(guide, scale), strip.none)
    columns = {"scale 0\n= off": "0", "scale 3": "3", "scale 10": "10", "10, clean\nnetwork": "clean"}
    return [words(ASKED), table(columns, [], (1, 2, 3))]


def loss(strip: Strip) -> Panels:
    model = strip.begin(FOUR, 4)
    target = strip.shot("target", strip.cfg(3.0))
    new = {"positive": strip.none, "seed": strip.seed + 1}
    strip.shot("none", model, **new)
    for kind, scale in (("depth", 1000.0), ("segmentation", 80.0), ("mse", 3000.0)):
        guide = {} if kind == "mse" else {"guide": strip.guide(f"shapes-{kind}")}
        steered = strip.put("GuidanceLoss", model=model, loss=kind, target=target, scale=scale, at="denoised", **guide)
        strip.shot(kind, steered["MODEL"], **new)
    columns = {
        "target": "target",
        "not\nguided": "none",
        "loss:\ndepth": "depth",
        "segmen-\ntation": "segmentation",
        "mse": "mse",
    }
    return [table(columns, [])]


def expert_switch(strip: Strip) -> Panels:
    strip.begin("moon", 4, 8, 8)
    aware, clean = strip.guide("shapes-noisy-classifier"), strip.guide("shapes-classifier")
    team = strip.put(
        "GuidanceExpertSwitch",
        edges_from="timesteps",
        edges="400",
        **{"guides.guide0": clean, "guides.guide1": aware},
    )["guide"]
    for title, guide in (("clean", clean), ("aware", aware), ("team", team)):
        strip.shot(title, strip.towards(guide, CLASS_SCALE, f"curve {title}"), strip.none)
    columns = {"clean\nalone": "clean", "noise-aware\nalone": "aware", "in turn": "team"}
    turns = {"kind": "chart", "draws": "turns", "of": "curve team", "names": ["clean network", "noise-aware"]}
    return [turns, words(ASKED), table(columns, [], (1, 2, 3))]


def train_experts(strip: Strip) -> Panels:
    model = strip.begin("moon", 4, 8, 8)
    strip.shot("none", model, strip.none)
    for title, name in (("clean", "shapes-classifier"), ("experts", "shapes-experts")):
        strip.shot(title, strip.towards(strip.guide(name), CLASS_SCALE, f"curve {title}"), strip.none)
    columns = {"not\nguided": "none", "the clean\nnetwork": "clean", "its\nexperts": "experts"}
    turns = {"kind": "chart", "draws": "turns", "of": "curve experts", "names": list("12345")}
    return [words("Which of five experts is in charge"), turns, words(ASKED), table(columns, [], (1, 2, 3))]


def load_guide(strip: Strip) -> Panels:
    model = strip.begin(FOUR, 4)
    target = strip.shot("target", strip.cfg(3.0))
    new = {"positive": strip.none, "seed": strip.seed + 1}
    strip.shot("none", model, **new)
    strip.shot("classifier", strip.towards(strip.guide("shapes-noisy-classifier"), CLASS_SCALE), **new)
    for kind, scale in (("depth", 1000.0), ("segmentation", 80.0)):
        guide = strip.guide(f"shapes-{kind}")
        steered = strip.put("GuidanceLoss", model=model, loss=kind, guide=guide, target=target, scale=scale)
        strip.shot(kind, steered["MODEL"], **new)
    rows = [[{"words": "moon"}, one("none", 2), one("classifier", 2)]]
    rows += [[one("target", i), one("none", i), one(kind, i)] for kind, i in (("depth", 3), ("segmentation", 1))]
    return [
        grid(
            ["asked", "without", "with it"],
            rows,
            ["shapes-\nnoisy-\nclassifier", "shapes-\ndepth", "shapes-\nsegmen-\ntation"],
        )
    ]
