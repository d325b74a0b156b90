"""A recorded run as a markdown table, as JSON, and one evaluation of it in words."""

from __future__ import annotations

import json
from typing import Any

from ...guidance.branch import MAIN
from .record import Evaluation, Record, Score, TermRecord, mean

MB = 2**20


def to_json(records: list[Record]) -> str:
    """Every run with every number of every sample."""
    runs = [
        {
            "model": record.model, "node": record.node, "finished": record.finished, "steps": record.levels,
            "samples": record.samples, "evaluations": [as_data(evaluation) for evaluation in record.evaluations],
        }
        for record in records
    ]
    return json.dumps({"runs": runs}, indent=1)


def as_data(evaluation: Evaluation) -> dict[str, Any]:
    """One evaluation for JSON; lists hold a number per sample. What is not finite, which JSON lacks, is null.

    An update is called a push there: people's scripts read these names.
    """
    probabilities = {score.label: _finite(score.values) for score in evaluation.scores if score.is_probability}
    losses = {score.label: _finite(score.values) for score in evaluation.scores if not score.is_probability}
    return {
        "step": evaluation.step,
        "sigma": evaluation.sigma,
        "branches": [{"network": branch.network, "condition": branch.condition} for branch in evaluation.branches],
        "gradients": len(evaluation.scores),
        "terms": [
            {"name": term.label, "strength": _finite(term.strength), "push": _finite(term.update)}
            for term in evaluation.terms
        ],
        "push": _finite(evaluation.total),
        "cosine": None if evaluation.cosine is None else _finite(evaluation.cosine),
        "effective_weight": None if evaluation.effective is None else _finite(evaluation.effective),
        "probability": probabilities,
        "loss": losses,
        "seconds": evaluation.seconds,
        "memory": evaluation.memory,
    }


def to_table(record: Record) -> str:
    """A heading and one row per evaluation, in markdown; numbers are means over the samples."""
    evaluations = record.evaluations
    terms, scores = shown_terms(evaluations), score_labels(evaluations)
    head = ["step", "sigma", "branches"]
    for label in terms:
        head += [label, "update"]
    head += ["all updates", "effective weight", "cosine", *_answer_heads(scores), "ms", "MB"]
    rows = [_row(evaluation, terms, [label for label, _ in scores]) for evaluation in evaluations]
    lines = [_line(head), _line(["---"] * len(head)), *map(_line, rows)]
    return "\n".join([f"{record.model}: {summary(record)}", "", *lines])


def summary(record: Record) -> str:
    """The run in one line."""
    evaluations = record.evaluations
    main, guides = (sum(getattr(e, kind) for e in evaluations) for kind in ("main", "guides"))
    gradients = sum(len(e.scores) for e in evaluations)
    counts = f"{main} main" + (f" + {guides} guide" if guides else "") + " evaluations"
    parts = [f"{record.levels} steps" + ("" if record.finished else ", stopped early"), counts]
    parts += [f"{gradients} gradients"] if gradients else []
    parts += [f"{sum(evaluation.seconds for evaluation in evaluations):.2f} s"]
    weight = record.effective_weight
    told = weight is not None and any(e.effective for e in evaluations)
    parts += [f"effective weight {weight:.3g} on average"] if told else []
    parts += [f"means over {record.samples} samples"] if record.samples > 1 else []
    return ", ".join(parts)


def in_words(evaluation: Evaluation, record: Record) -> str:
    """One evaluation, as the inspector shows it while the run goes on."""
    parts = [f"step {evaluation.step} of {record.levels}, sigma {mean(evaluation.sigma):.3g}"]
    parts += [f"{term.label} {mean(term.strength):.3g}: update {percent(term.update)}" for term in evaluation.terms
              if any(term.update)]
    if evaluation.effective is not None:
        parts.append(f"effective weight {mean(evaluation.effective):.3g}")
    if evaluation.cosine is not None:
        parts.append(f"cosine {mean(evaluation.cosine):.3f}")
    parts += [_score(score) for score in evaluation.scores]
    parts.append(f"{_branches(evaluation)}: {evaluation.seconds * 1000:.0f} ms")
    return "\n".join(parts)


def shown_terms(evaluations: list[Evaluation]) -> list[str]:
    """The components in chain order; CFG only where it ever did something."""
    terms = evaluations[0].terms
    off = all(set(e.terms[0].strength) == {1.0} and not any(e.terms[0].update) for e in evaluations)
    return [term.label for term in terms if term.label != "CFG" or not off]


def score_labels(evaluations: list[Evaluation]) -> list[tuple[str, bool]]:
    """What guides were asked, and whether the answer is a probability."""
    return list(dict.fromkeys((s.label, s.is_probability) for e in evaluations for s in e.scores))


def term_of(evaluation: Evaluation, label: str) -> TermRecord:
    return next(term for term in evaluation.terms if term.label == label)


def score_of(evaluation: Evaluation, label: str) -> Score | None:
    """What the guide said, if it was asked in this evaluation."""
    return next((score for score in evaluation.scores if score.label == label), None)


def percent(values: list[float]) -> str:
    return f"{100 * mean(values):.3g} %"


def _row(evaluation: Evaluation, terms: list[str], scores: list[str]) -> list[str]:
    cells = [str(evaluation.step), f"{mean(evaluation.sigma):.4g}", _branches(evaluation)]
    for label in terms:
        term = term_of(evaluation, label)
        cells += [f"{mean(term.strength):.3g}", percent(term.update)]
    cells += [percent(evaluation.total), "" if evaluation.effective is None else f"{mean(evaluation.effective):.3g}"]
    cells += ["" if evaluation.cosine is None else f"{mean(evaluation.cosine):.4f}"]
    for label in scores:
        score = score_of(evaluation, label)
        cells.append("" if score is None else _number(score))
    return [*cells, f"{evaluation.seconds * 1000:.1f}", f"{evaluation.memory / MB:.0f}"]


def _answer_heads(scores: list[tuple[str, bool]]) -> list[str]:
    """What guides said, named by what they were asked where there are several."""
    kinds = ["probability" if is_probability else "loss" for _, is_probability in scores]
    return kinds if len(scores) == 1 else [f"{k}: {label}" for k, (label, _) in zip(kinds, scores, strict=True)]


def _line(cells: list[str]) -> str:
    return f"| {' | '.join(cell.replace('|', '/') for cell in cells)} |"


def _branches(evaluation: Evaluation) -> str:
    words = [branch.condition if branch.network == MAIN else branch.network for branch in evaluation.branches]
    return ", ".join(words + ["gradient"] * len(evaluation.scores)) or "the guider's own"


def _score(score: Score) -> str:
    return f"{'probability' if score.is_probability else 'loss'} of {score.label}: {_number(score)}"


def _number(score: Score) -> str:
    return percent(score.values) if score.is_probability else f"{mean(score.values):.4g}"


def _finite(values: list[float]) -> list[float | None]:
    return [value if abs(value) < float("inf") else None for value in values]
