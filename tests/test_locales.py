"""Names and words of the nodes in other languages: complete, and of the same shape as the English ones."""

import json
from pathlib import Path

import pytest

LOCALES = Path(__file__).resolve().parent.parent / "locales"
CODES = ("ko", "zh")


def read(code: str) -> dict:
    return json.loads((LOCALES / code / "nodeDefs.json").read_text("utf-8"))


def leaves(tree: dict, path: tuple[str, ...] = ()):
    """(path, text) of every text."""
    for key, value in tree.items():
        if isinstance(value, dict):
            yield from leaves(value, (*path, key))
        else:
            yield (*path, key), value


def test_these_languages_are_there():
    assert sorted(entry.name for entry in LOCALES.iterdir() if entry.is_dir()) == sorted(("en", *CODES))


@pytest.mark.parametrize("code", CODES)
def test_every_word_is_translated(code):
    english, other = dict(leaves(read("en"))), dict(leaves(read(code)))
    assert sorted(other) == sorted(english), "run python3 tools/make_workflows.py and translate what is new"
    sentences = [path for path in english if path[-1] in ("tooltip", "description", "display_name")]
    script = {"ko": ("\uac00", "\ud7a3"), "zh": ("\u4e00", "\u9fff")}[code]
    left = [path for path in sentences if not any(script[0] <= letter <= script[1] for letter in other[path])]
    assert left == [], "still English"
    assert all(text.strip() for text in other.values())


@pytest.mark.parametrize("code", CODES)
def test_nodes_have_names_of_their_own(code):
    names = [node["display_name"] for node in read(code).values()]
    assert len(set(names)) == len(names)
