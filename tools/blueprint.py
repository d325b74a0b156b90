"""Subgraph blueprints: ready pieces of graph that ComfyUI's node search offers beside the nodes (subgraphs/*.json)."""

from __future__ import annotations

import uuid
from dataclasses import dataclass, field, replace
from functools import partial

from workflow_big import SDXL_FROM, SDXL_TO, TWO_THIRDS
from workflow_graph import TITLE, Output, Stamps, Workflow

from devtools.server import PACK

INSIDE, OUTSIDE = -10, -20  # the page's ids of a subgraph's own inputs and outputs
SLOTS_WIDTH, GAP, SLOT = 140, 60, 20
WIDTH, ROW = 300, 26


@dataclass
class Blueprint(Workflow):
    """A subgraph under construction; its nodes stand in one lane, its sockets to the left and to the right of them."""

    given: list[dict] = field(default_factory=list)
    promoted: list[float] = field(default_factory=list)
    returned: list[dict] = field(default_factory=list)

    def socket(self, name: str, kind: str, label: str | None = None) -> Output:
        """An input of the subgraph."""
        self.given.append({**self._slot(name, kind), **({"label": label} if label else {})})
        return Output(INSIDE, len(self.given) - 1, kind)

    def widget(self, name: str, label: str, value: float) -> Output:
        """A number of the subgraph that people set on it."""
        given = self.socket(name, "FLOAT", label)
        self.given[given.slot]["widget"] = {"name": name}
        self.promoted.append(value)
        return replace(given, value=value)

    def give(self, name: str, output: Output) -> None:
        """An output of the subgraph."""
        slot = self._slot(name, output.kind)
        slot["linkIds"].append(self._link(output, OUTSIDE, len(self.returned)))
        self.returned.append(slot)

    def _slot(self, name: str, kind: str) -> dict:
        return {"id": self._id(f"{kind}/{name}"), "name": name, "type": kind, "linkIds": []}

    def _id(self, part: str) -> str:
        return str(uuid.uuid5(uuid.NAMESPACE_URL, f"{PACK}/blueprint/{self.name}/{part}"))

    def _link(self, source: Output, node: int, slot: int) -> int:
        if source.node != INSIDE:
            return super()._link(source, node, slot)
        number = len(self.links) + 1
        self.links.append([number, source.node, source.slot, node, slot, source.kind])
        self.given[source.slot]["linkIds"].append(number)
        return number

    def build(self) -> dict:
        """The blueprint as the page saves one: a workflow of one node, and the subgraph that it is."""
        self._place()
        inner = self._id("subgraph")
        node = {
            "id": 1, "type": inner, "pos": [0, 0], "size": [WIDTH, ROW * (len(self.given) + 2)], "flags": {},
            "order": 0, "mode": 0, "title": self.name,
            "inputs": [{**outer(slot), "link": None} for slot in self.given],
            "outputs": [{**outer(slot), "links": []} for slot in self.returned],
            "properties": {"cnr_id": PACK, "ver": self.stamps.pack},
            "widgets_values": self.promoted,
        }  # fmt: skip
        return {
            "id": self._id("workflow"), "revision": 0, "last_node_id": 1, "last_link_id": 0, "nodes": [node],
            "links": [], "version": 0.4, "definitions": {"subgraphs": [self._definition(inner)]},
            "extra": {"BlueprintDescription": self.description},
        }  # fmt: skip

    def _definition(self, inner: str) -> dict:
        right = max(node.data["pos"][0] + node.data["size"][0] for node in self.nodes)
        named = ("id", "origin_id", "origin_slot", "target_id", "target_slot", "type")
        state = {"lastGroupId": 0, "lastNodeId": len(self.nodes), "lastLinkId": len(self.links), "lastRerouteId": 0}
        left = -SLOTS_WIDTH - GAP
        return {
            "id": inner, "version": 1, "state": state, "revision": 0, "config": {}, "name": self.name,
            "inputNode": {"id": INSIDE, "bounding": box(left, self.given)},
            "outputNode": {"id": OUTSIDE, "bounding": box(right + GAP, self.returned)},
            "inputs": [place(slot, left + SLOTS_WIDTH - SLOT, row) for row, slot in enumerate(self.given)],
            "outputs": [place(slot, right + GAP + SLOT, row) for row, slot in enumerate(self.returned)],
            "widgets": [], "nodes": [node.data for node in self.nodes], "groups": [],
            "links": [dict(zip(named, link, strict=True)) for link in self.links], "extra": {},
            "category": "guidance", "description": self.description,
        }  # fmt: skip


def outer(slot: dict) -> dict:
    """A slot of the subgraph as a socket of its node."""
    return {key: slot[key] for key in ("label", "name", "type", "widget") if key in slot}


def place(slot: dict, left: int, row: int) -> dict:
    """A slot of the subgraph with its place on the canvas."""
    return {**{key: value for key, value in slot.items() if key != "widget"}, "pos": [left, TITLE + SLOT * (row + 1)]}


def box(left: int, slots: list[dict]) -> list[int]:
    return [left, TITLE, SLOTS_WIDTH, SLOT * (len(slots) + 2)]


def cfg_and_autoguidance(made: Blueprint, lane: int) -> None:
    model, guide = made.socket("model", "MODEL"), made.socket("guide_model", "MODEL")
    guided = made.add(
        "GuidanceCFG", lane, 0, model=model, weight_from="node", weight=made.widget("cfg_weight", "cfg weight", 4.0),
        unit="percent", start=made.widget("cfg_start", "cfg start", 0.0), end=made.widget("cfg_end", "cfg end", 1.0),
    )
    guided = made.add(
        "GuidanceAutoguidance", lane, 1, model=guided["MODEL"], guide_model=guide,
        weight=made.widget("guide_weight", "guide weight", 2.0),
    )
    made.give("MODEL", guided["MODEL"])


