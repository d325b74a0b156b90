"""The pack in the real page, in both renderers: curves live, widgets come and go, help and languages work."""

import copy
import json

import browser
import pytest

pytestmark = pytest.mark.usefixtures("no_complaints")
INTERVAL, CURES = "04-CFG-in-an-interval", "05-Too-much-CFG-and-its-cures"
# By id: a click brings a node to the end of the page's list.
FIRST = "() => app.rootGraph.nodes.filter((n) => n.comfyClass === 'GuidanceCFG').sort((a, b) => a.id - b.id)[0]"

GUIDE_OF = """(kind) => {
    const node = app.rootGraph.nodes.filter((n) => n.comfyClass === kind).sort((a, b) => a.id - b.id)[0];
    return node.getInputNode(node.findInputSlot("guide")).id;
}"""
WHERE_LABEL = """(kind) => {
    const node = app.rootGraph.nodes.filter((n) => n.comfyClass === kind).sort((a, b) => a.id - b.id)[0];
    const { ds, canvas } = app.canvas;
    ds.scale = 1;
    ds.offset = [500 - node.pos[0], 300 - node.pos[1]];
    app.canvas.setDirty(true, true);
    const { left, top } = canvas.getBoundingClientRect();
    const y = node.pos[1] + (node.widgets.find(({ name }) => name === "label").last_y ?? 0) + 10;
    const x = node.pos[0] + 0.7 * node.size[0];
    return [node.id, left + (x + ds.offset[0]) * ds.scale, top + (y + ds.offset[1]) * ds.scale];
}"""


def steady(saved):
    """A saved workflow without the sizes of folded nodes, which the Vue renderer shrinks whenever it opens one."""
    folded = [node for node in saved["nodes"] if node["flags"].get("collapsed")]
    return {**saved, "nodes": [{**node, "size": None} if node in folded else node for node in saved["nodes"]]}


def test_a_curve_follows_edits_at_once(page):
    page.open(INTERVAL)
    page.set("GuidanceCFG", "unit", "percent")
    page.set("GuidanceCFG", "weight", 3.0)
    before = page.curve("GuidanceCFG")
    page.set("GuidanceCFG", "end", 0.5)
    after = page.curve("GuidanceCFG")
    assert before["names"] == ["weight"] and after["lines"] != before["lines"]
    ends = [line[0].split("L")[-1].split()[1] for line in (before["lines"], after["lines"])]
    assert float(ends[0]) < float(ends[1])  # at the clean end the weight fell to 1: lower on the page
    page.set("GuidanceCFG", "start", 0.8)
    wrong = page.curve("GuidanceCFG")
    assert wrong["words"] == "start 0.8 lies after end 0.5" and wrong["lines"] == []
    page.set("GuidanceCFG", "start", 0.0)
    assert page.curve("GuidanceCFG")["lines"] == after["lines"]


def test_the_ends_of_an_interval_are_dragged(page):
    page.open(INTERVAL)
    page.set("GuidanceCFG", "unit", "percent")
    page.set("GuidanceCFG", "start", 0.0)
    page.set("GuidanceCFG", "end", 1.0)
    page.frames(5)
    before = page.saved()
    page.drag("GuidanceCFG", 1, [-0.3, 0.0])
    end = page.value("GuidanceCFG", "end")
    assert 0.6 < end < 0.75 and page.value("GuidanceCFG", "start") == 0
    assert [node["pos"] for node in page.saved()["nodes"]] == [node["pos"] for node in before["nodes"]]
    page.drag("GuidanceCFG", 0, [0.2, 0.3])
    assert 0.15 < page.value("GuidanceCFG", "start") < 0.3 and page.value("GuidanceCFG", "end") == end
    page.command("Comfy.Undo")
    page.frames(10)
    assert (page.value("GuidanceCFG", "start"), page.value("GuidanceCFG", "end")) == (0, end)


