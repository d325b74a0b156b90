"""Prompts as people build them of the pack's nodes, small enough to run in a second or two."""

from __future__ import annotations

from random import Random
from typing import Any

Prompt = dict[str, dict[str, Any]]
COMPONENTS = (
    "GuidanceCFG", "GuidanceRescale", "GuidanceAPG", "GuidanceAutoguidance", "GuidanceMix", "GuidanceClassifier",
    "GuidanceLoss", "GuidanceDegrade", "GuidanceInspect", "GuidanceLossWeighting", "GuidanceShape",
)  # fmt: skip
# Numbers whose largest value is allowed and takes days.
WORK = frozenset({"steps", "count", "iterations", "experts", "batch_size", "accumulate", "cutouts", "width", "height"})
SMALL = {
    "GuidanceTinyModel": {"name": "shapes-edm"},
    "GuidanceCompare": {"steps": 1, "cell_size": 64, "x_values": "1, 2"},
    "GuidanceMakePictures": {"count": 2, "batch_size": 2, "steps": 1, "width": 32, "height": 32},
    "GuidanceTrainExperts": {"iterations": 2, "experts": 2, "batch_size": 2, "rank": 2},
    "GuidanceClassifier": {"label": "star"},
    "GuidanceShape": {"rule": "FDG", "rule.low": 0.4, "rule.high": 1.0},
    "GuidanceLoss": {"loss": "mse"},
    "GuidanceLoadGuide": {"name": "shapes-classifier"},
    "GuidanceReport": {"steps": 4},
    "GuidanceScore": {"cell_size": 64},
}


