"""What a search may vary beside numbers, each as the nodes would give it, and as a recipe carries it."""

import json

import pytest
import torch
from compare_scene import chained, given, sampled, scene, widgets


@pytest.fixture(scope="module")
def tiny(comfy):
    from guidance_pack.host.models.tiny import load_tiny_model

    with torch.inference_mode():
        return load_tiny_model("shapes-edm"), load_tiny_model("shapes-edm-weak")


def shaped(model, rule="FDG"):
    from guidance_pack.host.schema.shapes import CHOICES, _own
    from guidance_pack.nodes.shape import GuidanceShape

    chosen = {"rule": rule, **{entry.id: entry.default for entry in _own(CHOICES[rule])}}
    return given(GuidanceShape, model=model, rule=chosen, amount=0.8)


def degraded(model, kind, strength=0.7, layers=""):
    from guidance_pack.nodes.degrade import GuidanceDegrade

    weak = given(GuidanceDegrade, model=model, kind=kind, strength=strength, layers=layers)
    return chained(model, weak)


def scheduled(model, *points):
    from guidance_pack.guidance.schedule import Curve
    from guidance_pack.nodes.cfg import GuidanceCFG

    schedule = Curve(tuple(zip((0.0, 0.5, 1.0), points, strict=True)))
    return given(GuidanceCFG, model=model, weight_from="node", weight=3.0, schedule=schedule)


def on(model, index=0):
    from guidance_pack.host.compare.settings import settings_on

    return settings_on(widgets(steps=2), model, index)


def space_of(vary, *models):
    from guidance_pack.host.tuning.space import parse_space

    first, *others = (on(model, index) for index, model in enumerate(models))
    return first, parse_space(vary, first, tuple(others))


def drawn(model, settings):
    from guidance_pack.host.compare.compare import draw

    with torch.inference_mode():
        return draw(scene(model), settings, None)


def applied(model, text):
    from guidance_pack.host.tuning.recipes import apply_recipe, parse_recipe

    return apply_recipe(model, parse_recipe(text))


CASES = [
    ("shape rule: fdg, cfg zero", {"shape rule": "cfg zero"}, lambda m, w: shaped(chained(m, w)),
     lambda m, w: shaped(chained(m, w), "CFG-Zero*")),
    ("shape rule: fdg, cfg zero", {"shape rule": "fdg"}, lambda m, w: shaped(chained(m, w), "CFG-Zero*"),
     lambda m, w: shaped(chained(m, w))),
    ("cfg point 2: 0 .. 2", {"cfg point 2": 0.4}, lambda m, w: scheduled(m, 1.0, 1.0, 0.0),
     lambda m, w: scheduled(m, 1.0, 0.4, 0.0)),
    ("degraded kind: identity attention, skipped layers\ndegraded strength\ndegraded layers: deep 0 | usual",
     {"degraded kind": "skipped layers", "degraded strength": 0.5, "degraded layers": "deep 0"},
     lambda m, w: degraded(m, "identity attention"), lambda m, w: degraded(m, "skipped layers", 0.5, "deep 0")),
]  # fmt: skip


@pytest.mark.parametrize(("vary", "values", "came", "wanted"), CASES, ids=["cfg zero", "fdg", "point", "degraded"])
def test_choices_are_what_the_nodes_give_and_what_a_recipe_carries(tiny, vary, values, came, wanted):
    from guidance_pack.host.engine.plan import plan_of
    from guidance_pack.host.tuning.recipes import key_of, recipe_of
    from guidance_pack.host.tuning.space import set_all, value_now

    with torch.inference_mode():
        before, after = came(*tiny), wanted(*tiny)
    first, space = space_of(vary, before)
    settings = set_all(first, space, values)
    assert key_of(settings) != key_of(first) and all(value_now(first, d) is not None for d in space)
    expected = sampled(scene(after), after, steps=2)
    assert torch.equal(drawn(before, settings), expected)
    text = recipe_of(settings, came=plan_of(before).guidance.rules).text()
    made = applied(before, text).model
    assert torch.equal(sampled(scene(made), made, steps=2), expected)
    assert on(made).rules == settings.rules and on(made).degraded == settings.degraded
    assert on(before).degraded == first.degraded  # the MODEL itself stays as it was


