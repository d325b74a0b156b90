"""What the pack's workflows share: a scene on the embedded model with its left lane, and lanes that end in a verdict.

All of them draw the same eight pictures: seed, noise, classes, sampler and steps are the same everywhere, so that only
the guidance differs. Each column of a sheet is one class; a network that steers nothing says which are as asked.
"""

from __future__ import annotations

from workflow_graph import GROUP_COLOR, PAD, TITLE, Node, Output, Workflow
from workflow_layout import arrange, block_of

MAIN, WEAK, EARLY = "shapes-edm", "shapes-edm-weak", "shapes-edm-early"
CLASSES = "star, heart, moon, arrow"
JUDGE = "shapes-verdict"
SEED, STEPS, BATCH = 6, 24, 8
COLUMNS, CELL = 4, 128
SHEET = (400, 520)


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
        self.classes = self.add("GuidanceClassLabel", lane, 1, title="Classes (positive)", model=model, label=CLASSES)
        self.no_class = self.add("GuidanceClassLabel", lane, 1, title="No class (negative)", model=model, label="")
        self.judge = self.add("GuidanceLoadGuide", lane, 1, title="Judge: it steers nothing", name=JUDGE)["guide"]
        self.latents = self.add("EmptyLatentImage", lane, 1, width=32, height=32, batch_size=BATCH)

    def picture(
        self, lane: int, model: Output, title: str, column: int = 2, unconditional: bool = False, seed: int = SEED,
        judge: Output | None = None, target: Output | None = None,
    ) -> Output:
        """Sampler, decoder and the sheet with its verdict at the end of a lane; the pictures themselves come back.

        judge, target: for pictures that should agree with others; otherwise classes are what was asked for.
        """
        positive = self.no_class if unconditional else self.classes
        sampler = self.add(
            "KSampler", lane, column, model=model, positive=positive["CONDITIONING"],
            negative=self.no_class["CONDITIONING"], latent_image=self.latents["LATENT"],
            seed=seed, steps=STEPS, cfg=1.0, sampler_name="euler", scheduler="karras",
        )
        decoded = self.add("VAEDecode", lane, column, samples=sampler["LATENT"], vae=self.main["VAE"])["IMAGE"]
        asked = {"guide": judge, "target": target} if target else {"guide": self.judge, "label": CLASSES}
        self.add(
            "GuidanceScore", lane, column + 1, title=title, size=SHEET, images=decoded, columns=COLUMNS,
            heading=title, cell_size=CELL, **asked,
        )
        return decoded

    def _place(self) -> list[dict]:
        """Lanes in as many columns as let the page show them largest."""
        blocks = [block_of([node for node in self.nodes if node.lane == lane]) for lane in self.titles]
        groups = []
        for block, (left, top), title in zip(blocks, arrange(blocks[0], blocks[1:]), self.titles.values(), strict=True):
            for node, (x, y) in zip(block.nodes, block.corners, strict=True):
                node.data["pos"] = [left + x, top + y]
            width, height = block.size
            box = [left - PAD, top - TITLE - PAD, width + 2 * PAD, height + TITLE + 2 * PAD]
            groups.append({"id": len(groups) + 1, "title": title, "bounding": box, "color": GROUP_COLOR, "flags": {}})
        return groups

    def report(self, lane: int, column: int, model: Output, title: str) -> Node:
        """The plan of a MODEL, for the sampler of `picture`."""
        return self.add(
            "GuidanceReport", lane, column, title=f"Guidance Report: {title}", size=(400, 440), model=model, cfg=1.0,
            scheduler="karras", steps=STEPS,
        )
