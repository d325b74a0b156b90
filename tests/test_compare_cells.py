"""What the page is told of a comparison's cells: where each lies on the sheet, and the widgets that give it again."""

import json

import pytest
import torch
from compare_scene import chained, compared, given, sampled, scene


@pytest.fixture(scope="module")
def tiny(comfy):
    from guidance_pack.host.models.tiny import load_tiny_model

    with torch.inference_mode():
        return load_tiny_model("shapes-edm"), load_tiny_model("shapes-edm-weak")


def cut(made, cell):
    left, top, right, bottom = cell["box"]
    return made.grid[0, top:bottom, left:right]


def changes(made):
    return [[(one["words"], one["values"]) for one in cell["changes"]] for cell in made.cells]


def test_a_box_holds_its_cell_and_nothing_else(tiny):
    over = scene(chained(*tiny), batch=1, label="star")
    made = compared(over, ("autoguidance weight", "off, 3"), ("cfg weight", "2"), size=16)
    for number, cell in enumerate(made.cells):
        expected = (made.pictures[number] * 255).round() / 255
        assert torch.equal((cut(made, cell) * 255).round() / 255, expected)
    assert [cell["words"] for cell in made.cells] == [
        "autoguidance weight off, cfg weight 2", "autoguidance weight 3, cfg weight 2",
    ]  # fmt: skip


def test_changes_are_the_widgets_of_the_cells(tiny):
    over = scene(chained(*tiny))
    made = compared(over, ("autoguidance weight", "off, 3"), ("cfg interval", "0.2 to 0.6, 5 to 0.2 sigma"))
    percent = ("cfg interval", {"unit": "percent", "start": 0.2, "end": 0.6})
    sigma = ("cfg interval", {"unit": "sigma", "start": 5.0, "end": 0.2})
    off, three = (("autoguidance weight", {"weight": value}) for value in (1.0, 3.0))
    assert changes(made) == [[off, percent], [three, percent], [off, sigma], [three, sigma]]
    json.dumps(made.cells, allow_nan=False)
    made = compared(over, ("cfg weight", "3"), ("steps", "2, 3"))
    cfg = ("cfg weight", {"weight_from": "node", "weight": 3.0})
    assert changes(made) == [[cfg, ("steps", {"steps": 2})], [cfg, ("steps", {"steps": 3})]]
    made = compared(over, ("total", "3"), ("mix", "0, 1"))
    assert changes(made) == [[("total", {"total": 3.0}), ("mix", {"mix": value})] for value in (0.0, 1.0)]
    assert torch.equal(made.pictures[:2], sampled(over, chained(*tiny, cfg=3.0, auto=1.0)))


def test_a_change_has_the_key_of_its_nodes_curve(tiny):
    from guidance_pack.host.engine.page_events import curve

    main, _ = tiny
    over = scene(chained(*tiny))
    (cell,) = compared(over, ("autoguidance weight", "3"), ("cfg weight", "2")).cells
    lines = json.loads(curve(main, over.models[0])["guidance_curve"][0])["lines"]
    keys = [change["key"] for change in cell["changes"]]
    assert sorted(keys) == sorted(line["key"] for line in lines) and len(set(keys)) == 2


def test_what_no_widget_alone_sets_has_no_values(tiny):
    from guidance_pack.nodes.shape import GuidanceShape

    main, weak = tiny
    shaped = given(GuidanceShape, model=chained(main, weak), rule={"rule": "TCFG"})
    made = compared(scene(shaped), ("shape rule", "cfg zero, tcfg"), ("autoguidance weight", "2"))
    assert changes(made) == [[("shape rule", {}), ("autoguidance weight", {"weight": 2.0})]] * 2
    over = scene(main, chained(*tiny))
    made = compared(over, ("model", "plain, guided"), ("seed", "4"))
    assert changes(made) == [[(socket, {}), ("seed", {"seed": 4})] for socket in ("model", "model_2")]
    made = compared(scene(chained(*tiny)), ("equal strength", ""), ("none", ""))
    assert changes(made) == [[], [("plain CFG", {})]]
