"""Weights of guidance that are learned: the small network, its objective, its training and its file; without a host."""

import json
from dataclasses import replace

import pytest
import torch
from cases import case, levels, trained_weights

from guidance_pack.guidance.branch import NEGATIVE, POSITIVE, Branch
from guidance_pack.guidance.compose import Guidance
from guidance_pack.guidance.learned import LearnedWeights, WeightNetwork, gap_of
from guidance_pack.guidance.networks.tiny.files import NetworkFileError, write_network
from guidance_pack.guidance.noise_level import NoiseLevel
from guidance_pack.guidance.rules.autoguidance import Autoguidance
from guidance_pack.guidance.rules.cfg import CFG
from guidance_pack.guidance.rules.learned_autoguidance import LearnedAutoguidance
from guidance_pack.guidance.rules.learned_weight import LearnedWeight
from guidance_pack.guidance.seeds import generator_of
from guidance_pack.guidance.training.matching import (
    Draw,
    Lessons,
    WeightRecipe,
    batch_loss,
    ddim_step,
    matching_loss,
    noisy,
)
from guidance_pack.guidance.training.weights import (
    WEIGHTS,
    WeightsFiles,
    WeightsTraining,
    facts_of_weights,
    read_weights,
)

GUIDE = Branch("weak")
RECIPE = WeightRecipe(iterations=6, batch=3, particles=2, width=4)
SHAPE = (2, 3, 3)


