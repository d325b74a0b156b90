"""Every registered rule keeps every promise, and every promise is one that a broken rule breaks."""

from dataclasses import replace

import pytest
import torch
from broken_rules import BROKEN, Good
from cases import levels, run
from conformance import CHECKS

from guidance_pack.guidance.rule import Term, Transform, Weigher, rule, rules
from guidance_pack.guidance.rules.apg import APG
from guidance_pack.guidance.rules.cfg import CFG


@pytest.mark.many
@pytest.mark.parametrize("check", CHECKS.values(), ids=CHECKS.keys())
@pytest.mark.parametrize("cls", rules().values(), ids=rules().keys())
def test_rule(cls, check):
    check(cls)


def test_the_register_knows_the_rules_of_the_folder():
    assert {"apg", "autoguidance", "cfg", "clamp", "rescale"} <= set(rules())
    assert all(cls.name == name and issubclass(cls, Term | Transform | Weigher) for name, cls in rules().items())


def test_a_name_can_be_taken_once():
    before = rules()
    with pytest.raises(ValueError, match="There is a rule 'cfg' already, in .*rules.cfg"):
        rule("cfg")(type("Another", (Term,), {}))
    assert rules() == before


@pytest.mark.parametrize("check", CHECKS.values(), ids=CHECKS.keys())
def test_a_good_rule_passes(check):
    check(Good)


@pytest.mark.parametrize(("name", "cls"), BROKEN, ids=[cls.__name__ for _, cls in BROKEN])
def test_a_broken_rule_is_caught(name, cls):
    with pytest.raises((AssertionError, KeyError, TypeError)):
        CHECKS[name](cls)


def test_every_check_has_a_broken_rule():
    assert {name for name, _ in BROKEN} == set(CHECKS)


def test_apg_moves_its_momentum_once_per_position():
    """The average is of the updates of the positions before, so momentum 0 and one position are the same."""
    first, *later = run(APG(momentum=-0.5))
    plain_first, *plain_later = run(APG(momentum=0.0))
    assert torch.equal(first, plain_first)
    assert not any(torch.equal(a, b) for a, b in zip(later, plain_later, strict=True))


def test_cfg_takes_the_sampler_s_weight_where_it_has_none():
    level = levels(1.0, 2.0)
    everywhere = torch.ones_like(level.b)
    assert replace(CFG(), weight=None).weights(everywhere, 7.0).tolist() == [7.0, 7.0]
    assert CFG(2.0).weights(everywhere, 7.0).tolist() == [2.0, 2.0]
