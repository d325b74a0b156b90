"""Mistakes in widgets as ComfyUI's own validation reports them: in words, once, and no value slips through."""

import asyncio
import math

import pytest

NUMBERS = ("INT", "FLOAT")
PARTS = ("required", "optional")


@pytest.fixture(scope="module")
def nodes(comfy):
    """The pack's node classes by id, known to the host as if it had loaded the pack; beside them what feeds sockets."""
    import guidance_pack
    import nodes as core

    class Feeds(dict):
        """A node for every kind of wire."""

        def __missing__(self, kind):
            def inputs(cls):
                return {"required": {}}

            made = {"RETURN_TYPES": (kind,), "FUNCTION": "feed", "INPUT_TYPES": classmethod(inputs)}
            self[kind] = core.NODE_CLASS_MAPPINGS[f"Feed {kind}"] = type(f"Feed{kind}", (), made)
            return self[kind]

    async def collect():
        return await (await guidance_pack.comfy_entrypoint()).get_node_list()

    there = dict(core.NODE_CLASS_MAPPINGS)
    ours = {node.GET_SCHEMA().node_id: node for node in asyncio.run(collect())}
    core.NODE_CLASS_MAPPINGS.update(ours)
    feeds = Feeds()
    for node in ours.values():
        for widget in node.GET_SCHEMA().inputs:
            feeds[widget.get_io_type()]
    feeds["GUIDE"], feeds["FLOAT"]
    yield ours
    core.NODE_CLASS_MAPPINGS.clear()
    core.NODE_CLASS_MAPPINGS.update(there)


def prompt_of(node_id, node, **changed):
    """A prompt of this node alone: every socket fed, every widget at its default but for `changed`."""
    inputs, feeding = {}, {}
    for name, (kind, more) in _inputs(node).items():
        if isinstance(kind, list) or kind == "COMBO":
            inputs[name] = more.get("default") or [*(more.get("options") or []), "nothing"][0]
        elif "default" in more:
            inputs[name] = more["default"]
        elif kind == "COMFY_DYNAMICCOMBO_V3":
            first = more["options"][0]
            own = first["inputs"]["required"].items()
            inputs |= {name: first["key"], **{f"{name}.{one}": told["default"] for one, (_, told) in own}}
        elif kind != "COMFY_AUTOGROW_V3":
            feeding[kind] = {"class_type": f"Feed {kind}", "inputs": {}}
            inputs[name] = [kind, 0]
    if node_id == "GuidanceExpertSwitch":
        feeding["GUIDE"] = {"class_type": "Feed GUIDE", "inputs": {}}
        inputs |= {"guides.guide0": ["GUIDE", 0], "guides.guide1": ["GUIDE", 0]}
    return {**feeding, "node": {"class_type": node_id, "inputs": {**inputs, **changed}}}


def _inputs(node):
    found = node.INPUT_TYPES()
    return {n: (v[0], v[1] if len(v) > 1 else {}) for part in PARTS for n, v in found.get(part, {}).items()}


def errors(prompt):
    """What the host's own validation says of the node."""
    import execution

    return asyncio.run(execution.validate_inputs("prompt", prompt, "node", {}))[1]


def outside(kind, low, high):
    """Values beyond a widget's range that JSON, or a program that talks to the queue, can carry."""
    far = [low - 1, high + 1, 10**300 if kind == "INT" else 1e300, -(10**300) if kind == "INT" else -1e300]
    return far if kind == "INT" else [*far, math.nan, math.inf, -math.inf]


def test_every_number_of_every_node_is_held_to_its_range_and_said_once(nodes):
    count = 0
    for node_id, node in nodes.items():
        if all(kind != "COMBO" for kind, _ in _inputs(node).values()):  # lists of files are empty here
            assert errors(prompt_of(node_id, node)) == [], node_id
        for name, (kind, more) in _inputs(node).items():
            if kind not in NUMBERS:
                continue
            assert {"min", "max"} <= more.keys(), f"{node_id}.{name} has no range"
            for value in outside(kind, more["min"], more["max"]):
                found = errors(prompt_of(node_id, node, **{name: value}))
                assert len(found) == 1, (node_id, name, value, found)
                said = found[0]["details"]
                assert f"{name} is" in said and f"it can be {more['min']:g} to" in said.replace(",", ""), said
                assert len(said) < 300
                count += 1
    assert count > 300


