"""The conversion of saved workflows into prompts (tools/devtools/prompt.py), on made-up nodes."""

import pytest

from devtools.prompt import to_prompt
from devtools.terminal import DevError

OBJECT_INFO = {
    "Load": {"input": {"required": {"name": [["a", "b"], {}]}}, "input_order": {"required": ["name"]}},
    "Preview": {"input": {"required": {"source": ["*", {}]}}, "input_order": {"required": ["source"]}},
    "Upload": {
        "input": {"required": {"image": [["x.png"], {"image_upload": True}], "channel": ["COMBO", {}]}},
        "input_order": {"required": ["image", "channel"]},
    },
    "Save": {
        "input": {
            "required": {
                "codec": ["COMFY_DYNAMICCOMBO_V3", {"options": [
                    {"key": "auto", "inputs": {"required": {}}},
                    {"key": "h264", "inputs": {"optional": {"crf": ["FLOAT", {"default": 23.0}]}}},
                ]}],
                "name": ["STRING", {"default": "out"}],
            }
        },
        "input_order": {"required": ["codec", "name"]},
    },
    "Guide": {
        "input": {
            "required": {"model": ["MODEL"], "weight": ["FLOAT", {"default": 1.0}]},
            "optional": {"schedule": ["GUIDANCE_SCHEDULE"], "note": ["STRING", {"default": "", "forceInput": True}]},
        },
        "input_order": {"required": ["model", "weight"], "optional": ["schedule", "note"]},
    },
    "Sample": {
        "input": {
            "required": {"model": ["MODEL"], "seed": ["INT", {"default": 0, "control_after_generate": True}]},
            "optional": {"steps": ["INT", {"default": 20}], "added": ["BOOLEAN", {"default": False}]},
        },
        "input_order": {"required": ["model", "seed"], "optional": ["steps", "added"]},
    },
}


def node(number, kind, values=(), inputs=(), **more):
    sockets = [{"name": name, "type": type_, "link": link} for name, type_, link in inputs]
    return {"id": number, "type": kind, "widgets_values": list(values), "inputs": sockets, "mode": 0, **more}


def workflow(nodes, links):
    return {"nodes": nodes, "links": [[number, a, slot, b, 0, kind] for number, a, slot, b, kind in links]}


def chain(**guide):
    """Load -> Guide -> Sample, the Guide as given."""
    return workflow(
        [
            node(1, "Load", ["b"]),
            node(2, "Guide", [2.5], [("model", "MODEL", 1)], **guide),
            node(3, "Sample", [7, "randomize", 12], [("model", "MODEL", 2)]),
        ],
        [(1, 1, 0, 2, "MODEL"), (2, 2, 0, 3, "MODEL")],
    )


def inputs_of(saved):
    return {number: entry["inputs"] for number, entry in to_prompt(saved, OBJECT_INFO).items()}


def test_a_chain_keeps_its_values_and_links():
    assert inputs_of(chain()) == {
        "1": {"name": "b"},
        "2": {"model": ["1", 0], "weight": 2.5},
        "3": {"model": ["2", 0], "seed": 7, "steps": 12, "added": False},
    }


def test_titles_are_kept_for_messages():
    assert to_prompt(chain(title="weaker self"), OBJECT_INFO)["2"]["_meta"]["title"] == "weaker self"


def test_a_bypassed_node_hands_its_input_through():
    made = inputs_of(chain(mode=4))
    assert "2" not in made and made["3"]["model"] == ["1", 0]


def test_a_muted_node_leaves_its_reader_without_the_input():
    made = inputs_of(chain(mode=2))
    assert "2" not in made and "model" not in made["3"]


def test_reroutes_are_followed_and_notes_are_skipped():
    saved = workflow(
        [
            node(1, "Load", ["a"]),
            node(2, "Reroute", [], [("", "*", 1)]),
            node(3, "Sample", [7, "fixed"], [("model", "MODEL", 2)]),
            node(4, "Note", ["read me"]),
            node(5, "MarkdownNote", ["# read me"]),
        ],
        [(1, 1, 0, 2, "MODEL"), (2, 2, 0, 3, "MODEL")],
    )
    assert inputs_of(saved) == {
        "1": {"name": "a"},
        "3": {"model": ["1", 0], "seed": 7, "steps": 20, "added": False},
    }


def test_a_linked_widget_keeps_its_slot_and_the_link_wins():
    saved = workflow(
        [
            node(1, "PrimitiveNode", [99, "fixed"]),
            node(2, "Sample", [7, "fixed", 12], [("seed", "INT", 1)]),
        ],
        [(1, 1, 0, 2, "INT")],
    )
    assert inputs_of(saved)["2"] == {"seed": 99, "steps": 12, "added": False}


def test_an_upload_button_takes_a_slot():
    made = inputs_of(workflow([node(1, "Upload", ["x.png", "image", "red"])], []))
    assert made["1"] == {"image": "x.png", "channel": "red"}


def test_missing_values_get_the_default_or_the_first_choice():
    made = inputs_of(workflow([node(1, "Load"), node(2, "Upload", ["x.png", "image"])], []))
    assert made == {"1": {"name": "a"}, "2": {"image": "x.png"}}


@pytest.mark.parametrize(
    ("saved", "expected"),
    [
        (["auto", "film"], {"codec": "auto", "name": "film"}),
        (["h264", 18.0, "film"], {"codec": "h264", "codec.crf": 18.0, "name": "film"}),
        ([], {"codec": "auto", "name": "out"}),
    ],
)
def test_a_choice_brings_its_own_widgets(saved, expected):
    assert inputs_of(workflow([node(1, "Save", saved)], []))["1"] == expected


def test_the_places_of_the_page_s_own_previews_do_not_count():
    saved = workflow([node(1, "Load", ["b", None, ""]), node(2, "Preview", ["what it showed last"])], [])
    assert inputs_of(saved) == {"1": {"name": "b"}, "2": {}}


def test_widget_values_that_are_left_over_are_refused():
    with pytest.raises(DevError, match=r"node 'Load' \(Load\) has 1 more widget values"):
        to_prompt(workflow([node(1, "Load", ["a", 3])], []), OBJECT_INFO)


def test_an_unknown_node_is_named():
    with pytest.raises(DevError, match="no node of type Nonsense .*'my node'"):
        to_prompt(workflow([node(1, "Nonsense", title="my node")], []), OBJECT_INFO)


def test_subgraphs_are_refused():
    with pytest.raises(DevError, match="subgraphs"):
        to_prompt({**chain(), "definitions": {"subgraphs": [{}]}}, OBJECT_INFO)
