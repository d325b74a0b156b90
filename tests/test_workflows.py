"""The shipped workflows: made by the tool, whole, stamped, and run through the real queue."""

import json
import re
from pathlib import Path

import make_workflows
import pytest
from PIL import Image
from workflow_graph import inputs_of
from workflow_layout import opening_zoom
from workflow_list import NEED_FILES, WORKFLOWS
from workflow_thumbnail import SIDE

from devtools import gallery
from devtools.prompt import to_prompt

ROOT = Path(__file__).resolve().parent.parent
FILES = sorted((ROOT / "workflows").glob("*.json"))
NAMES = [file.stem for file in FILES]
ON_THE_PAGE = {"MarkdownNote"}  # nodes that only the page knows
THUMBNAIL_BYTES = 60_000


@pytest.fixture(params=FILES, ids=NAMES)
def workflow(request):
    return json.loads(request.param.read_text(encoding="utf-8"))


def nodes_of(workflow):
    return [node for node in workflow["nodes"] if node["type"] not in ON_THE_PAGE]


def project(pattern):
    return re.search(pattern, (ROOT / "pyproject.toml").read_text(encoding="utf-8"), re.MULTILINE).group(1)


def promised(text):
    """A file without the types of widgets of ComfyUI's own nodes, which a page takes from the ComfyUI it shows."""

    def typed(pairs):
        found = dict(pairs)
        if "widgets_values" in found and not found["type"].startswith("Guidance"):
            for entry in found.get("inputs", ()):
                entry |= {"type": ""} if "widget" in entry else {}
        return found

    return json.loads(text, object_pairs_hook=typed)


def test_the_files_are_what_the_tool_writes(object_info):
    made = make_workflows.build_all(object_info)
    assert made == make_workflows.build_all(object_info)
    assert set(FILES) <= set(made)
    for file, text in made.items():
        assert promised(file.read_text(encoding="utf-8")) == promised(text), f"{file.name}: run tools/make_workflows.py"


def test_names_can_be_linked_and_every_workflow_is_expected():
    assert set(NAMES) == set(WORKFLOWS) | set(NEED_FILES)
    assert all(re.fullmatch(r"[A-Za-z0-9_-]+", name) for name in NAMES)


@pytest.mark.parametrize("file", FILES, ids=NAMES)
def test_every_workflow_has_a_small_dark_square_card(file):
    picture = file.with_suffix(".jpg")
    assert picture.stat().st_size < THUMBNAIL_BYTES
    card = Image.open(picture)
    assert card.size == (SIDE, SIDE) and max(card.getpixel((2, 2))) < 64


def test_workflows_say_what_they_show(workflow):
    assert workflow["version"] == 0.4
    assert re.fullmatch(r"[A-Z]([^.]|\.\d)+\.", workflow["extra"]["description"])
    assert any(node["type"] == "MarkdownNote" for node in workflow["nodes"])


def test_stamps_name_the_pack_and_its_version(workflow, object_info):
    ours = ("guidance-components", project(r'^version = "(.+)"'))
    core = ("comfy-core", project(r'^requires-comfyui = ">=(.+)"'))
    for node in nodes_of(workflow):
        properties = node["properties"]
        custom = object_info[node["type"]]["python_module"].startswith("custom_nodes.")
        assert (properties["cnr_id"], properties["ver"]) == (ours if custom else core), node["type"]
        assert properties["Node name for S&R"] == node["type"]


def test_links_agree_at_both_ends(workflow):
    nodes = {node["id"]: node for node in workflow["nodes"]}
    links = {link[0]: link for link in workflow["links"]}
    assert len(links) == len(workflow["links"]) == workflow["last_link_id"]
    for number, source, slot, target, place, kind in links.values():
        assert number in nodes[source]["outputs"][slot]["links"]
        assert nodes[source]["outputs"][slot]["type"] == kind
        assert nodes[target]["inputs"][place]["type"] in (kind, "*")
        assert nodes[target]["inputs"][place]["link"] == number
    used = [s["link"] for node in nodes.values() for s in node["inputs"] if s["link"] is not None]
    given = [link for node in nodes.values() for s in node["outputs"] for link in s["links"] or ()]
    assert sorted(used) == sorted(given) == sorted(links)