def test_points_are_drawn_with_the_pointer(page):
    """A drag moves a point, a click beside the points adds one, a right click takes one away."""
    page.open(INTERVAL)
    page.set("GuidanceSchedule", "shape", "points")
    page.set("GuidanceSchedule", "unit", "percent")
    page.set("GuidanceSchedule", "points", "0: 0, 0.3: 1, 1: 0")
    page.frames(5)
    page.drag("GuidanceSchedule", 1, [0.2, 0.2])
    moved = page.value("GuidanceSchedule", "points").split(", ")
    position, strength = map(float, moved[1].split(": "))
    assert (moved[0], moved[2]) == ("0: 0", "1: 0") and 0.45 < position < 0.6 and 0.5 < strength < 0.9, moved
    page.drag("GuidanceSchedule", [0.85, 0.3], [0.0, 0.0])
    added = page.value("GuidanceSchedule", "points").split(", ")
    assert added[:2] == moved[:2] and added[3] == moved[2] and 0.75 < float(added[2].split(":")[0]) < 0.95, added
    page.drag("GuidanceSchedule", 1, [0.0, 0.0], button="right")
    assert page.value("GuidanceSchedule", "points").split(", ") == [added[0], *added[2:]]
    assert page.do("() => document.querySelectorAll('.litecontextmenu, .p-contextmenu').length") == 0


def test_a_node_that_cannot_be_read_blanks_no_other_curve(page):
    page.open(INTERVAL)
    page.set("GuidanceSchedule", "shape", "points")
    page.set("GuidanceSchedule", "points", None)
    page.add("GuidanceRescale", [50, 1100])
    curves = {curve["kind"]: curve for curve in page.curves()}
    assert curves["GuidanceSchedule"]["words"] == "cannot be drawn" and curves["GuidanceSchedule"]["lines"] == []
    assert len(curves["GuidanceRescale"]["lines"]) == 1
    assert page.complaints and all("guidance components:" in said for said in page.complaints)
    page.complaints.clear()


def test_a_curve_follows_the_schedule_that_is_linked_to_it(page):
    page.open(INTERVAL)
    before = page.curves()
    page.set("GuidanceSchedule", "start_strength", 0.5)
    after = page.curves()
    changed = [new["kind"] for old, new in zip(before, after, strict=True) if old["lines"] != new["lines"]]
    assert sorted(changed) == ["GuidanceCFG", "GuidanceSchedule"]


def test_a_curve_follows_the_cfg_of_the_sampler(page):
    page.open(INTERVAL)
    page.set("GuidanceCFG", "weight_from", "sampler")
    before = page.curve("GuidanceCFG")
    assert before["names"] == ["the sampler's cfg"]
    page.set("KSampler", "cfg", 9.0)
    assert page.curve("GuidanceCFG")["lines"] != before["lines"]


def values_of(saved):
    """The widgets of each node that has some in our file; what a page saves for the others is its own affair."""
    own = {node["id"] for node in browser.workflow(INTERVAL)["nodes"] if node.get("widgets_values")}
    return {node["id"]: node["widgets_values"] for node in saved["nodes"] if node["id"] in own}


def test_curves_are_in_neither_the_file_nor_the_prompt(page):
    page.open(INTERVAL)
    saved, prompt = json.dumps(page.saved()), json.dumps(page.prompt())
    assert "curve" not in saved and "curve" not in prompt
    assert values_of(page.saved()) == values_of(browser.workflow(INTERVAL))


def test_the_axis_turns_by_a_click_and_is_kept_with_the_node(page):
    page.open(INTERVAL)
    page.set("GuidanceCFG", "end", 0.5)
    before = page.curve("GuidanceCFG")
    button = "widgets.find((w) => w.name === 'curve').element.querySelector('button')"
    for axis in ("sigma", "log SNR"):
        page.do(f"() => ({FIRST})().{button}.click()")
        turned = page.curve("GuidanceCFG")
        assert turned["axis"].startswith(axis) and turned["lines"] != before["lines"]
    values = values_of(page.saved())
    page.open(page.saved())
    assert [curve["axis"].startswith("log SNR") for curve in page.curves()].count(True) == 1
    assert values_of(page.saved()) == values


def test_after_a_run_the_steps_lie_on_the_curve(page):
    saved = browser.workflow(INTERVAL)
    for node in saved["nodes"]:
        if node["type"] == "KSampler":
            node["widgets_values"][2] = 9 if page.renderer == "vue" else 11  # steps that no run before had
    page.open(saved)
    assert page.run() == "success"
    for curve in page.curves():
        assert curve["dots"] == (0 if curve["kind"] == "GuidanceSchedule" else 9 if page.renderer == "vue" else 11)
        told = curve["done"].startswith("acted at ") and f"of {curve['dots']} steps, cost × 1." in curve["done"]
        assert told or curve["kind"] == "GuidanceSchedule" or curve["done"].endswith("cost × 2"), curve
        assert curve["far"] < 2.5, curve  # pixels between a step and the line that was drawn without knowing of the run


