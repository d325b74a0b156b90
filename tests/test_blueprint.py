"""The subgraph blueprints as the server hands them out: listed, whole, wired, of nodes that exist."""

import json
from pathlib import Path

import pytest
from blueprint import BLUEPRINTS, INSIDE, OUTSIDE
from workflow_graph import inputs_of

from devtools.prompt import widget_values
from devtools.server import PACK

ROOT = Path(__file__).resolve().parent.parent
FILES = sorted((ROOT / "subgraphs").glob("*.json"))


@pytest.fixture(scope="module")
def listed(server):
    """Name -> (id, entry) of this pack's blueprints on the server."""
    entries = server.get("/global_subgraphs")
    ours = {key: entry for key, entry in entries.items() if entry["info"]["node_pack"] == f"custom_nodes.{PACK}"}
    return {entry["name"]: (key, entry) for key, entry in ours.items()}


@pytest.fixture(params=BLUEPRINTS)
def saved(request, listed, server):
    """A blueprint as the page gets it."""
    return json.loads(server.get(f"/global_subgraphs/{listed[request.param][0]}")["data"])


@pytest.fixture
def inner(saved):
    return saved["definitions"]["subgraphs"][0]


def test_the_server_lists_every_file(listed):
    assert set(listed) == {file.stem for file in FILES} == set(BLUEPRINTS)
    assert {entry["source"] for _, entry in listed.values()} == {"custom_node"}


def test_a_whole_name_can_be_searched():
    """The page's search finds nothing by more than 32 letters."""
    assert all(len(name) <= 32 for name in BLUEPRINTS)


def test_it_is_one_node_that_names_its_subgraph(saved, inner):
    (node,) = saved["nodes"]
    assert len(saved["definitions"]["subgraphs"]) == 1 and node["type"] == inner["id"]
    assert saved["links"] == [] and saved["extra"]["BlueprintDescription"] == inner["description"]
    for outside, inside in ((node["inputs"], inner["inputs"]), (node["outputs"], inner["outputs"])):
        assert [(s["name"], s["type"]) for s in outside] == [(s["name"], s["type"]) for s in inside]


def test_models_go_in_and_come_out(inner):
    """It goes between loader and sampler; a guide only goes in."""
    went_in = [s["name"] for s in inner["inputs"] if s["type"] == "MODEL"]
    came_out = [s["type"] for s in inner["outputs"]]
    assert came_out == ["MODEL"] * len([name for name in went_in if name != "guide_model"]) != []


def test_its_nodes_exist_with_these_sockets_and_no_widget_is_left_over(inner, server):
    object_info = server.get("/object_info")
    for node in inner["nodes"]:
        info = object_info[node["type"]]
        assert [(s["name"], s["type"]) for s in node["inputs"]] == [(name, kind) for name, kind, _ in inputs_of(info)]
        assert [s["type"] for s in node["outputs"]] == info["output"]
        widget_values(node, info)  # refuses what is left over


def ends(inner, link):
    """The two sockets that a link of the subgraph joins."""
    nodes = {node["id"]: node for node in inner["nodes"]}
    given = inner["inputs"] if link["origin_id"] == INSIDE else nodes[link["origin_id"]]["outputs"]
    taken = inner["outputs"] if link["target_id"] == OUTSIDE else nodes[link["target_id"]]["inputs"]
    return given[link["origin_slot"]], taken[link["target_slot"]]


def test_links_agree_at_both_ends(inner):
    numbers = [link["id"] for link in inner["links"]]
    assert numbers == list(range(1, inner["state"]["lastLinkId"] + 1))
    for link in inner["links"]:
        given, taken = ends(inner, link)
        assert given["type"] == taken["type"] == link["type"]
        assert link["id"] in (given.get("links") or given["linkIds"])
        assert link["id"] in (taken.get("linkIds") or [taken["link"]])
    sockets = [socket for socket in (*inner["inputs"], *inner["outputs"])]
    assert all(socket["linkIds"] for socket in sockets), "a socket that leads nowhere"


def test_the_numbers_outside_are_those_inside(saved, inner, server):
    """Each promoted number starts at its node's own value and is of its type."""
    object_info = server.get("/object_info")
    nodes = {node["id"]: node for node in inner["nodes"]}
    (outer,) = saved["nodes"]
    promoted = [slot for slot, socket in enumerate(outer["inputs"]) if "widget" in socket]
    assert len(promoted) == len(outer["widgets_values"]) > 0
    for slot, value in zip(promoted, outer["widgets_values"], strict=True):
        links = [link for link in inner["links"] if (link["origin_id"], link["origin_slot"]) == (INSIDE, slot)]
        for node, socket in [(nodes[link["target_id"]], link["target_slot"]) for link in links]:
            name = node["inputs"][socket]["widget"]["name"]
            assert widget_values(node, object_info[node["type"]])[name] == value