class Graphs:
    """Graphs of these nodes (by id), every widget at its default or small."""

    def __init__(self, ours: dict[str, Any]) -> None:
        self.ours = ours

    def draw(self, random: Random) -> Prompt:
        prompt: Prompt = {}
        self._sources(prompt)
        chain = [random.choice(COMPONENTS) for _ in range(random.choice((1, 1, 2, 3)))]
        model = ["model", 0]
        for index, kind in enumerate(chain):
            self._component(prompt, f"{kind.removeprefix('Guidance')} {index}", kind, model, random)
            model = [f"{kind.removeprefix('Guidance')} {index}", 0]
        random.choice((self._sampled, self._sampled, self._sampled, self._custom, self._reported, self._compared,
                       self._trained))(prompt, model, random)
        return prompt

    def range_of(self, kind: str, key: str) -> list[Any]:
        """The ends of a widget's range, or its choices; nothing for sockets."""
        node = self.ours.get(kind)
        for widget in node.GET_SCHEMA().inputs if node is not None else ():
            if widget.id == key:
                ends = [getattr(widget, end, None) for end in (("min",) if key in WORK else ("min", "max"))]
                choices = (getattr(choice, "key", choice) for choice in getattr(widget, "options", None) or ())
                return [end for end in ends if end is not None] or list(choices)
        return []

    def put(self, prompt: Prompt, name: str, kind: str, /, **inputs: Any) -> None:
        """A node; one of ours gets its widgets' defaults."""
        node, widgets = self.ours.get(kind), {}
        for widget in node.GET_SCHEMA().inputs if node is not None else ():
            default, options = getattr(widget, "default", None), getattr(widget, "options", None)
            if default is None and options:
                default = options[0]
            if default is not None:
                widgets[widget.id] = default
        prompt[name] = {"class_type": kind, "inputs": {**widgets, **SMALL.get(kind, {}), **inputs}}

    def _sources(self, prompt: Prompt) -> None:
        self.put(prompt, "model", "GuidanceTinyModel")
        self.put(prompt, "weak", "GuidanceTinyModel", name="shapes-edm-weak")
        self.put(prompt, "positive", "GuidanceClassLabel", model=["model", 0], label="star")
        self.put(prompt, "negative", "GuidanceClassLabel", model=["model", 0], label="")
        self.put(prompt, "latent", "EmptyLatentImage", width=32, height=32, batch_size=1)

    def _component(self, prompt: Prompt, name: str, kind: str, model: list, random: Random) -> None:
        inputs: dict[str, Any] = {"model": model}
        if kind in ("GuidanceAutoguidance", "GuidanceMix"):
            inputs["guide_model"] = ["weak", 0]
            if random.random() < 0.4:
                self.put(prompt, f"degraded for {name}", "GuidanceDegrade", model=["model", 0],
                         kind=random.choice(self.range_of("GuidanceDegrade", "kind")), strength=0.5)
                inputs["guide_model"] = [f"degraded for {name}", 0]
        if kind == "GuidanceClassifier":
            inputs["guide"] = self._guide(prompt, random)
        if kind == "GuidanceLoss":
            prompt["target"] = {"class_type": "EmptyImage", "inputs": {
                "width": 32, "height": 32, "batch_size": 1, "color": 255}}
            inputs["target"] = ["target", 0]
        if "schedule" in {widget.id for widget in self.ours[kind].GET_SCHEMA().inputs} and random.random() < 0.5:
            self.put(prompt, "schedule", "GuidanceSchedule",
                     shape=random.choice(self.range_of("GuidanceSchedule", "shape")))
            inputs["schedule"] = ["schedule", 0]
        self.put(prompt, name, kind, **inputs)

    def _guide(self, prompt: Prompt, random: Random) -> list:
        self.put(prompt, "guide", "GuidanceLoadGuide", name=random.choice(
            ("shapes-classifier", "shapes-noisy-classifier", "shapes-depth")))
        if random.random() < 0.6:
            return ["guide", 0]
        self.put(prompt, "experts", "GuidanceExpertSwitch",
                 **{f"guides.guide{i}": ["guide", 0] for i in range(2)})
        return ["experts", 0]

    def _sampled(self, prompt: Prompt, model: list, random: Random) -> None:
        self.put(prompt, "sampler", "KSampler", model=model, positive=["positive", 0], negative=["negative", 0],
                 latent_image=["latent", 0], seed=1, steps=2, cfg=random.choice((1.0, 2.0)), denoise=1.0,
                 sampler_name=random.choice(("euler", "dpmpp_2s_ancestral", "ddpm", "uni_pc")), scheduler="karras")
        self._seen(prompt, random)

    def _custom(self, prompt: Prompt, model: list, random: Random) -> None:
        guider = random.choice(("CFGGuider", "BasicGuider"))
        prompts = {"conditioning": ["positive", 0]} if guider == "BasicGuider" else {
            "positive": ["positive", 0], "negative": ["negative", 0], "cfg": 2.0}
        self.put(prompt, "guider", guider, model=model, **prompts)
        self.put(prompt, "noise", "RandomNoise", noise_seed=1)
        self.put(prompt, "select", "KSamplerSelect", sampler_name="euler")
        self.put(prompt, "sigmas", "BasicScheduler", model=model, scheduler="karras", steps=2, denoise=1.0)
        sigmas = ["sigmas", 0]
        if random.random() < 0.3:
            self.put(prompt, "flipped", "FlipSigmas", sigmas=sigmas)
            sigmas = ["flipped", 0]
        self.put(prompt, "sampler", "SamplerCustomAdvanced", noise=["noise", 0], guider=["guider", 0],
                 sampler=["select", 0], sigmas=sigmas, latent_image=["latent", 0])
        self._seen(prompt, random)

    def _seen(self, prompt: Prompt, random: Random) -> None:
        self.put(prompt, "decoded", "VAEDecode", samples=["sampler", 0], vae=["model", 1])
        self.put(prompt, "look", "FuzzLook", images=["decoded", 0])
        inspect = next((name for name, node in prompt.items() if node["class_type"] == "GuidanceInspect"), None)
        if inspect is not None:
            self.put(prompt, "inspection", "GuidanceInspection", inspection=[inspect, 1], sampled=["sampler", 0])
        if random.random() < 0.2:
            self.put(prompt, "judge", "GuidanceLoadGuide")
            self.put(prompt, "score", "GuidanceScore", images=["decoded", 0], guide=["judge", 0], label="star")

    def _reported(self, prompt: Prompt, model: list, random: Random) -> None:
        self.put(prompt, "report", "GuidanceReport", model=model)

    def _compared(self, prompt: Prompt, model: list, random: Random) -> None:
        self.put(prompt, "compare", "GuidanceCompare", model=model, positive=["positive", 0], vae=["model", 1],
                 negative=["negative", 0], latent_image=["latent", 0])
        self.put(prompt, "look", "FuzzLook", images=["compare", 1])

    def _trained(self, prompt: Prompt, model: list, random: Random) -> None:
        self.put(prompt, "pictures", "GuidanceMakePictures", model=model, name=f"set {random.randrange(10**9)}")
        self.put(prompt, "clean", "GuidanceLoadGuide")
        self.put(prompt, "trained", "GuidanceTrainExperts", guide=["clean", 0], pictures=["pictures", 0],
                 name=f"bank {random.randrange(10**9)}")
        self.put(prompt, "exported", "GuidanceExportExperts", guide=["trained", 0], name=f"x {random.randrange(10**9)}")