def test_curves_survive_copy_collapse_and_undo(page):
    page.open(INTERVAL)
    original = page.curve("GuidanceCFG")
    page.do(f"() => {{ app.canvas.copyToClipboard([({FIRST})()]); app.canvas.pasteFromClipboard(); }}")
    copies = [curve for curve in page.curves() if curve["lines"] == original["lines"]]
    assert len(copies) == 2
    page.do(f"() => ({FIRST})().collapse()")
    page.frames(10)
    assert not page.curve("GuidanceCFG")["shown"]
    page.do(f"() => ({FIRST})().collapse()")
    page.frames(10)
    assert page.curve("GuidanceCFG")["shown"] and page.curve("GuidanceCFG")["lines"] == original["lines"]


def test_curves_survive_undo(page):
    page.open(INTERVAL)
    before = page.curve("GuidanceCFG")
    page.set("GuidanceCFG", "end", 0.5)
    page.remember()
    assert page.curve("GuidanceCFG")["lines"] != before["lines"]
    page.command("Comfy.Undo")
    page.frames(10)
    assert page.curve("GuidanceCFG")["lines"] == before["lines"]


def test_curves_survive_becoming_a_subgraph(page):
    page.open(INTERVAL)
    before = [curve["lines"] for curve in page.curves() if curve["kind"] == "GuidanceCFG"]
    page.do("""() => {
        const inner = app.rootGraph.nodes.filter((node) => node.comfyClass === "GuidanceCFG");
        const { subgraph } = app.graph.convertToSubgraph(new Set(inner));
        app.canvas.setGraph(subgraph);
    }""")
    page.frames(20)
    page.command("Comfy.Canvas.FitView")
    page.frames(30)
    inside = [curve for curve in page.curves() if curve["kind"] == "GuidanceCFG"]
    assert all(curve["shown"] for curve in inside)
    assert sorted(curve["lines"] for curve in inside) == sorted(before)  # the linked schedule is outside


def test_widgets_that_do_nothing_are_not_shown(page):
    where = ["unit", "start", "end", "curve"]
    sampler, own = ["weight_from", *where], ["weight_from", "weight", *where]
    ramp = ["shape", *where[:3], "start_strength", "end_strength", "curve"]
    points = ["shape", "unit", "points", "curve"]
    page.open(INTERVAL)
    assert (page.widgets("GuidanceCFG"), page.widgets("GuidanceSchedule")) == (own, ramp)
    page.remember()
    page.set("GuidanceCFG", "weight_from", "sampler")
    page.set("GuidanceSchedule", "shape", "points")
    assert (page.widgets("GuidanceCFG"), page.widgets("GuidanceSchedule")) == (sampler, points)
    page.remember()
    page.command("Comfy.Undo")
    assert (page.widgets("GuidanceCFG"), page.widgets("GuidanceSchedule")) == (own, ramp)
    page.command("Comfy.Redo")
    assert (page.widgets("GuidanceCFG"), page.widgets("GuidanceSchedule")) == (sampler, points)
    saved = page.saved()
    page.open(copy.deepcopy(saved))
    assert steady(page.saved()) == steady(saved)  # values and sizes
    assert [n["widgets_values"][1] for n in saved["nodes"] if n["type"] == "GuidanceCFG"] == [4.0] * 3
    assert 4.0 in [entry["inputs"].get("weight") for entry in page.prompt().values()]
    assert page.widgets("GuidanceCFG") == sampler
    page.do(f"() => {{ app.canvas.copyToClipboard([({FIRST})()]); app.canvas.pasteFromClipboard(); }}")
    for _ in range(3):
        page.do(f"() => app.rootGraph.remove(({FIRST})())")
    assert page.widgets("GuidanceCFG") == sampler  # the copy
    page.add("PrimitiveFloat", [50, 1100])
    page.connect("PrimitiveFloat", "FLOAT", "GuidanceCFG", "weight")
    assert page.widgets("GuidanceCFG") == own  # what is wired is seen
    page.disconnect(page.do(f"() => ({FIRST})().id"), "weight")
    page.do(f"""() => {{
        const {{ subgraph }} = app.graph.convertToSubgraph(new Set([({FIRST})()]));
        app.canvas.setGraph(subgraph);
    }}""")
    assert page.widgets("GuidanceCFG") == sampler


def test_saving_and_loading_changes_nothing(page):
    page.open("More-Two-classifiers-in-turn")
    first = page.saved()
    page.open(copy.deepcopy(first))
    assert steady(page.saved()) == steady(first)


