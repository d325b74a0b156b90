"""What the pack's workflows share: a scene on the embedded model with its left lane, and lanes that end in a picture.

All of them draw the same eight pictures: seed, noise, classes, sampler and steps are the same everywhere, so that only
the guidance differs. Each column of a picture is one class.
"""

from __future__ import annotations

from workflow_graph import Node, Output, Workflow

MAIN, WEAK, EARLY = "shapes-edm", "shapes-edm-weak", "shapes-edm-early"
CLASSES = "star, heart, moon, arrow"
SEED, STEPS, BATCH = 7, 24, 8
COLUMNS, CELL = 4, 128


class Scene(Workflow):
    """A workflow on the embedded model: the shared nodes first, then one lane per picture."""

    def shared(
        self, note: str, weak: bool = False, early: bool = False, size: tuple[int, int] = (360, 200)
    ) -> None:
        """The lane on the left: note, models, classes, empty latents."""
        lane = self.lane("Model, classes, size")
        self.note(lane, 0, note, size)
        self.main = self.add("GuidanceTinyModel", lane, 0, title="Main model", name=MAIN)
        if weak:
            self.weak = self.add("GuidanceTinyModel", lane, 0, title="Weak model: the guide", name=WEAK)
        if early:
            self.early = self.add("GuidanceTinyModel", lane, 0, title="Early model: another guide", name=EARLY)
        model = self.main["MODEL"]
        self.classes = self.add("GuidanceClassLabel", lane, 0, title="Classes (positive)", model=model, label=CLASSES)
        self.no_class = self.add("GuidanceClassLabel", lane, 0, title="No class (negative)", model=model, label="")
        self.latents = self.add("EmptyLatentImage", lane, 0, width=32, height=32, batch_size=BATCH)

    def picture(
        self, lane: int, model: Output, prefix: str, title: str, column: int = 2, unconditional: bool = False,
        seed: int = SEED,
    ) -> Output:
        """Sampler, decoder, grid and the saved picture at the end of a lane; the pictures themselves come back."""
        positive = self.no_class if unconditional else self.classes
        sampler = self.add(
            "KSampler", lane, column, model=model, positive=positive["CONDITIONING"],
            negative=self.no_class["CONDITIONING"], latent_image=self.latents["LATENT"],
            seed=seed, steps=STEPS, cfg=1.0, sampler_name="euler", scheduler="karras",
        )
        decoded = self.add("VAEDecode", lane, column + 1, samples=sampler["LATENT"], vae=self.main["VAE"])
        single = self.add("RebatchImages", lane, column + 1, images=decoded["IMAGE"], batch_size=1)
        grid = self.add(
            "ImageGrid", lane, column + 1, images=single["IMAGE"], columns=COLUMNS, cell_width=CELL, cell_height=CELL,
        )
        self.add(
            "SaveImage", lane, column + 2, title=title, size=(330, 300), images=grid["images"],
            filename_prefix=f"guidance/{prefix}",
        )
        return decoded["IMAGE"]

    def report(self, lane: int, column: int, model: Output, title: str) -> Node:
        """The plan of a MODEL, for the sampler of `picture`."""
        return self.add(
            "GuidanceReport", lane, column, title=f"Guidance Report: {title}", size=(400, 440), model=model, cfg=1.0,
            scheduler="karras", steps=STEPS,
        )
