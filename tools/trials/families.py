"""docs/families.md: what works with which family of the host, as the matrix judged it."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from host_families import NOT_BUILT
from refusals import SENTENCES

from .cells import Cell
from .judge import FINE, Outcome

COLUMNS: Mapping[str, Mapping[str, str]] = {  # a column: its components, by what the table calls them
    "gradient": {"classifier": "yes"},
    "through the model": {"classifier through": "yes"},
    "attention": {
        "identity attention": "identity", "blurred attention": "blurred", "pooled attention": "pooled"
    },
    "blocks": {"skipped layers": "skipped", "random blocks": "random"},
    "dropout": {"dropout": "yes"},
    "input noise": {"input noise": "yes"},
    "shuffled tokens": {"shuffled tokens": "yes"},
    "masks": {"cfg mask": "CFG", "autoguidance mask": "Autoguidance", "shape mask": "shapes"},
    "inpainting": {"inpaint": "yes"},
}  # fmt: skip
HEAD = """# What works with which family

Made by `tools/matrix.py --comfyui FOLDER --out FILE --families docs/families.md` on ComfyUI {version}. Each entry is a
run of three steps on a small network of the family with random weights, judged beside the plain run of ComfyUI alone.

- *Gradient*: Classifier Guidance at the denoised estimate, which it sees through the family's linear preview colours;
  and *through the model*.
- *Attention*, *blocks*, *dropout*, *input noise*, *shuffled tokens*: Degraded Model's kinds, as the guide of
  Autoguidance.
- *Masks*: CFG Combine, Autoguidance and Shape CFG on one half of the picture, by their mask inputs.
- *Inpainting*: Autoguidance while half of the latent is masked.
- A number is the sort of refusal below, with an example of it; it comes before sampling. *Host*: ComfyUI alone does not
  run this small network so.
"""
UNTRIED = "## Not tried\n\nOf ComfyUI's list of models these are not in the table:\n"


def cells_of(families: Sequence[str]) -> list[Cell]:
    """What the page shows, family after family, the newest first."""
    components = [component for column in COLUMNS.values() for component in column]
    return [Cell(family, component, "euler", "cfg", 1) for family in reversed(families) for component in components]


def page(results: Mapping[Cell, Outcome], names: Mapping[str, str], version: str) -> str:
    """The page in markdown. names: the families, with what ComfyUI calls each."""
    notes: dict[str, str] = {}
    rows = [["family", *COLUMNS], ["---"] * (len(COLUMNS) + 1)]
    left = []
    for family, name in sorted(names.items(), key=lambda item: (item[1].lower(), item[0])):
        found = {cell.component: results[cell] for cell in cells_of([family]) if cell in results}
        if len(found) < len(cells_of([family])):
            left.append(f"{name} (`{family}`)")
            continue
        rows.append([f"{name} (`{family}`)", *(_words(found, column, notes) for column in COLUMNS.values())])
    table = "\n".join(f"| {' | '.join(row)} |" for row in rows)
    listed = [f"{number}. {note}" for number, note in enumerate(notes.values(), 1)]
    missing = [f"\nNot judged yet: {', '.join(left)}."] if left else []
    untried = [f"- {', '.join(kinds)}: {why}." for why, kinds in NOT_BUILT.items()]
    return "\n".join([HEAD.format(version=version), table, "", *listed, *missing, "", UNTRIED, *untried, ""])


def _words(found: Mapping[str, Outcome], column: Mapping[str, str], notes: dict[str, str]) -> str:
    """One cell of the table; new refusals are added to `notes`."""
    outcomes = {component: found[component] for component in column}
    works = [column[component] for component, outcome in outcomes.items() if outcome.kind == "right"]
    left = [outcome for outcome in outcomes.values() if outcome.kind != "right"]
    why = list(dict.fromkeys(_why(outcome, notes) for outcome in left))
    return ", ".join([*works, *why])


def _why(outcome: Outcome, notes: dict[str, str]) -> str:
    if outcome.kind not in FINE:
        return f"**{outcome.kind}**"
    if outcome.kind == "host":
        return "host"
    note = " ".join(outcome.words.split())
    sort = next((sentence for sentence in SENTENCES if re.search(sentence, outcome.words, re.DOTALL)), note)
    notes.setdefault(sort, note)  # refusals of one sort differ in names; one of them is shown
    return str(list(notes).index(sort) + 1)
