"""The blueprint in the real page, in both renderers: found by search, wired, set and run as a person would."""

import copy

import browser
import pytest
from blueprint import BLUEPRINTS, draw
from make_workflows import stamps
from workflow_scene import Scene

NAME = "CFG + Autoguidance (two weights)"
REFUSED_BY_TINY = {"GuidanceNegativeAttention"}  # its classes stand in no attention
LAST_KINDS = {"GuidanceCFG", "GuidanceAutoguidance", "GuidanceAPG", *REFUSED_BY_TINY}
EMPTY = (1200, 850)  # a place on the canvas where nothing stands
LAST = "app.rootGraph.nodes.at(-1)"


@pytest.fixture(scope="module")
def scene(server):
    """The embedded model, unguided, with its weaker relative beside it."""
    made = Scene("blueprint", "The embedded models.", server.get("/object_info"), stamps())
    made.shared("A place for the blueprint.", weak=True)
    made.picture(made.lane("Guided"), made.main["MODEL"], "guided")
    return made.build()


@pytest.fixture(scope="module", params=browser.RENDERERS)
def page(request, chromium, server, scene):
    opened = browser.Page(chromium, server, request.param)
    opened.open(scene)
    add(opened)
    wire(opened)
    yield opened
    opened.tab.close()  # it would go on drawing


def add(page, name=NAME):
    """Open the search, type the name, wait until it is the one that is shown, Enter, click: the node is there."""
    count = page.do("() => app.rootGraph.nodes.length")
    page.do("() => app.extensionManager.command.execute('Workspace.SearchBox.Toggle')")
    page.tab.locator("input:focus").fill(name)
    page.tab.get_by_text(name, exact=True).last.wait_for()
    page.tab.keyboard.press("Enter")
    page.tab.wait_for_function("(count) => app.rootGraph.nodes.length > count", arg=count)
    page.tab.mouse.click(*EMPTY)


def wire(page):
    page.do(
        f"""() => {{
            const titled = (title) => app.rootGraph.nodes.find((node) => node.title === title);
            titled("Main model").connect(0, {LAST}, 0);
            titled("Weak model: the guide").connect(0, {LAST}, 1);
            {LAST}.connect(0, titled("KSampler"), 0);
        }}"""
    )


def change(page, name, value):
    page.do(
        f"""([name, value]) => {{
            const widget = {LAST}.widgets.find((one) => one.name === name);
            widget.value = value; widget.callback?.(value);
        }}""",
        [name, value],
    )


def kinds(prompt):
    return {entry["class_type"]: (number, entry["inputs"]) for number, entry in prompt.items()}


def models(prompt):
    """The two embedded models of the scene, by their names."""
    return {e["inputs"]["name"]: n for n, e in prompt.items() if e["class_type"] == "GuidanceTinyModel"}


def test_the_node_shows_its_four_numbers(page):
    shown = page.do(f"() => {LAST}.widgets.map(({{ label, value }}) => [label, value])")
    assert page.do(f"() => {LAST}.title") == NAME
    assert shown == [["cfg weight", 4], ["cfg start", 0], ["cfg end", 1], ["guide weight", 2]]


def test_the_prompt_is_the_chain_with_these_numbers(page):
    for name, value in (("cfg_weight", 3.0), ("cfg_start", 0.1), ("cfg_end", 0.8), ("guide_weight", 1.5)):
        change(page, name, value)
    prompt = page.prompt()
    found, main = kinds(prompt), models(prompt)
    cfg, cfg_inputs = found["GuidanceCFG"]
    auto, auto_inputs = found["GuidanceAutoguidance"]
    assert found["KSampler"][1]["model"] == [auto, 0]
    assert (auto_inputs["model"], auto_inputs["guide_model"]) == ([cfg, 0], [main["shapes-edm-weak"], 0])
    assert auto_inputs["weight"] == 1.5
    assert cfg_inputs["model"] == [main["shapes-edm"], 0] and cfg_inputs["weight_from"] == "node"
    assert (cfg_inputs["weight"], cfg_inputs["start"], cfg_inputs["end"]) == (3.0, 0.1, 0.8)


def test_it_runs_to_success(page):
    assert page.missing() == []
    assert page.run() == "success"


def test_saved_and_opened_again_it_is_the_same(page):
    change(page, "cfg_weight", 2.5)
    before = page.prompt()
    page.open(page.saved())
    assert page.prompt() == before
    assert kinds(before)["GuidanceCFG"][1]["weight"] == 2.5
    assert page.complaints == []


def between_loader_and_sampler(scene, blueprint):
    """The scene with a blueprint's node between the main model and the sampler, as a person wires it."""
    made = copy.deepcopy({**scene, "definitions": blueprint["definitions"]})
    node = {**copy.deepcopy(blueprint["nodes"][0]), "id": made["last_node_id"] + 1, "pos": [0, 900]}
    titled = {node.get("title", node["type"]): node for node in made["nodes"]}
    loader, sampler = titled["Main model"], titled["KSampler"]
    link = next(entry for entry in made["links"] if entry[3] == sampler["id"] and entry[4] == 0)
    link[1:3] = [node["id"], 0]
    loader["outputs"][0]["links"].remove(link[0])
    node["outputs"][0]["links"] = [link[0]]
    for slot in [slot for slot, socket in enumerate(node["inputs"]) if socket["type"] == "MODEL"]:
        made["last_link_id"] += 1
        made["links"].append([made["last_link_id"], loader["id"], 0, node["id"], slot, "MODEL"])
        node["inputs"][slot]["link"] = made["last_link_id"]
        loader["outputs"][0]["links"].append(made["last_link_id"])
    return {**made, "last_node_id": node["id"], "nodes": [*made["nodes"], node]}


@pytest.mark.parametrize("name", [name for name in BLUEPRINTS if name != NAME])
def test_every_other_one_acts_between_loader_and_sampler(page, scene, server, name):
    page.open(between_loader_and_sampler(scene, draw(name, server.get("/object_info"), stamps())))
    assert page.missing() == []
    sampler = kinds(page.prompt())["KSampler"][1]
    last = page.prompt()[sampler["model"][0]]
    assert last["class_type"] in LAST_KINDS
    said = page.run()
    assert said == "success" or (last["class_type"] in REFUSED_BY_TINY and "cannot be used with this model" in said)
