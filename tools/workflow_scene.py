"""What the pack's workflows share: a scene on the embedded model with its left lane, and lanes that end in a verdict.

All of them draw the same eight pictures: seed, noise, classes, sampler and steps are the same everywhere, so that only
the guidance differs. Each column of a sheet is one class; a network that steers nothing says which are as asked.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from workflow_graph import GROUP_COLOR, PAD, TITLE, Node, Output, Workflow
from workflow_layout import Block, arrange, block_of

MAIN, WEAK, EARLY, JUDGE = "edm", "edm-weak", "edm-early", "verdict"  # behind the name of a world
CLASSES = "star, heart, moon, arrow"
PHRASES = "red star on stripes, blue heart on dots, yellow moon on waves, green arrow on checks"
SIDES = {"shapes": 32, "scenes": 64}  # pixels, of the two worlds
SEED, STEPS, BATCH = 6, 24, 8
COLUMNS, CELL = 4, 128
SHEET, SHEETS = (340, 430), "GuidanceScore"
NOTE = 300  # its width


class Scene(Workflow):
    """A workflow on the embedded model: the shared nodes first, then one lane per picture."""

    label: str | Output = CLASSES

    def shared(
        self, note: str, weak: bool = False, early: bool = False, high: int = 260, one_class: str = "",
        world: str = "shapes",
    ) -> None:
        """The lane on the left: note (so many pixels high), models of this world, classes, empty latents.

        one_class: what a node of its own asks for, instead of four classes dealt in turn.
        """
        lane = self.lane("Model, classes, size")
        self.note(lane, 0, note, (NOTE, high))
        self.main = self.add("GuidanceTinyModel", lane, 0, title="Main model", name=f"{world}-{MAIN}")
        if weak:
            self.weak = self.add("GuidanceTinyModel", lane, 0, title="Weak model: the guide", name=f"{world}-{WEAK}")
        if early:
            title, name = "Early model: another guide", f"{world}-{EARLY}"
            self.early = self.add("GuidanceTinyModel", lane, 0, title=title, name=name)
        model = self.main["MODEL"]
        if one_class:
            self.one_class = self.add("PrimitiveString", lane, 0, title="Class", value=one_class)
            self.label = replace(self.one_class["STRING"], value=one_class)
        self.classes = self.add(
            "GuidanceClassLabel", lane, 0, title="Classes (positive)", model=model,
            label=PHRASES if world == "scenes" and not one_class else self.label,
        )
        no_class = self.add("GuidanceClassLabel", lane, 0, title="No class (negative)", model=model, label="")
        judge = self.add("GuidanceLoadGuide", lane, 0, title="Judge: it steers nothing", name=f"{world}-{JUDGE}")
        self.no_class, self.judge = self.fold(no_class), self.fold(judge)["guide"]
        self.latents = self.add("EmptyLatentImage", lane, 0, width=SIDES[world], height=SIDES[world], batch_size=BATCH)

    def picture(
        self, lane: int, model: Output, title: str, column: int = 2, unconditional: bool = False,
        seed: int | Output = SEED, judge: Output | None = None, target: Output | None = None, unfolded: bool = False,
    ) -> Output:
        """Sampler, decoder and the sheet with its verdict at the end of a lane; the pictures themselves come back.

        judge, target: for pictures that should agree with others; otherwise classes are what was asked for.
        unfolded: the sampler shows its settings; else it is folded below the component, if the lane has one. They are
            the same in all lanes.
        """
        positive = self.no_class if unconditional else self.classes
        before = [node.column for node in self.nodes if node.lane == lane and node.column < column]
        below = bool(before) and not unfolded
        place = max(before) if below else column
        sampler = self.add(
            "KSampler", lane, place, model=model, positive=positive["CONDITIONING"],
            negative=self.no_class["CONDITIONING"], latent_image=self.latents["LATENT"],
            seed=seed, steps=STEPS, cfg=1.0, sampler_name="euler", scheduler="karras",
        )
        if below:
            self.fold(sampler)
        decoder = self.add("VAEDecode", lane, place, samples=sampler["LATENT"], vae=self.main["VAE"])
        decoded = self.fold(decoder)["IMAGE"]
        asked = {"guide": judge, "target": target} if target else {"guide": self.judge, "label": self.label}
        self.add(
            SHEETS, lane, column + 1, title=title, size=SHEET, images=decoded, columns=COLUMNS,
            heading=title, cell_size=CELL, **asked,
        )
        return decoded

    def _place(self) -> list[dict]:
        """Lanes, each sheet beside its component or below it, and the nodes of the shared one in one column or two, so
        that the page shows all of them largest."""
        ways = (
            (shared, lanes, arrange(shared, lanes))
            for lanes in self._lane_ways() for shared in map(block_of, self._shared_ways())
        )  # fmt: skip
        shared, lanes, made = max(ways, key=lambda way: way[2].zoom)
        groups = []
        for block, (left, top), title in zip((shared, *lanes), made.corners, self.titles.values(), strict=True):
            for node, (x, y) in zip(block.nodes, block.corners, strict=True):
                node.data["pos"] = [left + x, top + y]
            width, height = block.size
            box = [left - PAD, top - TITLE - PAD, width + 2 * PAD, height + TITLE + 2 * PAD]
            groups.append({"id": len(groups) + 1, "title": title, "bounding": box, "color": GROUP_COLOR, "flags": {}})
        return groups

    def _lane_ways(self) -> Iterator[list[Block]]:
        """The lanes with their sheets in a column of their own, and at the end of the column before."""
        lanes = [[node for node in self.nodes if node.lane == lane] for lane in self.titles if lane]
        yield [block_of(nodes) for nodes in lanes]
        yield [block_of(_sheet_below(nodes)) for nodes in lanes]

    def _shared_ways(self) -> Iterator[list[Node]]:
        """The shared lane in one column, and with what follows the models in a second one."""
        nodes = [node for node in self.nodes if node.lane == 0]
        yield nodes
        models = ("MarkdownNote", "GuidanceTinyModel")
        yield [replace(node, column=0 if node.data["type"] in models else 1) for node in nodes]

    def cfg_lane(self, title: str, weight: float) -> tuple[int, Node]:
        """A new lane that begins with CFG of the main model at this weight: the lane and that node."""
        lane = self.lane(title)
        return lane, self.add(
            "GuidanceCFG", lane, 1, model=self.main["MODEL"], weight_from="node", weight=weight
        )

    def report(self, lane: int, column: int, model: Output, title: str) -> Node:
        """The plan of a MODEL, for the sampler of `picture`."""
        return self.add(
            "GuidanceReport", lane, column, title=f"Guidance Report: {title}", size=(340, 420), model=model, cfg=1.0,
            scheduler="karras", steps=STEPS,
        )


def _sheet_below(nodes: list[Node]) -> list[Node]:
    """The nodes of a lane with the sheet that ends it in the column before its own."""
    *before, last = nodes
    if last.data["type"] != SHEETS or not before:
        return nodes
    return [*before, replace(last, column=max(node.column for node in before))]
