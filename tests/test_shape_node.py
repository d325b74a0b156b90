"""Shape CFG as the host knows it: a list whose choices bring inputs of their own, in prompts and in saved workflows."""

import math

import pytest
import torch
from host_models import MODELS, count_forwards, sample

SD15 = MODELS["sd15"]
LEAST = {"limit": 1, "longest": 2, "recent": 1}  # else 0
EMPTY_PROMPT = SD15.conditioning(3)


@pytest.fixture(scope="module")
def node(comfy):
    from guidance_pack.nodes.shape import GuidanceShape

    return GuidanceShape


@pytest.fixture(scope="module")
def choices(node):
    """The inputs of every rule by their names: {rule: {input: default}}."""
    (listed,) = (entry for entry in node.GET_SCHEMA().inputs if entry.id == "rule")
    return {option.key: {own.id: own.default for own in option.inputs} for option in listed.options}


def made(node, model, rule, own, **more):
    common = {"amount": 1.0, "unit": "percent", "start": 0.0, "end": 1.0, "empty": EMPTY_PROMPT, **more}
    return node.execute(model=model, rule={"rule": rule, **own}, **common).result[0]


def rules_of(model):
    from guidance_pack.host.engine.plan import plan_of

    return plan_of(model).guidance.rules


def test_every_shape_is_a_choice_and_its_inputs_have_names_of_their_own(choices):
    from guidance_pack.guidance.rule import rules
    from guidance_pack.guidance.shaping import Shape
    from guidance_pack.host.schema.shapes import CHOICES

    offered = [kind for kinds in CHOICES.values() for kind in kinds]
    assert sorted(kind.name for kind in offered) == sorted(n for n, cls in rules().items() if issubclass(cls, Shape))
    names = [name for own in choices.values() for name in own]
    assert len(set(names)) == len(names), "the page keeps the words of an input under its name alone"


def test_every_choice_gives_its_rule_with_the_values_asked_for(node, choices, main):
    for rule, own in choices.items():
        values = {name: type(default)(LEAST.get(name, 0)) for name, default in own.items()}
        found = rules_of(made(node, main, rule, values, amount=0.5, start=0.25))
        assert found[0].title == rule and {one.amount for one in found} == {0.5}
        assert all(one.schedule.start == 0.25 for one in found)
        kept = {name: getattr(one, name) for one in found for name in own if hasattr(one, name)}
        assert kept == values, rule


def prompt(rule, **own):
    """A prompt in the API's format, as the page writes it and programs send it."""
    inputs = {"model": ["MODEL", 0], "rule": rule, "amount": 1.0, "unit": "percent", "start": 0.0, "end": 1.0}
    inputs |= {f"rule.{name}": value for name, value in own.items()}
    return {"node": {"class_type": "GuidanceShape", "inputs": inputs}, "MODEL": {"class_type": "Feed", "inputs": {}}}


@pytest.fixture(scope="module")
def errors(node):
    """What the host's own validation says of a prompt."""
    import asyncio

    import execution

    import nodes as core

    feed = type("Feed", (), {"RETURN_TYPES": ("MODEL",), "INPUT_TYPES": classmethod(lambda cls: {"required": {}})})
    there = dict(core.NODE_CLASS_MAPPINGS)
    core.NODE_CLASS_MAPPINGS.update({"GuidanceShape": node, "Feed": feed})
    yield lambda given: asyncio.run(execution.validate_inputs("prompt", given, "node", {}))[1]
    core.NODE_CLASS_MAPPINGS.clear()
    core.NODE_CLASS_MAPPINGS.update(there)


def test_the_host_takes_every_choice_with_its_defaults(errors, choices):
    for rule, own in choices.items():
        assert errors(prompt(rule, **own)) == [], rule


@pytest.mark.parametrize(
    ("rule", "own", "words"),
    [
        ("TAG", {"eta": 9.0}, "eta is 9; it can be 0 to 4."),
        ("TAG", {"eta": math.nan}, "eta is nan; it can be 0 to 4."),
        ("CFG-Zero*", {"zero_steps": -1}, "zero_steps is -1; it can be 0 to 100."),
        ("RescaleCFG", {}, "rule is none of its choices; it can be FDG, PMC-CFG"),
        (5, {}, "rule is none of its choices"),
    ],
)
def test_a_mistake_is_said_once_in_words(errors, rule, own, words):
    (found,) = errors(prompt(rule, **own))
    assert words in found["details"]


def test_a_prompt_without_an_input_of_its_rule_is_named(errors):
    (found,) = errors(prompt("TAG"))
    assert found["message"] == "Required input is missing" and found["details"] == "eta"


def test_what_is_no_number_is_said_once_by_the_host(errors):
    (found,) = errors(prompt("TAG", eta="much"))
    assert "could not convert string to float" in found["details"]
    assert errors(prompt("TAG", eta=["MODEL", 0]))[0]["message"] == "Return type mismatch between linked nodes"


def test_a_value_that_comes_by_a_wire_is_judged_when_it_runs(node, main):
    with pytest.raises(ValueError, match="eta is 9; it can be 0 to 4"):
        made(node, main, "TAG", {"eta": 9.0})
    with pytest.raises(ValueError, match="amount is 2; it can be 0 to 1"):
        made(node, main, "TAG", {"eta": 1.1}, amount=2.0)


def drawn(model, cfg=5.0, steps=3):
    with count_forwards(model) as count:
        out = sample(model, SD15.conditioning(1), SD15.conditioning(2), SD15.latent(), steps=steps, cfg=cfg)
    return out, count.rows


def test_no_amount_is_exact_and_free(node, choices, main):
    plain, rows = drawn(main)
    once, single = drawn(main, 1.0)
    for rule, own in choices.items():
        off = made(node, main, rule, own, amount=0.0)
        assert torch.equal(drawn(off)[0], plain) and drawn(off)[1] == rows, rule
        assert torch.equal(drawn(off, 1.0)[0], once) and drawn(off, 1.0)[1] == single == rows / 2, rule


def test_every_rule_acts_and_costs_no_evaluation_but_perp_neg_one(node, choices, main):
    plain, rows = drawn(main)
    for rule, own in choices.items():
        shaped, asked = drawn(made(node, main, rule, own))
        own = 3 / 2 if rule == "Perp-Neg" else 1  # a third prompt
        assert asked == own * rows and torch.isfinite(shaped).all() and not torch.equal(shaped, plain), rule
