"""Results in the real page: apps that show them alone, and cells of a comparison looked at closely."""

import pytest
from browser import workflow
from workflow_apps import APPS

from devtools.prompt import to_prompt

pytestmark = pytest.mark.usefixtures("no_complaints")
GRID = {"steps": 3, "x_values": "off, 3", "y_values": "2, 4"}


@pytest.fixture
def app_page(pages):
    """An app is drawn in one way by both renderers."""
    return pages["vue"]


@pytest.mark.parametrize("name", APPS)
def test_an_app_opens_as_one_and_its_graph_is_whole(app_page, name, object_info):
    saved = workflow(name)
    app_page.open(name)
    words = [socket["label"] for node in saved["nodes"] for socket in node["inputs"] if "label" in socket]
    assert len(words) == len(saved["extra"]["linearData"]["inputs"]) >= 5
    shown = app_page.tab.get_by_test_id("linear-widgets").get_by_test_id("builder-widget-label")
    shown.nth(len(words) - 1).wait_for(timeout=20_000)
    assert sorted(shown.all_inner_texts()) == sorted(words)
    asked = {number: node["inputs"] for number, node in app_page.prompt().items()}
    assert asked == {number: node["inputs"] for number, node in to_prompt(saved, object_info).items()}
    app_page.command("Comfy.ToggleLinear")
    app_page.frames(60)
    assert app_page.missing() == [] and app_page.overlaps() == []
    app_page.command("Comfy.ToggleLinear")


def test_the_lab_shows_its_pictures_and_nothing_else(app_page):
    app_page.open("App-Guidance-lab")
    app_page.set("KSampler", "steps", 3)
    app_page.tab.get_by_role("button", name="Run", exact=True).last.click()
    app_page.tab.locator("img[src*='lab_']:visible").first.wait_for(timeout=60_000)
    app_page.command("Comfy.ToggleLinear")


def closer_of(page):
    """The dialog of the comparison, opened as a person does."""
    if page.renderer == "vue":
        node = page.do("() => app.rootGraph.nodes.find((one) => one.comfyClass === 'GuidanceCompare').id")
        page.tab.locator(f'[data-node-id="{node}"]').get_by_role("button", name="look closer").click()
    else:
        page.do(
            """() => app.rootGraph.nodes.find((one) => one.comfyClass === "GuidanceCompare")
                .widgets.find((widget) => widget.name === "look closer").callback()"""
        )
    return page.tab.locator("dialog.guidance-closer")


def test_a_cell_is_kept_in_the_nodes(page):
    page.open("10-Compare-settings")
    closer_of(page)
    page.tab.get_by_text("Run the workflow first").wait_for(timeout=20_000)
    page.set_all({"GuidanceCompare": GRID})
    assert page.run() == "success"
    page.frames(10)
    dialog = closer_of(page)
    cells = dialog.locator(".cells button")
    cells.nth(3).click(modifiers=["Shift"])
    cells.nth(1).click()
    assert dialog.locator(".names span").all_inner_texts() == [
        "A: autoguidance weight 3, cfg weight 2", "B: autoguidance weight 3, cfg weight 4",
    ]  # fmt: skip
    shown = dialog.locator(".stage canvas").evaluate_all("(all) => all.map((one) => one.toDataURL())")
    small = cells.locator("canvas").evaluate_all("(all) => all.map((one) => one.toDataURL())")
    assert shown == [small[1], small[3]] and len(set(small)) == 4
    dialog.locator(".keep-b").click()
    assert dialog.locator("output").inner_text() == "The nodes are set: autoguidance weight 3, cfg weight 4."
    dialog.locator(".close").click()
    assert [page.value(kind, "weight") for kind in ("GuidanceCFG", "GuidanceAutoguidance")] == [4.0, 3.0]


def test_what_cannot_be_kept_is_said(page):
    page.open("10-Compare-settings")
    page.set_all({"GuidanceCompare": GRID})
    assert page.run() == "success"
    page.do("() => app.rootGraph.remove(app.rootGraph.nodes.find((one) => one.comfyClass === 'GuidanceCFG'))")
    dialog = closer_of(page)
    dialog.locator(".keep-b").click()
    assert dialog.locator("output").inner_text() == "cfg weight: its node has gone or changed since the run. Run again."
    assert page.value("GuidanceAutoguidance", "weight") == 3.0
    dialog.locator(".close").click()