def test_every_choice_of_every_node_is_one_of_its_options(nodes):
    for node_id, node in nodes.items():
        for name, (kind, _) in _inputs(node).items():
            if kind != "COMBO" and not isinstance(kind, list):
                continue
            if (node_id, name) == ("GuidanceLoadGuide", "clip"):  # nothing reads it beside a guide that is no file
                continue
            for value in ("euler, please", "x" * 100_000, 5, {"a": 1}):
                found = errors(prompt_of(node_id, node, **{name: value}))
                assert len(found) == 1, (node_id, name, value, found)
                assert all(len(error["details"]) < 1000 for error in found), found


@pytest.mark.parametrize(
    ("node_id", "changed", "words"),
    [
        ("GuidanceCFG", {"start": 0.8, "end": 0.2}, "start is 0.8 and end is 0.2. Swap them."),
        ("GuidanceSchedule", {"shape": "points", "points": "0: 1, half: 2"}, "points has 'half: 2'"),
        ("GuidanceSchedule", {"start_strength": 1e300}, "start_strength is 1e+300; it can be -10 to 10."),
        ("GuidanceCompare", {"x_values": "1, two"}, "'two'"),
        ("GuidanceTrainExperts", {"name": "../x"}, "name is '../x'"),
        ("GuidanceTrainExperts", {"rank": 100_000}, "rank is 100000; it can be 1 to 512."),
        ("GuidanceExpertSwitch", {"edges_from": "sigma", "edges": "1, 2"}, "2 guides need 1 edges"),
        ("GuidanceDegrade", {"kind": "dropout", "strength": 1.0}, "Use at most 0.9"),
        ("GuidanceMakePictures", {"sampler_name": "eular"}, "did you mean euler?"),
    ],
)
def test_one_mistake_is_said_once(nodes, node_id, changed, words):
    found = errors(prompt_of(node_id, nodes[node_id], **changed))
    assert [error["type"] for error in found] == ["custom_validation_failed"]
    assert words in found[0]["details"]


def test_two_mistakes_are_said_one_after_the_other(nodes):
    """The host goes on reading what was refused; a second look at the same prompt must find the same."""
    wrong = prompt_of("GuidanceCFG", nodes["GuidanceCFG"], start=0.8, end=0.2, weight=1e9)
    assert [errors(wrong)[0]["details"] for _ in range(2)] == [errors(wrong)[0]["details"]] * 2


@pytest.mark.parametrize("value", ["abc", None, {}, [], [1, 2, 3]])
@pytest.mark.parametrize("widget", ["weight", "start"])
def test_what_the_host_refuses_itself_is_not_said_again(nodes, widget, value):
    found = errors(prompt_of("GuidanceCFG", nodes["GuidanceCFG"], **{widget: value}))
    assert len(found) == 1 and found[0]["type"] in ("invalid_input_type", "bad_linked_input")


def test_wired_values_are_judged_when_they_are_known(nodes):
    node = nodes["GuidanceCFG"]
    wired = prompt_of("GuidanceCFG", node, end=["FLOAT", 0], start=0.8)
    wired["FLOAT"] = {"class_type": "Feed FLOAT", "inputs": {}}
    assert errors(wired) == []
    widgets = {"model": Model(), "weight_from": "node", "unit": "percent", "start": 0.8, "end": 1.0, "weight": 4.0}
    for changed, words in (
        ({"end": 0.2}, "Swap them"),
        ({"weight": math.nan}, "weight is nan; it can be 0 to 100"),
        ({"weight": "4"}, "weight is '4', which is no number"),
        ({"weight_from": None}, "weight_from is None; it can be sampler, node"),
        ({"weight_from": "somewhere"}, "weight_from is 'somewhere'; it can be sampler, node"),
    ):
        with pytest.raises(ValueError, match=words):
            node.execute(**{**widgets, **changed})


