"""The study of equal strength: how strong a rule without CFG is, runs by Euler, and what its picture says is sure."""

import sys
from argparse import Namespace
from pathlib import Path

import pytest
import torch

sys.path.append(str(Path(__file__).resolve().parents[1] / "benchmarks"))

from equal_strength import BY_EULER, INSTEAD, RULES, Steered, by_euler, rules_of, runs  # noqa: E402
from equal_strength_picture import BETTER, MEASURES, SAME, WORSE, equal_strength, verdict  # noqa: E402

NULL, LEVELS = 2, [4.0, 1.0, 0.0]


def networks():
    """Predictions that are the same everywhere: 3 under a label, 1 without, and of the weak one 2."""
    def main(x, sigma, y):
        return torch.where(y == NULL, 1.0, 3.0).view(-1, 1, 1, 1).expand_as(x)

    return main, lambda x, sigma, y: torch.full_like(x, 2.0)


def test_a_rule_that_never_asks_for_the_negative_prompt_has_a_strength_too():
    steered = Steered(networks(), rules_of("autoguidance", 3.0), NULL, LEVELS)
    found = steered(torch.zeros(2, 3, 32, 32), 4.0, torch.tensor([0, 1]))
    assert torch.equal(found, torch.full_like(found, 5.0))  # 2 + 3 (3 - 2), which plain CFG 1 + 2 (3 - 1) gives
    assert steered.weight == pytest.approx(2.0) and steered.evaluations == 2


def test_cfg_pp_steps_from_the_estimate_with_the_noise_of_the_negative_prompt():
    """Algorithm 2 of 2406.08070, written out: x' = u + share (c - u) + sigma' n of u."""
    steered = Steered(networks(), rules_of("CFG++", 1.5), NULL, LEVELS)
    share, options = 0.6, Namespace(seed=0, batch=4)
    found, evaluations = by_euler(steered, torch.zeros(4, dtype=torch.long), options)
    x = torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(0)) * 4.0
    for sigma, following in zip(LEVELS[:-1], LEVELS[1:], strict=True):
        x = 1.0 + share * 2.0 + following * (x - 1.0) / sigma
    torch.testing.assert_close(found, x)
    assert evaluations == 4


def test_every_row_is_run_and_the_first_rows_stay_first():
    names = [name for name, _, _ in runs(Namespace(seeds=[0], weights=[5.0]))]
    assert names[:3] == ["plain CFG", "CFG in (0.15, 5]", "CFG-Zero*"] and len(set(names)) == len(names)
    assert {*names} == {"plain CFG", *RULES, *INSTEAD} and {*BY_EULER} < {*INSTEAD}


def results(name, gains, weight=5.0):
    """A seed for each gain in accuracy; the distance gets as much worse."""
    return [
        {"name": name, "weight": weight, "seed": seed,
         "rule": {"effective": 3.0, "accuracy": 0.9 + gain, "frechet": 12.0 + 10 * gain},
         "plain": {"effective": 3.0, "accuracy": 0.9, "frechet": 12.0}}
        for seed, gain in enumerate(gains)
    ]  # fmt: skip


def test_the_picture_calls_a_difference_one_when_the_seeds_agree():
    distance, accuracy = MEASURES
    sure, unsure = results("sure", [0.05, 0.06, 0.04]), results("unsure", [0.05, -0.06, 0.04])
    assert [verdict(sure, accuracy), verdict(sure, distance)] == [BETTER, WORSE]
    assert {verdict(unsure, accuracy), verdict(sure[:2], accuracy)} == {SAME}
    plain = [{**one, "name": "plain CFG", "plain": None} for one in results("", [0.0])]
    picture = equal_strength([*plain, *sure, *unsure, *results("weaker", [0.0], weight=2.0)])
    assert picture.size == (960, 128 + 2 * 26 + 20)