def interval_and_apg(made: Blueprint, lane: int) -> None:
    guided = made.add(
        "GuidanceCFG", lane, 0, model=made.socket("model", "MODEL"), weight_from="sampler", unit="sigma",
        start=made.widget("cfg_start", "cfg start (sigma)", SDXL_FROM),
        end=made.widget("cfg_end", "cfg end (sigma)", SDXL_TO),
    )
    threshold = made.widget("norm_threshold", "APG norm threshold", 15.0)
    guided = made.add(
        "GuidanceAPG", lane, 1, model=guided["MODEL"], eta=0.0, norm_threshold=threshold, momentum=-0.5
    )
    made.give("MODEL", guided["MODEL"])


def damaged_self(made: Blueprint, lane: int, kind: str = "identity attention", end: float = 1.0) -> None:
    model = made.socket("model", "MODEL")
    weak = made.add(
        "GuidanceDegrade", lane, 0, model=model, kind=kind, strength=made.widget("strength", "damage", 1.0)
    )
    guided = made.add(
        "GuidanceAutoguidance", lane, 1, model=model, guide_model=weak["MODEL"],
        weight=made.widget("weight", "guide weight", 2.0), unit="percent", start=0.0,
        end=made.widget("end", "end (percent)", end),
    )
    made.give("MODEL", guided["MODEL"])


def structure_for_flux(made: Blueprint, lane: int) -> None:
    damaged_self(made, lane, "skipped layers", TWO_THIRDS)


def growing_cfg(made: Blueprint, lane: int) -> None:
    grow = made.add(
        "GuidanceSchedule", lane, 0, shape="linear", unit="percent", start=0.0, end=1.0,
        start_strength=made.widget("start_strength", "share of cfg at the start", 0.3),
        end_strength=made.widget("end_strength", "share of cfg at the end", 1.3),
    )
    guided = made.add(
        "GuidanceCFG", lane, 1, model=made.socket("model", "MODEL"), schedule=grow["schedule"], weight_from="sampler"
    )
    made.give("MODEL", guided["MODEL"])


def negative_at_cfg_1(made: Blueprint, lane: int) -> None:
    guided = made.add(
        "GuidanceNegativeAttention", lane, 0, model=made.socket("model", "MODEL"),
        weight=made.widget("weight", "weight", 5.0), tau=made.widget("tau", "tau", 2.5),
        alpha=made.widget("alpha", "alpha", 0.25),
    )
    made.give("MODEL", guided["MODEL"])


def two_networks(made: Blueprint, lane: int) -> None:
    networks = {name: made.socket(name, "MODEL", name.replace("_", " ")) for name in ("high_noise", "low_noise")}
    end = made.widget("cfg_end", "cfg end (percent)", TWO_THIRDS)
    for row, (name, network) in enumerate(networks.items()):
        guided = made.add(
            "GuidanceCFG", lane, row, model=network, weight_from="sampler", unit="percent", start=0.0, end=end
        )
        made.give(name, guided["MODEL"])


PLANS = {
    "CFG + Autoguidance (two weights)": (
        "CFG from start to end (percent of the run) and autoguidance by a weaker model, each with its own weight. "
        "Numbers: ours, where to begin; not measured on large models.",
        cfg_and_autoguidance,
    ),
    "Interval and APG for SDXL": (
        "The sampler's cfg only between two sigmas (2404.07724; SD 1.5 has the same noise), and APG "
        "(2410.02416) against burnt colours. Numbers: both papers' own for SDXL.",
        interval_and_apg,
    ),
    "Guided by its damaged self": (
        "Truer structure without a second file: away from the same model with identity attention (2403.17377), beside "
        "any cfg; for SD 1.5, SDXL and most others. Numbers: ours, where to begin; not measured on large models.",
        damaged_self,
    ),
    "Structure for Flux": (
        "For models that take cfg 1 (Flux, SD 3.5, Wan): away from the same model with layers skipped (2508.12880), in "
        "the first two thirds of the run. Numbers: ours, where to begin; not measured on large models.",
        structure_for_flux,
    ),
    "Growing CFG for SD3 and SDXL": (
        "A little of the sampler's cfg while the composition is decided, more for the details (2404.13040). "
        "Numbers: ours, for the paper's rising line; not measured on large models.",
        growing_cfg,
    ),
    "Negative prompt at cfg 1 (NAG)": (
        "A negative prompt for models of few steps, in their attention, with the values of its authors' nodes "
        "(2505.21179): SDXL Turbo and Lightning, Flux, SD 3.5, Qwen-Image, Wan.",
        negative_at_cfg_1,
    ),
    "Two-stage interval for Wan": (
        "The sampler's cfg up to one place of the whole run, for Wan 2.2's high-noise and low-noise network alike: "
        "what follows costs half. Numbers: ours, where to begin; not measured on large models.",
        two_networks,
    ),
}  # fmt: skip


def draw(name: str, object_info: dict, stamps: Stamps) -> dict:
    """A blueprint by its name, as the page saves one."""
    description, add_nodes = PLANS[name]
    made = Blueprint(name, description, object_info, stamps)
    add_nodes(made, made.lane(""))
    return made.build()


BLUEPRINTS = {name: partial(draw, name) for name in PLANS}