def test_a_rule_brings_its_own_widgets_and_keeps_their_values(page):
    common = ["amount", "unit", "start", "end", "curve"]
    page.open(CURES)
    assert page.widgets("GuidanceShape") == ["rule", "rule.limit", *common]
    page.set("GuidanceShape", "rule", "momentum guidance")
    assert page.widgets("GuidanceShape") == ["rule", "rule.push", "rule.memory", *common]
    page.set("GuidanceShape", "rule.memory", 0.3)
    page.set("GuidanceShape", "amount", 0.75)
    saved = page.saved()
    page.open(copy.deepcopy(saved))
    assert page.saved() == saved
    assert page.widgets("GuidanceShape") == ["rule", "rule.push", "rule.memory", *common]
    (prompt,) = [entry["inputs"] for entry in page.prompt().values() if entry["class_type"] == "GuidanceShape"]
    own = {"rule": "momentum guidance", "rule.push": 0.5, "rule.memory": 0.3, "amount": 0.75}
    assert {name: prompt.get(name) for name in own} == own
    page.set("GuidanceShape", "rule", "TCFG")
    assert page.widgets("GuidanceShape") == ["rule", *common]
    assert page.run() == "success"


def typed_into(page, kind):
    """Click into the text of the classes of the first node of a kind; the words that are offered."""
    page.do(WHERE_LABEL, kind)
    page.frames(10)
    node, *place = page.do(WHERE_LABEL, kind)
    if page.renderer == "vue":
        page.tab.locator(f'[data-node-id="{node}"] [data-testid=node-widget] input[type=text]').first.click()
    else:
        page.tab.mouse.click(*place)
    page.frames(10)
    return page.tab.locator(".guidance-classes [role=option]")


def test_classes_are_picked_from_those_that_the_connected_network_knows(page):
    page.open("06-Classifier-guidance")
    for kind, after in (("GuidanceClassLabel", ", ri"), ("GuidanceClassifier", ":0.5 + ri")):
        page.set(kind, "label", "star, heart")
        offered = typed_into(page, kind)
        assert offered.count() == 10
        page.tab.keyboard.press("End")
        page.tab.keyboard.type(after)
        assert offered.all_inner_texts() == ["ring", "triangle"]
        page.tab.keyboard.press("ArrowDown")
        page.tab.keyboard.press("Enter")
        page.frames(5)
        assert page.value(kind, "label") == f"star, heart{after.removesuffix('ri')}ring"
    source = page.do(GUIDE_OF, "GuidanceClassifier")
    for name, count in (("a-guide-that-no-run-has-loaded", 0), ("shapes-classifier", 10)):
        page.set(source, "name", name)
        assert typed_into(page, "GuidanceClassifier").count() == count
        page.tab.keyboard.press("Enter")


def test_curves_follow_the_palette(page):
    colour = "() => getComputedStyle(document.querySelector('.guidance-curve')).backgroundColor"
    page.open(INTERVAL)
    dark = page.do(colour)
    page.setting("Comfy.ColorPalette", "light")
    page.frames(20)
    light = page.do(colour)
    page.setting("Comfy.ColorPalette", "dark")
    page.frames(20)
    assert light != dark and page.do(colour) == dark


def opened_help(page, heading):
    """The widths of the pictures on CFG Combine's help page, once it is open."""
    page.click_title("GuidanceCFG")
    page.tab.locator('[data-testid="info-button"]').click(timeout=20_000)
    page.tab.get_by_role("heading", name=heading).wait_for(timeout=20_000)
    pictures = page.tab.locator(".node-help-content img")
    return pictures.evaluate_all("async (all) => { for (const one of all) await one.decode();"
                                 " return all.map(({ naturalWidth }) => naturalWidth); }")  # fmt: skip


def test_the_help_page_opens(page):
    page.open(INTERVAL)
    assert min(opened_help(page, "Formula")) > 0
    page.load()


def test_another_language_changes_words_and_no_value(page):
    page.open(INTERVAL)
    values = values_of(page.saved())
    words = "() => document.querySelector('[data-testid=side-toolbar]').innerText"
    english = page.do(words)
    page.setting("Comfy.Locale", "ko")
    page.load()
    page.open(INTERVAL)
    assert page.do(words) != english
    assert values_of(page.saved()) == values
    assert all(curve["lines"] for curve in page.curves())
    assert page.curve("GuidanceCFG")["names"] == ["가중치"]
    assert min(opened_help(page, "수식")) > 0
    page.setting("Comfy.Locale", "en")
    page.load()