def lessons(best=3.0, guide=False, reward=None, kind="edm"):
    """A model that is wrong by what a weight of `best` would mend; with a guide, by what `best` of both would."""
    percents = torch.linspace(0.0, 1.0, 200, dtype=torch.float64)
    sigma = 80.0 * (0.002 / 80.0) ** percents
    table = NoiseLevel.variance_exploding(sigma) if kind == "edm" else NoiseLevel.flow(1.0 - 0.999 * percents)
    pictures = torch.randn(5, *SHAPE, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    errors = 0.3 * torch.randn(2, *SHAPE, generator=torch.Generator().manual_seed(2), dtype=torch.float64)

    def predict(rows, x, level):
        off = (best - 1.0) * (errors[0] + (errors[1] if guide else 0.0))
        right = pictures[rows] + off
        return {POSITIVE: right, NEGATIVE: right + errors[0], GUIDE: right + errors[1]}

    return Lessons(table, len(pictures), lambda rows: pictures[rows], predict, GUIDE if guide else None, reward)


def trained(recipe, given=None):
    training = WeightsTraining(recipe, given or lessons())
    list(training.steps())
    return training


def test_untrained_it_is_the_constant_and_in_a_chain_changes_no_bit():
    network = WeightNetwork(constant=2.5)
    network.initialise(torch.Generator().manual_seed(3))
    found = network(levels(30.0, 1.0, 0.01), torch.tensor([0.0, 0.2, 5.0], dtype=torch.float64))
    assert torch.equal(found, torch.full((3,), 2.5, dtype=torch.float64))
    for rules in ((LearnedWeight(weights=network),), (LearnedWeight(0.0, weights=trained_weights(constant=2.5)),)):
        given = case(CFG(2.5), dtype=torch.float32)
        assert torch.equal(given.guide(Guidance((CFG(2.5), *rules))), given.guide(CFG(2.5)))


def test_beside_its_constant_the_weight_is_the_learned_one():
    network = trained_weights(constant=2.0)
    for base, rule in ((CFG(2.0), LearnedWeight(weights=network)),
                       (Autoguidance(2.0), LearnedAutoguidance(weights=network))):
        given = case(rule)
        rival = NEGATIVE if rule.uses > {POSITIVE} else rule.branch
        moved = given.predictions[POSITIVE] - given.predictions[rival]
        weights = network(given.level, gap_of(moved, given.level))
        by_hand = given.predictions[POSITIVE] + (weights - 1.0)[:, None, None, None] * moved
        found = given.guide(Guidance((CFG(1.0), base, rule) if rival != NEGATIVE else (base, rule)))
        torch.testing.assert_close(found, by_hand, rtol=1e-12, atol=1e-12)
        assert len(set(weights.tolist())) == 3


def test_the_gap_is_the_same_in_every_family_and_size():
    difference = torch.full((1, 4, 8, 8), 0.6)
    flow = NoiseLevel.flow(torch.tensor([0.75]))
    assert float(gap_of(difference, levels(3.0))) == pytest.approx(0.2) == float(gap_of(difference[..., :2], flow))
    assert float(gap_of(difference, NoiseLevel.flow(torch.tensor([1.0])))) == 0.0


def test_the_loss_is_the_papers():
    """Written out: attraction over all pairs of proposal and target, half the repulsion over pairs of proposals."""
    a, b = (torch.randn(2, 3, 5, generator=torch.Generator().manual_seed(s), dtype=torch.float64) for s in (1, 2))
    rms = lambda x, y: float((x - y).square().mean().sqrt())  # noqa: E731
    for beta, repulsion in ((1.0, 1.0), (1.5, 0.4), (2.0, 0.0)):
        for i in range(2):
            near = sum(rms(a[i, j], b[i, k]) ** beta for j in range(3) for k in range(3)) / 9
            apart = sum(rms(a[i, j], a[i, k]) ** beta for j in range(3) for k in range(3) if j != k)
            expected = near - repulsion / (2 * 3 * 2) * apart
            assert float(matching_loss(a, b, beta, repulsion)[i]) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("objective", ["mmd", "l2"])
@pytest.mark.parametrize("kind", ["edm", "flow"])
def test_the_gradient_of_the_objective_by_finite_differences(objective, kind):
    recipe = replace(RECIPE, objective=objective, reward=0.3, guide_constant=1.5)
    given = lessons(guide=True, reward=lambda guided, clean: (guided - clean).square().flatten(1).mean(1), kind=kind)
    draw = Draw.of(recipe, given, generator_of(0, 1))
    clean = given.pictures(draw.rows)
    noises = tuple(torch.randn(clean.shape, generator=generator_of(s), dtype=torch.float64) for s in (5, 6))
    found = given.predict(draw.rows, noisy(clean, noises[0], draw.start), draw.start)
    gaps = {part: gap_of(moved, draw.start) for part, moved in given.differences(found).items()}
    parts = {"cfg": trained_weights(constant=2.0), "autoguidance": trained_weights(seed=2, constant=1.5)}

    def loss():
        return batch_loss(parts, gaps, recipe, given, draw, clean, noises, found)

    parameters = [p.requires_grad_() for network in parts.values() for p in network.parameters()]
    gradients = torch.autograd.grad(loss(), parameters)
    for parameter, gradient in zip(parameters, gradients, strict=True):
        place = int(gradient.abs().argmax())
        with torch.no_grad():
            around = []
            for step in (1e-6, -2e-6):
                parameter.view(-1)[place] += step
                around.append(float(loss()))
            parameter.view(-1)[place] += 1e-6
        slope = (around[0] - around[1]) / 2e-6
        assert float(gradient.view(-1)[place]) == pytest.approx(slope, rel=1e-4, abs=1e-8)


def test_a_step_of_ddim_with_the_true_picture_leads_where_noise_does():
    clean, noise = (torch.randn(4, *SHAPE, generator=generator_of(s), dtype=torch.float64) for s in (1, 2))
    for kind in (NoiseLevel.variance_exploding, NoiseLevel.flow):
        start, end = kind(torch.full((4,), 0.9)), kind(torch.full((4,), 0.2))
        x = ddim_step(noisy(clean, noise, start), clean, start, end)
        torch.testing.assert_close(x, noisy(clean, noise, end))


@pytest.mark.parametrize(("objective", "guide"), [("mmd", False), ("l2", False), ("mmd", True)])
def test_it_learns_the_weight_that_mends_the_model(objective, guide):
    """Everywhere but where so little noise is left that no weight tells."""
    recipe = WeightRecipe(iterations=100, batch=8, particles=4, learning_rate=0.03, objective=objective, width=8,
                          guide_constant=2.0 if guide else None)
    training = trained(recipe, lessons(3.0, guide))
    weights = training.settle()
    for network in training.parts.values():
        found = network.usual(levels(20.0, 3.0, 0.5))
        assert bool(((found - 3.0).abs() < 0.35).all()), found
    assert weights.autoguidance is None or guide
    assert training.evaluations == 100 * 8 * 4 * (3 if guide else 2)


def test_a_stopped_training_goes_on_as_if_it_had_not_been():
    whole, first, second = (WeightsTraining(RECIPE, lessons()) for _ in range(3))
    list(whole.steps())
    steps = first.steps()
    for _ in range(3):
        next(steps)
    second.restore(first.tensors())
    list(second.steps())
    assert second.losses == whole.losses
    for name, tensor in whole.settle().state_dict().items():
        assert torch.equal(tensor, second.settle().state_dict()[name]), name


def test_a_state_of_something_else_is_refused():
    training = trained(RECIPE)
    good = training.tensors()
    for change, words in (
        ({"losses": torch.zeros(9, dtype=torch.float64)}, "losses of 1 to 6 steps"),
        ({"weights.cfg.layers.0.bias": torch.full((4,), torch.nan, dtype=torch.float64)}, "not finite"),
        ({"exp_avg_sq.cfg.layers.0.bias": -torch.ones(4, dtype=torch.float64)}, "below 0"),
        ({"more": torch.zeros(1)}, "unknown more"),
    ):
        with pytest.raises(ValueError, match=words):
            WeightsTraining(RECIPE, lessons()).restore({**good, **change})


def files_in(folder, recipe=RECIPE):
    facts = facts_of_weights(recipe, {"name": "toy"}, "ab", 5)
    return WeightsFiles(folder / "w.safetensors", folder / "waiting" / "w.safetensors", facts, "here")


def test_the_file_gives_back_what_was_trained_and_never_another_training(tmp_path):
    training = trained(RECIPE)
    files = files_in(tmp_path)
    files.save(training)
    files.finish(training, {"workflow": '{"nodes": []}'})
    assert not files.waiting.exists()
    found, about = read_weights(str(files.final))
    assert all(torch.equal(found.state_dict()[n], t) for n, t in training.weights.state_dict().items())
    assert about["facts"]["recipe"] == json.loads(json.dumps(RECIPE.as_dict()))
    assert about["evaluations"] == 6 * 3 * 2 * 2 and len(about["loss"]) == 6
    assert files.finished() is not None
    with pytest.raises(ValueError, match=r"trained otherwise \(recipe|trained otherwise \(seed 0 instead of 1"):
        files_in(tmp_path, replace(RECIPE, seed=1)).finished()


def test_wrong_files_are_refused_in_words(tmp_path):
    path = tmp_path / "w.safetensors"
    good = LearnedWeights(cfg={"width": 4})
    about = {"facts": {}, "loss": [1.0], "evaluations": 3}

    def written(config=good.config, facts=about, tensors=None):
        write_network(path, WEIGHTS, config, facts, tensors or good.state_dict(), torch.float64)
        return str(path)

    read_weights(written())
    for made, words in (
        (lambda: written({**good.config, "more": 1}), "cannot build"),
        (lambda: written({"cfg": {"width": 10**9}, "autoguidance": None}), "width 1000000000"),
        (lambda: written({"cfg": {"constant": "two"}, "autoguidance": None}), "cannot build"),
        (lambda: written({"cfg": {"width": 5}, "autoguidance": None}), "does not fit its own config"),
        (lambda: written(facts={**about, "loss": ["low"]}), "loss in its metadata"),
        (lambda: written(facts={**about, "evaluations": "few"}), "evaluations in its metadata"),
        (lambda: written(tensors={n: t * torch.nan for n, t in good.state_dict().items()}), "not finite"),
    ):
        made()
        with pytest.raises(NetworkFileError, match=words):
            read_weights(str(path))
    path.write_bytes(b"no file of ours")
    with pytest.raises(NetworkFileError, match="not a readable safetensors"):
        read_weights(str(path))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"objective": "kl"}, "objective is 'kl'; it can be mmd, l2"), ({"particles": 1}, "particles is 1; with mmd"),
        ({"iterations": 0}, "iterations is 0"), ({"learning_rate": 0.0}, "above 0"),
        ({"least_step": 1.0}, "least_step"),
    ],
)  # fmt: skip
def test_a_recipe_that_cannot_be_is_refused(change, words):
    with pytest.raises(ValueError, match=words):
        replace(RECIPE, **change)
