"""Names and words of the nodes in other languages: complete, and of the same shape as the English ones."""

import json
import re
import subprocess
from pathlib import Path

import pytest
from playwright._impl._driver import compute_driver_executable

ROOT = Path(__file__).resolve().parent.parent
LOCALES = ROOT / "locales"
CURVES = ROOT / "js" / "curves"
SCRIPTS = {"ko": ("\uac00", "\ud7a3"), "zh": ("\u4e00", "\u9fff")}
CODES = tuple(SCRIPTS)


def read(code: str) -> dict:
    return json.loads((LOCALES / code / "nodeDefs.json").read_text("utf-8"))


def leaves(tree: dict, path: tuple[str, ...] = ()):
    """(path, text) of every text."""
    for key, value in tree.items():
        if isinstance(value, dict):
            yield from leaves(value, (*path, key))
        else:
            yield (*path, key), value


def letters(code: str, text: str) -> int:
    """How many letters of the language's own script a text has."""
    first, last = SCRIPTS[code]
    return sum(first <= letter <= last for letter in text)


def test_these_languages_are_there():
    assert sorted(entry.name for entry in LOCALES.iterdir() if entry.is_dir()) == sorted(("en", *CODES))


@pytest.mark.parametrize("code", CODES)
def test_every_word_is_translated(code):
    english, other = dict(leaves(read("en"))), dict(leaves(read(code)))
    assert sorted(other) == sorted(english), "run python3 tools/make_workflows.py and translate what is new"
    sentences = [path for path in english if path[-1] in ("tooltip", "description", "display_name")]
    left = [path for path in sentences if not letters(code, other[path])]
    assert left == [], "still English"
    assert all(text.strip() for text in other.values())


@pytest.mark.parametrize("code", CODES)
def test_nodes_have_names_of_their_own(code):
    names = [node["display_name"] for node in read(code).values()]
    assert len(set(names)) == len(names)


@pytest.fixture(scope="module")
def curve_words():
    """{code: {English sentence: sentence}} of the curves on the nodes, as the page reads them."""
    script = f"console.log(JSON.stringify((await import({json.dumps((CURVES / 'words.js').as_uri())})).TRANSLATED))"
    command = [compute_driver_executable()[0], "--input-type=module", "--no-warnings", "-e", script]
    return json.loads(subprocess.run(command, text=True, capture_output=True, check=True, timeout=60).stdout)


@pytest.mark.parametrize("code", CODES)
def test_every_word_on_the_page_is_translated(code, curve_words):
    sources = "".join(file.read_text("utf-8") for file in CURVES.parent.rglob("*.js"))
    english = {found[1] for found in re.findall(r"""\bsay\(\s*(["'])(.+?)\1""", sources)}
    assert len(english) > 30 and set(curve_words[code]) == english
    for sentence, other in curve_words[code].items():
        assert letters(code, other), sentence
        assert sorted(re.findall(r"{\w+}", other)) == sorted(re.findall(r"{\w+}", sentence)), sentence


def test_the_page_says_nothing_but_in_the_language_of_the_page():
    sources = {file.name: file.read_text("utf-8") for file in CURVES.parent.rglob("*.js")}
    bare = re.compile(r"""(?:new (?:Error|Unknown)\(|(?:textContent|title) = |label: )["'`](?!phi\b)[a-z]+""")
    found = {name: bare.findall(text) for name, text in sources.items() if bare.search(text)}
    assert found == {}
