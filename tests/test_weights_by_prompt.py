"""Learned weights that read the class or the prompt: classes that want other weights, the file, and the real host."""

from dataclasses import replace

import pytest
import torch
from cases import case, levels, trained_weights
from engine_probe import cfg_guider, far_apart, setting_of
from host_models import MODELS

from guidance_pack.guidance.asked import Asked
from guidance_pack.guidance.branch import NEGATIVE, POSITIVE
from guidance_pack.guidance.compose import Guidance
from guidance_pack.guidance.learned import LearnedWeights, WeightNetwork
from guidance_pack.guidance.networks.tiny.files import NetworkFileError, build, read_network, write_network
from guidance_pack.guidance.noise_level import NoiseLevel, expand
from guidance_pack.guidance.rules.cfg import CFG
from guidance_pack.guidance.rules.learned_weight import LearnedWeight
from guidance_pack.guidance.training.matching import Lessons, WeightRecipe
from guidance_pack.guidance.training.weights import WEIGHTS, WeightsTraining

NAMES, BEST, SPREAD = ("round", "square"), (1.5, 4.0), 0.5
SD15 = MODELS["sd15"]


def mixture(count=60, size=12):
    """Two classes, N(m_c, SPREAD^2) each. The model knows the mixture exactly and each class too little: only with its
    own weight of CFG its estimate is the exact one of the class."""
    means = torch.randn(2, size, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    classes = torch.arange(count) % 2
    noise = torch.randn(count, size, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    pictures = means[classes] + SPREAD * noise
    sigma = 80.0 * (0.002 / 80.0) ** torch.linspace(0.0, 1.0, 200, dtype=torch.float64)

    def exact(x, level, mean):
        share = expand(SPREAD**2 / (SPREAD**2 + level.b**2), x)
        return mean + share * (x - mean)

    def predict(rows, x, level):
        of_each = torch.stack([exact(x, level, mean) for mean in means])
        apart = torch.stack([-(x - mean).square().sum(1) for mean in means]) / (2 * (SPREAD**2 + level.b**2))
        mixed = (apart.softmax(0)[:, :, None] * of_each).sum(0)
        own = of_each[classes[rows], torch.arange(len(rows))]
        weight = torch.tensor(BEST, dtype=torch.float64)[classes[rows]][:, None]
        return {POSITIVE: mixed + (own - mixed) / weight, NEGATIVE: mixed}

    return Lessons(NoiseLevel.variance_exploding(sigma), count, lambda rows: pictures[rows], predict,
                   asked=lambda rows: Asked(classes[rows], means[classes[rows]]), reads={"classes": NAMES})  # fmt: skip


RECIPE = WeightRecipe(iterations=100, batch=64, particles=1, learning_rate=0.1, objective="l2", width=8, by_prompt=True)


def trained(recipe=RECIPE, **changed):
    training = WeightsTraining(recipe, replace(mixture(), **changed))
    list(training.steps())
    return training.settle().cfg


@pytest.mark.parametrize("reads", [{"classes": NAMES}, {"pooled": 12}], ids=["class", "prompt"])
def test_classes_that_want_other_weights_learn_them(reads):
    """By a class's number, and by a prompt's vector: rows 0 and 1 of both. Without, one weight lies between."""
    network, at = trained(reads=reads), levels(4.0, 2.0)
    for place in (0, 1):
        assert network.usual(at, place).tolist() == pytest.approx([BEST[place]] * 2, abs=0.4)
    if "classes" in reads:
        assert network.usual(at).tolist() == pytest.approx([sum(BEST) / 2] * 2, abs=0.4)
        assert network.shown_for == "the mean over the 2 classes"
        many = WeightNetwork(classes=list(map(str, range(1000))))
        assert many.shown_for == "the mean over 50 of 1000 classes" and float(many._example(49).argmax()) == 980
        one = trained(replace(RECIPE, by_prompt=False))
        assert BEST[0] + 0.3 < float(one.usual(levels(2.0))) < BEST[1] - 0.3 and not one.shown_for and not one.reading


def read_by_class(**config):
    network = trained_weights(classes=NAMES, **config)
    network.ask.weight.copy_(torch.randn(8, 2, generator=torch.Generator().manual_seed(7), dtype=torch.float64))
    return network


def test_every_picture_has_the_weight_of_its_own_class():
    network = read_by_class(constant=2.0)
    rule, given = LearnedWeight(weights=network), case(CFG(2.0))
    asked = Asked(torch.tensor([1, 0, 2])).over(len(given.level.b))
    moved = given.predictions[POSITIVE] - given.predictions[NEGATIVE]

    def guided(rules, asked):
        return Guidance(rules).denoise(given.predictions.__getitem__, given.x, given.level, asked=asked)

    found = guided((CFG(2.0), rule), asked)
    for row in range(len(given.level.b)):
        alone = guided((CFG(2.0), rule), Asked(asked.classes[row : row + 1]).over(len(given.level.b)))
        torch.testing.assert_close(found[row], alone[row], rtol=1e-12, atol=1e-12)
    swapped = guided((CFG(2.0), rule), Asked(1 - asked.classes.clamp(max=1)))
    assert float((found - swapped).abs().max()) > 1e-3 * float(moved.abs().max())
    constant = guided((CFG(2.0),), None)
    assert torch.equal(guided((CFG(2.0), replace(rule, amount=0.0)), None), constant)
    untrained = WeightNetwork(constant=2.0, classes=NAMES)
    untrained.initialise(torch.Generator().manual_seed(0))
    assert torch.equal(guided((CFG(2.0), LearnedWeight(weights=untrained)), asked), constant)


def test_a_stopped_training_goes_on_as_if_it_had_not_been():
    recipe = replace(RECIPE, iterations=6)
    whole, first, second = (WeightsTraining(recipe, replace(mixture(), reads={"pooled": 12})) for _ in range(3))
    list(whole.steps())
    steps = first.steps()
    for _ in range(3):
        next(steps)
    second.restore(first.tensors())
    list(second.steps())
    assert second.losses == whole.losses and bool(whole.settle().cfg.ask.weight.any())
    for name, tensor in whole.settle().state_dict().items():
        assert torch.equal(tensor, second.settle().state_dict()[name]), name


def test_the_file_says_what_is_read_and_old_files_stay_as_they_are(tmp_path):
    path, about = tmp_path / "w.safetensors", {"facts": {}, "loss": [1.0], "evaluations": 3}

    def written(config, tensors=None):
        found = tensors or LearnedWeights(**config).state_dict()
        write_network(path, WEIGHTS, config, about, found, torch.float64)
        return build(read_network(path, WEIGHTS))

    made = LearnedWeights(cfg={"classes": NAMES, "width": 4})
    made.cfg = read_by_class()
    again = written(made.config, made.state_dict())
    assert again.cfg.classes == NAMES and again.cfg.fingerprint == made.cfg.fingerprint
    assert written({"cfg": {"pooled": 5, "width": 4}}).cfg.reading == 5
    plain = LearnedWeights(cfg={"width": 4})
    assert plain.config["cfg"] == {"constant": 2.0, "reach": 4.0, "width": 4} and not written(plain.config).cfg.reading
    assert "by_prompt" not in replace(RECIPE, by_prompt=False).as_dict() and RECIPE.as_dict()["by_prompt"]
    for wrong in (
        {"classes": [1, 2]}, {"classes": ["long" * 200]}, {"pooled": -1}, {"pooled": 10**9},
        {"classes": NAMES, "pooled": 3},
    ):  # fmt: skip
        with pytest.raises(NetworkFileError, match="cannot build"):
            written({"cfg": wrong}, plain.state_dict())


@pytest.mark.parametrize(
    ("config", "asked", "words"),
    [
        ({"classes": NAMES}, None, "learned for 2 classes.*asks for none"),
        ({"classes": NAMES}, Asked(torch.tensor([7])), "asks for class 7"),
        ({"pooled": 4}, Asked(torch.tensor([0])), "pooled vector of 4 numbers.*has none"),
        ({"pooled": 4}, Asked(pooled=torch.zeros(1, 6)), "has one of 6 numbers"),
    ],
)
def test_a_prompt_that_cannot_be_read_is_refused_in_words(config, asked, words):
    with pytest.raises(ValueError, match=words):
        WeightNetwork(**config).vectors(asked)


def learned(model, network, strength=1.0):
    from guidance_pack.nodes.learned_weight import GuidanceLearnedWeight

    weights = LearnedWeights(cfg={})
    weights.cfg = network.requires_grad_(False)
    always = ("percent", 0.0, 1.0)
    return GuidanceLearnedWeight.execute(model, "shapes-weights", strength, *always, weights=weights).args[0]


@pytest.fixture(scope="module")
def tiny(comfy):
    from guidance_pack.host.models.tiny import load_tiny_model

    return load_tiny_model("shapes-edm")


def classed(tiny):
    network = trained_weights(classes=tiny.model.labels)
    drawn = torch.randn(network.ask.weight.shape, generator=torch.Generator().manual_seed(7), dtype=torch.float64)
    network.ask.weight.copy_(drawn)
    return network


def test_a_batch_of_classes_is_its_pictures(tiny):
    from guidance_pack.host.common.labels import class_conditioning

    model, nothing = learned(tiny, classed(tiny)), class_conditioning(tiny, "")
    setting = setting_of(model, MODELS["sd15"], steps=2, batch=2, latent_seed=4)
    setting.latent = torch.zeros(2, 3, 16, 16)
    setting.noise = torch.randn(setting.latent.shape, generator=torch.Generator().manual_seed(3))

    def run(words, rows):
        setting.latent, setting.noise = latent[rows], noise[rows]
        return setting.run(cfg_guider(model, class_conditioning(tiny, words), nothing, 1.0))

    latent, noise = setting.latent, setting.noise
    together = run("star, heart", slice(0, 2))
    for row, word in enumerate(("star", "heart")):
        assert far_apart(together[row : row + 1], run(word, slice(row, row + 1))) < 1e-4


def test_on_the_host_a_prompt_is_read_or_refused_before_sampling(tiny, comfy):
    main = SD15.build(0)
    setting = setting_of(main, SD15, steps=2, batch=1, latent_seed=4)
    plain, negative = SD15.conditioning(1), SD15.conditioning(2)

    def pooled(seed, size=6):
        vector = torch.randn(1, size, generator=torch.Generator().manual_seed(seed))
        return [[plain[0][0], {**plain[0][1], "pooled_output": vector}]]

    network = trained_weights(pooled=6)
    network.ask.weight.copy_(torch.randn(8, 6, generator=torch.Generator().manual_seed(7), dtype=torch.float64))

    def run(positive, strength=1.0):
        return setting.run(cfg_guider(learned(main, network, strength), positive, negative, 1.0))

    assert not torch.equal(run(pooled(1)), run(pooled(2)))
    assert torch.equal(run(pooled(1)), run(pooled(1)))
    bare = [[plain[0][0], {key: value for key, value in plain[0][1].items() if key != "pooled_output"}]]
    assert torch.equal(run(bare, 0.0), run(pooled(3, 9), 0.0))
    for positive, words in (
        (bare, "has none"), (pooled(1, 9), "one of 9"), ([*pooled(1), *pooled(2)], "combination of 2"),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=words):
            run(positive)
