"""What the pictures of the help pages are made of: workflows on the embedded model, and the cells of a layout."""

from __future__ import annotations

from collections.abc import Sequence

from workflow_graph import Node, Output
from workflow_scene import MAIN, WEAK, Scene

STEPS = 24
FOUR = "cross, heart, moon, arrow"
SHAPES = ["cross", "heart", "moon", "arrow"]
NAMES = "circle, square, triangle, star, ring, cross, heart, moon, arrow, pill"
DEALT = 2 * NAMES.split(", ")
CLASS_SCALE = 10.0
ASKED = "The model is told no class.\nThe guide wants a moon."

Panels = list[dict]


class Strip(Scene):
    """A workflow on the embedded model whose shots differ in what is shown alone: same noise, classes and sampler."""

    def begin(self, classes: str, batch: int, first: int = 5, seed: int = 7) -> Output:
        """The model, its classes and its latents; the MODEL comes back."""
        self.only, self.seed, self.shapes = self.lane("All"), seed, classes
        self.main = self.put("GuidanceTinyModel", name=f"shapes-{MAIN}")
        self.model = self.main["MODEL"]
        self.classes, self.none = self.asked(classes), self.asked("")
        self.empty = self.put("EmptyLatentImage", width=32, height=32, batch_size=first + batch)["LATENT"]
        self.empty = self.put("LatentFromBatch", samples=self.empty, batch_index=first, length=batch)["LATENT"]
        return self.model

    def put(self, kind: str, title: str | None = None, /, **values) -> Node:
        return self.add(kind, self.only, 0, title=title, **values)

    def asked(self, classes: str) -> Output:
        return self.put("GuidanceClassLabel", model=self.model, label=classes)["CONDITIONING"]

    def weak_model(self) -> Output:
        return self.put("GuidanceTinyModel", name=f"shapes-{WEAK}")["MODEL"]

    def guide(self, name: str) -> Output:
        return self.put("GuidanceLoadGuide", name=name)["guide"]

    def towards(self, guide: Output, scale: float, title: str | None = None) -> Output:
        """A MODEL that a guide steers to the classes, looking at the noisy picture itself."""
        return self.put(
            "GuidanceClassifier", title, model=self.model, guide=guide, label=self.shapes, scale=scale, at="noisy input"
        )["MODEL"]

    def cfg(self, weight: float, title: str | None = None, **more) -> Output:
        return self.put("GuidanceCFG", title, **{"model": self.model, "weight_from": "node", "weight": weight, **more})[
            "MODEL"
        ]

    def shot(self, title: str, model: Output, positive: Output | None = None, **more) -> Output:
        """Pictures of a MODEL under a title; they come back."""
        given = {"seed": self.seed, "steps": STEPS, "cfg": 1.0, "sampler_name": "euler", "scheduler": "karras"}
        sampled = self.put(
            "KSampler",
            model=model,
            positive=positive or self.classes,
            negative=self.none,
            **{"latent_image": self.empty, **given, **more},
        )
        decoded = self.put("VAEDecode", samples=sampled["LATENT"], vae=self.main["VAE"])["IMAGE"]
        self.save(title, decoded)
        return decoded

    def save(self, title: str, images: Output) -> None:
        self.put("SaveImage", title, images=images, filename_prefix=f"guidance/{self.name}")

    def tell(self, title: str, source: Output) -> None:
        """A text under a title."""
        self.put("PreviewAny", title, source=source)


def one(shot: str, *picks: int, **how) -> dict:
    """A cell of a grid: these pictures of a shot."""
    return {"shot": shot, "picks": list(picks), **how}


def grid(head: Sequence[str], rows: list[list[dict]], side: Sequence[str] | None = None, zoom: int = 3) -> dict:
    return {"kind": "grid", "head": list(head), "rows": rows, "side": list(side or []), "zoom": zoom}


def table(columns: dict[str, str], side: Sequence[str], picks: tuple[int, ...] = (0, 1, 2, 3), zoom: int = 3) -> dict:
    """A grid whose columns are shots, under their headings, and whose rows are the same pictures of each."""
    rows = [[one(shot, i) for shot in columns.values()] for i in picks]
    return grid(list(columns), rows, [side[i] for i in picks] if side else None, zoom)


def words(text: str, **how) -> dict:
    return {"kind": "words", "text": text, "wide": 48, **how}