def test_a_search_begins_with_what_there_is_and_with_the_papers_numbers(tiny):
    from guidance_pack.host.tuning.space import value_now, value_of_paper

    vary = "cfg weight: 1 .. 8\nautoguidance weight\ncfg start\nautoguidance reuse: 2 .. 4\nsteps: 1 .. 3"
    first, space = space_of(vary, chained(*tiny, cfg=1.5, auto=1.2, start=0.25, end=0.75))
    assert [value_now(first, d) for d in space] == [1.5, 1.2, 0.25, None, 2]
    assert [value_of_paper(first, d) for d in space] == [4.0, 2.0, 0.25, None, 2]


def test_one_of_several_models_is_chosen_with_its_own_components(tiny):
    from guidance_pack.host.tuning.recipes import key_of
    from guidance_pack.host.tuning.space import set_all

    models = chained(*tiny), shaped(chained(*tiny, cfg=4.0, auto=1.5))
    first, space = space_of("cfg weight: 1 .. 4\nmodel", *models)
    assert [d.words() for d in space] == ["cfg weight: 1 .. 4", "model: model, model_2"]
    second = set_all(first, space, {"cfg weight": 2.0, "model": "model_2"})
    assert second.model == 1 and [rule.name for rule in second.rules] == ["cfg", "autoguidance", "fdg"]
    assert second.rules[0].weight == 2.0 and second.rules[1].weight == 1.5
    assert key_of(second) != key_of(set_all(first, space, {"cfg weight": 2.0, "model": "model"}))
    for vary, words in (
        ("cfg weight", "no line model"), ("model: modle_2", "it can be model, model_2"),
        ("model\nshape rule: fdg, tag", "model carries no Shape CFG"),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=words):
            space_of(vary, *models)
    with pytest.raises(ValueError, match="one MODEL is connected"):
        space_of("model", models[0])


@pytest.mark.parametrize(
    ("vary", "words"),
    [
        ("shape rule: fdg, tag", "carries no Shape CFG"), ("shape rule", "stands alone"), ("shape rule: fgd", "any of"),
        ("degraded strength", "no Degraded Model"), ("cfg point 1", "no SCHEDULE of points"),
        ("degraded kind: dropuot", "any of identity attention"), ("cfg poit 1", "did you mean"),
    ],
)  # fmt: skip
def test_what_a_model_does_not_carry_is_refused_in_words(tiny, vary, words):
    with pytest.raises(ValueError, match=words):
        space_of(vary, chained(*tiny))


def test_a_degradation_that_the_network_does_not_offer_is_refused_before_anything_is_drawn(tiny):
    from guidance_pack.host.compare.damage import with_damages
    from guidance_pack.host.tuning.space import corners

    model = degraded(tiny[0], "identity attention")
    first, space = space_of("degraded kind: identity attention, shuffled tokens\ncfg weight", model)
    kinds = [settings.degraded[0].kind for settings in corners(first, space)]
    assert kinds == ["identity attention", "shuffled tokens"]
    good, bad = corners(*space_of("degraded layers: deep 0 | deep 99", model))
    assert with_damages(model, good.degraded) is not model
    with pytest.raises(ValueError, match="layers has 'deep 99'"):
        with_damages(model, bad.degraded)
    with pytest.raises(ValueError, match="above 0"):
        space_of("degraded strength: 0 .. 1", model)


def test_a_recipe_says_what_it_cannot_give(tiny):
    recipe = {
        "format": "guidance-components/recipe/1", "made": {"model": "model_2"},
        "components": [{"kind": "degraded", "damage": "skipped layers", "layers": "", "strength": 0.5}],
    }  # fmt: skip
    words = applied(chained(*tiny), json.dumps(recipe)).words
    assert "Connect Degraded Model" in words and "connected as model_2" in words
    for wrong, told in (
        ({"kind": "degraded", "layers": 3}, "must be a text"),
        ({"kind": "degraded", "strenght": 1}, "it can be strength"),
        ({"kind": "cfg", "points": [[0, 1]]}, "pairs of position"), ({"kind": "cfg", "replaces": 1}, "must be a text"),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=told):
            applied(degraded(tiny[0], "dropout", 0.1), json.dumps({**recipe, "components": [wrong]}))


def test_the_table_and_the_grid_of_compare_have_them_too(tiny):
    from compare_scene import compared

    model = shaped(degraded(tiny[0], "identity attention"))
    made = compared(scene(model), ("shape rule", "fdg, tag"), ("degraded strength", "0.3, 0.7"), steps=1)
    assert "degraded identity attention 0.3" in made.table and "tag" in made.table
    assert len({tuple(picture.flatten().tolist()) for picture in made.pictures[::2]}) == 4