@pytest.mark.parametrize(
    ("points", "words"),
    [
        ("0: nan, 1: 0", "'0: nan'; each point is position: strength"),
        ("0: inf, 1: 0", "'0: inf'"),
        ("0: 1e9, 1: 0", "the strength 1e+09; it can be -10 to 10"),
        ("nan: 1, 1: 0", "'nan: 1'"),
        ("-1: 1, 1: 0", "the position -1, outside 0 to 1 in percent"),
        (f"0: 1, {'9' * 5000}", "'999"),
    ],
)
@pytest.mark.parametrize("unit", ["percent", "sigma"])
def test_points_are_finite_and_in_range(nodes, unit, points, words):
    prompt = prompt_of("GuidanceSchedule", nodes["GuidanceSchedule"], shape="points", unit=unit, points=points)
    (found,) = errors(prompt)
    assert words.replace("1 in percent", "100000 in sigma" if unit == "sigma" else "1 in percent") in found["details"]
    assert len(found["details"]) < 300


def test_wires_of_no_kind_are_judged_when_the_node_runs(nodes):
    """Outputs of other packs may carry anything."""
    wrong = {"model": "hello", "guide_model": 5}
    for name, value in wrong.items():
        node = nodes["GuidanceAutoguidance"]
        inputs = prompt_of("GuidanceAutoguidance", node)["node"]["inputs"]
        given = {key: None if isinstance(v, list) else v for key, v in inputs.items()} | {"model": Model(), name: value}
        with pytest.raises(ValueError, match=f"{name} got .*, which is no MODEL. Connect an output of the kind MODEL"):
            node.execute(**given)
    guides = {"guide0": 1.5, "guide1": None}
    with pytest.raises(ValueError, match="guide got 1.5, which is no GUIDE"):
        nodes["GuidanceExpertSwitch"].execute(
            guides=guides, edges_from="sigma", edges="1", schedule="cosine", handover=0.0
        )


def test_every_switch_is_on_or_off(nodes):
    """The host makes true or false of what is typed, and of what is wired nothing."""
    from guidance_pack.host.schema.validation import input_problem

    names = [(node, name) for node in nodes.values() for name, (kind, _) in _inputs(node).items() if kind == "BOOLEAN"]
    assert len(names) > 5
    for node, name in names:
        for value in ("abc", None, [1], {"__value__": [1, 2]}, 2, math.nan, 10**400):
            assert "it can be true or false" in input_problem(node, {name: value}, (), True), (node, name, value)
        assert all(input_problem(node, {name: value}, (), True) is None for value in (True, False, 1, 0.0))


@pytest.mark.parametrize("value", ["abc", None, [1.0], {}, True, math.nan])
def test_nothing_is_loaded_for_numbers_that_are_none(nodes, value):
    """The host asks which sockets are wanted before it runs a node, with whatever has come by its wires."""
    asked = 0
    for node_id, node in nodes.items():
        if "check_lazy_status" not in vars(node):
            continue
        inputs = prompt_of(node_id, node)["node"]["inputs"]
        given = {key: None if isinstance(v, list) else v for key, v in inputs.items()} | {"model": Model()}
        wanted = node.check_lazy_status(**given)
        assert "guide_model" in wanted or "guide" in wanted or node_id == "GuidanceAdaptiveWeight"  # stops by itself
        for name, (kind, _) in _inputs(node).items():
            if kind in NUMBERS:
                assert node.check_lazy_status(**{**given, name: value}) == [], (node_id, name)
                asked += 1
    assert asked > 20


class Model:
    """What a MODEL has."""

    model = model_options = clone = None