def test_required_inputs_are_there(workflow, object_info):
    for number, entry in to_prompt(workflow, object_info).items():
        inputs = inputs_of(object_info[entry["class_type"]], entry["inputs"])
        required = {name for name, _, options in inputs if not options["optional"]}
        assert required <= entry["inputs"].keys(), (number, entry["class_type"])


def test_widget_values_are_allowed(workflow, object_info):
    needed = {file["name"] for file in gallery.files_of(workflow)}
    for entry in to_prompt(workflow, object_info).values():
        inputs = inputs_of(object_info[entry["class_type"]], entry["inputs"])
        specs = {name: (kind, options) for name, kind, options in inputs}
        for name, value in entry["inputs"].items():
            kind, options = specs[name]
            choices = options.get("options")
            if isinstance(value, list) or value in needed or name == "folder":
                continue  # a link, or a file or folder of whoever runs the workflow
            if choices is not None:
                assert value in choices, (entry["class_type"], name)
            elif kind in ("INT", "FLOAT"):
                assert options["min"] <= value <= options["max"], (entry["class_type"], name)


def box(node):
    (x, y), (width, height) = node["pos"], node["size"]
    return x, y - 30, x + width, y + (0 if node["flags"].get("collapsed") else height)


def test_nodes_do_not_overlap_and_lie_in_one_group(workflow):
    boxes = [box(node) for node in workflow["nodes"]]
    for index, (left, top, right, bottom) in enumerate(boxes):
        for x0, y0, x1, y1 in boxes[:index]:
            assert right <= x0 or x1 <= left or bottom <= y0 or y1 <= top
        around = [g for g in workflow["groups"] if inside((left, top, right, bottom), g["bounding"])]
        assert len(around) == 1


@pytest.mark.parametrize("name", WORKFLOWS)
def test_workflows_open_large(name):
    """At 60 % the page's classic renderer still writes the words of nodes."""
    groups = json.loads((ROOT / "workflows" / f"{name}.json").read_text(encoding="utf-8"))["groups"]
    lefts, tops, widths, heights = zip(*(group["bounding"] for group in groups), strict=True)
    right = max(left + width for left, width in zip(lefts, widths, strict=True))
    bottom = max(top + height for top, height in zip(tops, heights, strict=True))
    assert opening_zoom(right - min(lefts), bottom - min(tops)) >= 0.6


def inside(node, bounding):
    x, y, width, height = bounding
    return x <= node[0] and y <= node[1] and node[2] <= x + width and node[3] <= y + height


def test_every_node_of_the_pack_appears_in_a_workflow(object_info):
    ours = {name for name, info in object_info.items() if info["category"].startswith("guidance")}
    used = {node["type"] for file in FILES for node in json.loads(file.read_text(encoding="utf-8"))["nodes"]}
    assert len(ours) >= 9 and ours <= used


@pytest.mark.parametrize("name", NEED_FILES)
def test_workflows_on_published_models_say_what_they_need(name):
    workflow = json.loads((ROOT / "workflows" / f"{name}.json").read_text(encoding="utf-8"))
    note = next(node["widgets_values"][0] for node in workflow["nodes"] if node["type"] == "MarkdownNote")
    files = gallery.files_of(workflow)
    assert files and all(file["name"] in note and file["directory"] in note for file in files)
    assert "https://" in note
    assert re.search("licence|CC BY|MIT", note)


def test_addresses_are_those_of_the_files_themselves(workflow):
    """The page offers them for download: a web page, or a file of another kind under this name, would be saved."""
    for node in workflow["nodes"]:
        for file in node["properties"].get("models", ()):
            address = file["url"].partition("?")[0]
            assert address.startswith("https://") and Path(address).name == Path(file["name"]).name, file


def test_the_demo_runs_a_workflow_and_keeps_its_pictures(server, tmp_path):
    pictures = gallery.run_workflow(server, ROOT / "workflows" / "01-First-steps-CFG.json", tmp_path)
    sheets = [picture for picture in pictures if picture.kind == "GuidanceScore"]
    assert [re.match(r"\d+ of \d+ are as asked", sheet.says) is not None for sheet in sheets] == [True, True]
    assert all(Image.open(picture.file).size[0] >= 128 for picture in pictures)
