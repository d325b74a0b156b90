"""Help pages in other languages: one beside each English page, of the same shape and with the same facts."""

import json
import re
from collections import Counter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
DOCS = ROOT / "js" / "docs"
# By the page's code: the letters of its script, and the fewest of them that it has for each letter of the English page.
SCRIPTS = {"ko": ("\uac00", "\ud7a3", 0.18), "zh": ("\u4e00", "\u9fff", 0.13)}
PAGES = sorted(DOCS.glob("*.md"))
FORMULA = re.compile(r"^    .*$", re.MULTILINE)
LINK = re.compile(r"\]\(([^)\s]+)\)")
HEADING = re.compile(r"^#+ ", re.MULTILINE)
INPUT = re.compile(r"^- \*\*(.+?)\*\*(?: \((\w+)\)|（(\w+)）)?[:：]", re.MULTILINE)
EMPHASIS = re.compile(r"(\*\*?)(?=[^\s*])([^*\n]+)\1")
NUMBER = re.compile(r"(?<![\w.])\d+(?:[.,]\d+)*", re.ASCII)


def names_of(code: str) -> dict[str, dict]:
    """By node: its name in the language and, in `inputs`, those of its inputs by their ids."""
    nodes = json.loads((ROOT / "locales" / code / "nodeDefs.json").read_text("utf-8"))
    return {
        node: {"title": words["display_name"], "inputs": {i: own["name"] for i, own in words["inputs"].items()}}
        for node, words in nodes.items()
    }


def prose(text: str) -> str:
    return LINK.sub("]", FORMULA.sub("", text))


def spans(text: str) -> Counter:
    return Counter(re.findall(r"`([^`\n]+)`", prose(text)))


def spans_in_english(text: str, english: Counter, ids: dict[str, set[str]]) -> Counter:
    """The code spans of a translated page, the names of inputs as the English page has them."""
    return Counter(
        span if span in english else min(ids.get(span, set()) & set(english), default=span)
        for span in spans(text).elements()
    )


def described(text: str) -> list[tuple[str, str]]:
    """(name, id) of each input that the page's list explains."""
    listed = text.split("\n## ")[1]
    return [(name, own or wide or name) for name, own, wide in INPUT.findall(listed)]


def shown_raw(text: str) -> list[str]:
    """Emphasis that ends with a sign and has a letter behind it: Markdown shows its asterisks."""
    text = re.sub(r"`[^`\n]+`", "x", text.replace("\\*", ""))
    found = EMPHASIS.finditer(text)
    return [one[0] for one in found if not one[2][-1].isalnum() and text[one.end() : one.end() + 1].isalnum()]


def faults(code: str, english: str, other: str, names: dict, ids: dict[str, set[str]]) -> list[str]:
    """What a translated page lacks, in words."""
    first, last, least = SCRIPTS[code]
    labels = [(names["inputs"][i], i) for _, i in described(english)]
    said = spans(english)
    numbers = Counter(NUMBER.findall(prose(english))) - Counter(NUMBER.findall(prose(other)))
    checks = {
        "title": other.startswith(f"# {names['title']}\n"),
        "headings": HEADING.findall(other) == HEADING.findall(english),
        "paragraphs": len(other.split("\n\n")) == len(english.split("\n\n")),
        "lists": other.count("\n- ") == english.count("\n- "),
        "formulas": FORMULA.findall(other) == FORMULA.findall(english),
        "pictures and links": LINK.findall(other) == LINK.findall(english),
        f"inputs {labels}": described(other) == labels,
        f"words in code {dict(said)}": spans_in_english(other, said, ids) == said,
        f"numbers {dict(numbers)}": not numbers,
        "bold and italics": other.count("**") == english.count("**") and other.count("*") == english.count("*"),
        f"emphasis {shown_raw(other)}": not shown_raw(other),
        "its own letters": sum(first <= letter <= last for letter in other) > least * len(english),
        "signs that the panel shows": not re.search(r"[$<~]|\n\|", FORMULA.sub("", other)),
    }
    return [what for what, right in checks.items() if not right]


@pytest.mark.parametrize("code", SCRIPTS)
def test_every_help_page_is_translated(code):
    """A change of an English page shows here: do the same in js/docs/<NodeId>/ko.md and zh.md."""
    names = names_of(code)
    ids: dict[str, set[str]] = {}
    for node in names.values():
        for own, name in node["inputs"].items():
            ids.setdefault(name, set()).add(own.removeprefix("rule_"))
    found = {}
    for file in PAGES:
        other = DOCS / file.stem / f"{code}.md"
        text = other.read_text("utf-8") if other.is_file() else ""
        found[file.stem] = faults(code, file.read_text("utf-8"), text, names[file.stem], ids) if text else ["missing"]
    assert {page: wrong for page, wrong in found.items() if wrong} == {}


def test_no_page_is_left_over():
    expected = {f"{file.stem}/{code}.md" for file in PAGES for code in SCRIPTS}
    assert {file.relative_to(DOCS).as_posix() for file in DOCS.glob("*/*.md")} == expected


def test_emphasis_that_is_shown_raw_is_seen():
    assert shown_raw("값 *시간(분)*은 그렇고, *이것*은 아니며 *권장: 1.* 도 아니다") == ["*시간(분)*"]


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        (("50", "60"), "numbers"),
        (("`label`", "`name`"), "words in code"),
        (("- **Beta**", "Beta"), "lists"),
        (("    D' = D", "    D' = E"), "formulas"),
        (("https://arxiv.org/abs/1", "https://arxiv.org/abs/2"), "pictures and links"),
        (("## Cost", "Cost"), "headings"),
    ],
)
def test_a_change_of_the_english_page_is_seen(change, fault):
    english = (
        "# Name\n\nText of 50 words about `label`.\n\n## Inputs\n\n- **alpha**: One.\n- **Beta**: Two.\n\n## Cost\n\n"
        "    D' = D\n\n[arXiv](https://arxiv.org/abs/1)\n"
    )
    other = english.replace("Text of", "가나다라마바사아자차카타파하거너더러머버서어저처커터퍼허고노도로모")
    names = {"title": "Name", "inputs": {"alpha": "alpha", "Beta": "Beta"}}
    assert faults("ko", english, other, names, {}) == []
    changed = english.replace(*change)
    assert changed != english
    assert any(what.startswith(fault) for what in faults("ko", changed, other, names, {}))
