"""What people read: a help page for every node, words on every input, and a README whose links lead somewhere."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PAGES = sorted((ROOT / "js" / "docs").glob("*.md"))
TEXTS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "docs" / "studies.md", *PAGES]
SECTIONS = ["## Inputs", "## Formula", "## Cost", "## Together with others", "## Paper"]
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")


@pytest.fixture(scope="module")
def schemas(comfy):
    from guidance_pack.nodes import NODES

    return {node.GET_SCHEMA().node_id: node.GET_SCHEMA() for node in NODES}


def page(node_id):
    return (ROOT / "js" / "docs" / f"{node_id}.md").read_text(encoding="utf-8")


def described(text):
    """The inputs that the page's list names."""
    listed = text.split("## Inputs")[1].split("\n## ")[0].split("\n\n")[1]
    return re.findall(r"^- \*\*(\w+)\*\*: \S", listed, re.MULTILINE)


def test_every_node_has_a_page_and_every_page_a_node(schemas):
    assert {file.stem for file in PAGES} == set(schemas)


def test_pages_begin_with_the_name_and_have_every_section(schemas):
    for node_id, schema in schemas.items():
        text = page(node_id)
        assert text.startswith(f"# {schema.display_name}\n"), node_id
        places = [text.find(section) for section in SECTIONS]
        assert -1 not in places and places == sorted(places), node_id


def test_pages_describe_exactly_the_inputs_in_their_order(schemas):
    for node_id, schema in schemas.items():
        # The page sockets and widgets are shown in the order of the schema; only a socket between widgets may move.
        assert sorted(described(page(node_id))) == sorted(entry.id for entry in schema.inputs), node_id


def test_pages_name_the_choices_of_every_list(schemas):
    for node_id, schema in schemas.items():
        for entry in schema.inputs:
            if entry.id in ("weight_from", "unit", "shape"):
                assert all(f"`{choice}`" in page(node_id) for choice in entry.options), (node_id, entry.id)


def test_pages_use_what_the_help_panel_can_show():
    for file in PAGES:
        text = file.read_text(encoding="utf-8")
        assert "$" not in text and "<" not in text, file.name  # no LaTeX, no HTML
        # The panel is narrow: it cuts tables off, and code beyond about 32 characters.
        assert "\n|" not in text, file.name
        assert not re.findall(r"^    .{33,}", text, re.MULTILINE), file.name
        # Pictures lie beside the pages; links to anything else would lead nowhere in the page.
        links = [link for link in LINK.findall(text) if not link.startswith("https://arxiv.org/")]
        assert not [link for link in links if not link.startswith("pictures/")], file.name


def test_every_input_and_output_has_a_tooltip(schemas):
    for node_id, schema in schemas.items():
        silent = [entry.id for entry in [*schema.inputs, *schema.outputs] if not entry.tooltip]
        assert not silent, (node_id, silent)
        assert schema.description and schema.search_aliases, node_id


def test_papers_of_the_rules_are_in_the_readme():
    from guidance_pack.guidance.rule import rules

    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert all(rule.paper in readme for rule in rules().values())


@pytest.mark.parametrize("file", TEXTS, ids=lambda file: file.name)
def test_links_and_pictures_exist(file):
    local = [link.split("#")[0] for link in LINK.findall(file.read_text(encoding="utf-8")) if "://" not in link]
    assert not [link for link in local if link and not (file.parent / link).exists()]


def test_the_readme_lists_every_node_and_every_workflow(schemas):
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert not [name for name in schemas if f"](js/docs/{name}.md)" not in readme]
    assert not [file.name for file in (ROOT / "workflows").glob("*.json") if f"](workflows/{file.name})" not in readme]


def test_the_readme_gives_both_commands():
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    command = (ROOT / ".ci" / "run").read_text(encoding="utf-8").split("exec ")[1].strip()
    assert command in readme and "python3 tools/dev.py demo" in readme


@pytest.mark.parametrize("file", TEXTS, ids=lambda file: file.name)
def test_no_empty_slots_are_left(file):
    """A marked slot that was never filled is a broken promise."""
    text = file.read_text(encoding="utf-8")
    for name in re.findall(r"<!-- table: (\w+) -->", text):
        following = text.split(f"<!-- table: {name} -->")[1].lstrip("\n")
        assert following.startswith("|"), f"the table '{name}' is missing"
