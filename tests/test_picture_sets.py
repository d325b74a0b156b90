"""Objectives about sets of pictures: the measures in closed form, and Tune Guidance with them on the real host."""

from dataclasses import replace
from functools import cache

import pytest
import torch
from compare_scene import chained, scene, widgets
from PIL import Image
from world import render

from guidance_pack.guidance.tuning.evidence import probability_better, tells_apart
from guidance_pack.guidance.tuning.sets import (
    Gaussian,
    RealPictures,
    fewest,
    frechet_distance,
    measures_in,
    parts,
    precision_recall,
    together,
)

WIDE = 200  # features, far more than there are pictures


def drawn(count, seed, mean=0.0, std=1.0):
    return mean + std * torch.randn(count, WIDE, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(scope="module")
def real():
    return RealPictures.of(drawn(600, 0))


def judged(real, measure, made):
    block = together(len(made), real.features.shape[1])
    return torch.tensor(parts(measure, real, real.seen(made), block), dtype=torch.float64)


def test_without_each_is_the_gaussian_of_the_others():
    points = drawn(6, 1)[:, :8].double().view(6, 2, 4).movedim(1, 0)
    found = Gaussian.without_each(points)
    for one in range(6):
        others = Gaussian.of(torch.cat([points[:, :one], points[:, one + 1 :]], 1))
        torch.testing.assert_close(found.mean[one], others.mean)
        torch.testing.assert_close(found.covariance[one], others.covariance)


def test_shares_of_the_distance_have_no_bias_and_say_how_wide_it_is(real):
    """Of 16 pictures in 200 features. Real pictures have a variance of 1 in all, so that a Gaussian 1.3 times as wide
    is 0.3^2 away, and one whose mean has moved its square. Uncorrected the same Gaussian would be above 0.1 away."""
    for mean, std in ((0.0, 1.0), (0.15, 1.0), (0.0, 1.3)):
        sets = torch.stack([judged(real, "frechet", drawn(16, seed, mean, std)) for seed in range(1, 41)])
        means, errors = sets.mean(1), sets.std(1) / 4
        moved = torch.full((WIDE,), mean).double() @ real.turn / real.scale
        distance = float(moved.square().sum()) + (std - 1.0) ** 2
        assert float(means.mean()) == pytest.approx(-distance, abs=4 * float(means.std()) / 40**0.5 + 0.006)
        assert 0.6 < means.std() / errors.mean() < 1.4
    same = real.seen(drawn(16, 1)).double()
    assert frechet_distance(real.features[:, :4], same[:, :4]) * 16 > 0.1


def test_the_sum_over_groups_is_the_distance_where_they_are_independent():
    """And of one group it is the distance, as written down for two sets."""
    real = RealPictures.of(drawn(400, 2)[:, :8])
    made = real.seen(drawn(2000, 3, 0.2, 1.5)[:, :8])
    whole = torch.tensor(parts("frechet", real, made, 8)).mean()
    assert whole == pytest.approx(-frechet_distance(real.features, made.double()), rel=0.02)
    assert torch.tensor(parts("frechet", real, made, 4)).mean() == pytest.approx(whole.item(), rel=0.02)
    assert RealPictures.of(drawn(50, 4)).features.var(0).sum() == pytest.approx(1.0)


def test_shares_of_recall_and_precision_have_the_means_of_the_paper(real):
    """And each share of recall says what its picture adds: more than the others by 39 times what recall loses."""
    made = drawn(40, 5, 0.0, 0.9)
    seen = real.seen(made).double()
    expected = precision_recall(real.features, seen)
    recall, precision = judged(real, "recall", made), judged(real, "precision", made)
    assert recall.mean() == pytest.approx(expected.recall) and precision.mean() == pytest.approx(expected.precision)
    assert set(precision.tolist()) <= {0.0, 1.0}
    without = [precision_recall(real.features, torch.cat([seen[:i], seen[i + 1 :]])).recall for i in (0, 7)]
    assert recall[7] - recall[0] == pytest.approx(39 * (without[0] - without[1]), abs=1e-9)


def test_settings_are_told_apart_by_sets_as_by_pictures(real):
    """The same noise for all settings. What differs is found in 32 pictures; what does not is not."""
    noise = drawn(32, 6)
    near, far = (judged(real, "frechet", noise * std) for std in (1.0, 1.3))
    assert tells_apart([near.tolist(), far.tolist()]) and probability_better((near - far).tolist()) > 0.99
    alike = [judged(real, "frechet", drawn(32, seed)).tolist() for seed in (7, 8, 9)]
    assert not tells_apart(alike)


def test_how_many_features_go_together():
    assert [together(n, 64) for n in (16, 32, 64, 1000)] == [4, 8, 16, 16] and together(64, 3) == 3
    assert fewest(4) == 8 and fewest(16) == 32
    assert measures_in("frechet and recall") == ["frechet", "recall"] and measures_in("none") == []
    with pytest.raises(ValueError, match="look the same"):
        RealPictures.of(torch.ones(40, 8))


@pytest.fixture(scope="module")
def guides(comfy):
    from guidance_pack.host.models.guides import load_guide

    return {name: load_guide(f"shapes-{name}") for name in ("classifier", "depth")}


@pytest.fixture(scope="module")
def guided(comfy):
    from guidance_pack.host.models.tiny import load_tiny_model

    with torch.inference_mode():
        return chained(load_tiny_model("shapes-edm"), load_tiny_model("shapes-edm-weak"))


@pytest.fixture(scope="module")
def folder(comfy, tmp_path_factory):
    from guidance_pack.host.training.dataset import read_folder

    path = tmp_path_factory.mktemp("own")
    for index, image in enumerate(render(64, 11).images):
        pixels = ((image + 1) * 127.5).round().clamp(0, 255).to(torch.uint8).movedim(0, -1)
        Image.fromarray(pixels.numpy()).save(path / f"{index:03}.png")
    return read_folder(path, 32, 32)


def asked_of(guided, aim, batch=8, seeds=4, checks=4, budget=400):
    from guidance_pack.guidance.tuning.guards import Limits
    from guidance_pack.host.engine.plan import plan_of
    from guidance_pack.host.tuning.problem import Effort, Problem
    from guidance_pack.host.tuning.space import parse_space
    from guidance_pack.host.tuning.task import _judges

    first = widgets(rules=plan_of(guided).guidance.rules, steps=1)
    judges, limits = _judges(aim, 1, min(seeds, checks) * batch), Limits(0.0, 0.0, 0.0, 0.0)
    space = parse_space("cfg weight: 1 .. 4", first)
    return Problem((scene(guided, batch=batch),), first, space, judges, limits, Effort(seeds, checks, budget))


@pytest.fixture
def rendered(comfy, monkeypatch):
    """Every run gives 8 pictures of the world, the greyer the farther CFG's weight is from 3."""
    from guidance_pack.host.tuning.problem import Problem
    from guidance_pack.host.tuning.reading import Reading

    @cache
    def drawn(index):
        return (render(8, 100 + index).images.movedim(1, -1) + 1) / 2

    def run(self, settings, index, callback):
        grey = abs(settings.rules[0].weight - 3.0) / 2.0
        pictures = (1 - grey) * drawn(index) + grey * 0.5
        values = tuple(tuple(judge.values(pictures, 0)) for judge in self.judges)
        return Reading(values, (0.2, 0.2, 0.0), ("00" * 192,) * 8, self.cost(settings)), pictures

    monkeypatch.setattr(Problem, "run", run)


def test_a_search_finds_the_settings_whose_pictures_lie_where_the_users_do(guided, guides, folder, rendered):
    from guidance_pack.host.tuning.study import Study
    from guidance_pack.host.tuning.task import Aim
    from guidance_pack.host.tuning.tune import tune
    from guidance_pack.host.tuning.words import tuned_words

    aim = Aim((guides["classifier"],), pictures=folder, measure="frechet")
    asked = asked_of(guided, aim, budget=150)
    with torch.inference_mode():
        found = tune(asked, Study(None, asked.fingerprint(), 1, 0), lambda *_: None)
        report = tuned_words(found, asked)
    assert found.told_apart and found.won and abs(found.chosen.rules[0].weight - 3.0) < 0.3
    assert found.check.wins == (None,) and found.check.pictures == 32 and found.check.chances[0] > 0.95
    assert "-frechet (shapes-classifier): 0.0" in report and "on 32 pictures" in report and "nan" not in report
    stopped = [c for c in found.candidates if not c.whole]
    assert stopped and all(len(c.readings) >= 2 for c in stopped)  # none on the 8 pictures of one run


def test_sets_and_pictures_judge_together(guided, guides, folder, rendered):
    from guidance_pack.host.tuning.plot import draw_tuning
    from guidance_pack.host.tuning.study import Study
    from guidance_pack.host.tuning.task import Aim
    from guidance_pack.host.tuning.tune import tune

    pair = (guides["classifier"],) * 2
    aim = Aim(pair, "star", pictures=folder, measure="frechet and recall")
    assert [judge.of_sets for judge in asked_of(guided, aim).judges] == [True, True, False]
    asked = asked_of(guided, replace(aim, measure="recall"), seeds=2, checks=2, budget=60)
    with torch.inference_mode():
        found = tune(asked, Study(None, "x", 2, 0), lambda *_: None)
    assert found.front and all(len(c.means) == 2 for c in found.front)
    assert draw_tuning(found, asked).shape[0] == 1


def test_what_is_kept_of_a_picture_is_small_and_read_again(guided, guides, folder, rendered):
    from guidance_pack.host.tuning.reading import Reading
    from guidance_pack.host.tuning.task import Aim

    asked = asked_of(guided, Aim((guides["classifier"],), pictures=folder, measure="recall"))
    with torch.inference_mode():
        reading, _ = asked.run(asked.first, 0, None)
        (judge,) = asked.judges
        larger = torch.nn.functional.interpolate(render(8, 100).images, scale_factor=2).movedim(1, -1) / 2 + 0.5
        same = judge.values(larger[:, :, 8:56], 0)
    again = Reading.parse(reading.text())
    assert again == reading and len(again.text()) < 8 * 800
    assert judge.numbers(again.values[0] * 2) and judge.numbers(again.values[0][:7]) == []
    assert len(same[0]) == len(again.values[0][0])  # other sizes and shapes are brought to the folder's


def test_what_cannot_be_compared_is_refused_in_words(guided, guides, folder):
    from guidance_pack.host.tuning.task import Aim
    from guidance_pack.nodes.tuning import GuidanceTune

    over = scene(guided, batch=8)

    def node(**given):
        wires = dict(positive=over.positive, negative=over.negative, latent_image=over.latent, vae=over.vae)
        widgets = {i.id: i.default for i in GuidanceTune.GET_SCHEMA().inputs if getattr(i, "default", None) is not None}
        return GuidanceTune.execute(**{**widgets, **wires, "model": guided, "guide": guides["classifier"],
                                       "sampler_name": "euler", "scheduler": "karras", **given})  # fmt: skip

    for given, words in (({"set_measure": "recall"}, "is recall, and pictures is not"), ({"pictures": folder}, "none")):
        with pytest.raises(ValueError, match=words):
            node(**given)
    few = replace(folder, files=folder.files[:20])
    same = replace(folder, files=folder.files[:1] * 40)
    aim = Aim((guides["classifier"],), pictures=folder, measure="frechet")
    for given, words in (
        (lambda: asked_of(guided, replace(aim, measure="none")), "set_measure is none, and pictures is connected"),
        (lambda: asked_of(guided, replace(aim, pictures=None)), "pictures is not connected"),
        (lambda: asked_of(guided, replace(aim, pictures=few)), "20 pictures are in .*needs 32 or more"),
        (lambda: asked_of(guided, replace(aim, pictures=same)), "look the same"),
        (lambda: asked_of(guided, replace(aim, guides=(guides["depth"],))), r"depth\) gives no features.*Choose CLIP"),
        (lambda: asked_of(guided, aim, batch=1), "A setting has 4 pictures.*Raise seeds and new_seeds, or the batch"),
        (lambda: asked_of(guided, replace(aim, guides=aim.guides * 4, measure="frechet and recall")), "5 judges"),
    ):
        with pytest.raises(ValueError, match=words), torch.inference_mode():
            given().check()
