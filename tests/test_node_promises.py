"""Old workflows keep working: ids, widget order, sockets and outputs only ever grow."""

import copy
import json
from pathlib import Path

import pytest
from node_promises import broken, promises

PROMISED = json.loads((Path(__file__).parent / "node_promises.json").read_text("utf-8"))


@pytest.fixture(scope="module")
def now(server):
    return promises(server.get("/object_info"))


def test_every_promise_is_kept(now):
    assert broken(PROMISED, now) == []


def test_what_is_new_is_promised_too(now):
    assert now == PROMISED, "run python3 tools/make_workflows.py"


def changed(change):
    other = copy.deepcopy(PROMISED)
    change(other["GuidanceCFG"])
    return other


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda node: node["widgets"].insert(0, ["new", "INT"]), "append new ones at the end"),
        (lambda node: node["widgets"].reverse(), "append"),
        (lambda node: node["widgets"][0].__setitem__(0, "renamed"), "append"),
        (lambda node: node["widgets"].pop(), "append"),
        (lambda node: node["outputs"].clear(), "outputs"),
        (lambda node: node["sockets"].pop("model"), "gone or of another type"),
        (lambda node: node["sockets"].update(model="LATENT"), "gone or of another type"),
        (lambda node: node["required"].append("new"), "prompts that were saved have no new; make it optional"),
    ],
)
def test_a_broken_promise_is_noticed(change, words):
    (found,) = broken(PROMISED, changed(change))
    assert found.startswith("GuidanceCFG") and words in found


def test_a_choice_of_a_dynamic_list_is_promised_with_its_inputs():
    for change in (lambda choices: choices.pop("TAG"), lambda choices: choices["TAG"].insert(0, ["new", "INT"])):
        other = copy.deepcopy(PROMISED)
        change(other["GuidanceShape"]["choices"])
        (found,) = broken(PROMISED, other)
        assert found.startswith("GuidanceShape: the choice TAG brought [['eta', 'FLOAT']]")


def test_appending_breaks_nothing_and_a_lost_node_does():
    grown = changed(lambda node: (node["widgets"].append(["new", "INT"]), node["sockets"].update(extra="MODEL")))
    assert broken(PROMISED, grown) == []
    lost = {name: node for name, node in PROMISED.items() if name != "GuidanceCFG"}
    assert broken(PROMISED, lost) == [
        "GuidanceCFG is gone: saved workflows name it. Keep it, or register a node replacement."
    ]
