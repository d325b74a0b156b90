"""What a watch sees of an evaluation, against closed forms in float64; and that looking changes no bit."""

import math

import pytest
import torch
from cases import GRADIENT_CONTEXT, Bowl
from gradient_context import Lent

from guidance_pack.guidance.branch import NEGATIVE, POSITIVE, Branch
from guidance_pack.guidance.compose import Guidance
from guidance_pack.guidance.inspection import SIDE, Watch, figures, probability, small_picture
from guidance_pack.guidance.noise_level import NoiseLevel
from guidance_pack.guidance.objective import Objective
from guidance_pack.guidance.rules.apg import APG
from guidance_pack.guidance.rules.autoguidance import Autoguidance
from guidance_pack.guidance.rules.cfg import CFG
from guidance_pack.guidance.rules.gradient import GradientGuidance
from guidance_pack.guidance.rules.rescale import Rescale
from guidance_pack.guidance.schedule import Interval
from guidance_pack.guidance.step import Step

GUIDE = Branch("guide")
W, V = 3.0, 2.5
GUIDANCE = Guidance((CFG(W), Autoguidance(V), Rescale(0.7)))


def tensors(count, shape=(3, 4, 5, 6)):
    generator = torch.Generator().manual_seed(4)
    return [torch.randn(shape, generator=generator, dtype=torch.float64) for _ in range(count)]


def predictions(shape=(3, 4, 5, 6)):
    return dict(zip((POSITIVE, NEGATIVE, GUIDE), tensors(3, shape), strict=True))


def level(batch=3):
    return NoiseLevel.variance_exploding(torch.tensor([6.0, 2.0, 0.4])[:batch])


def look(guidance, found, at=None, gradient_context=None):
    """The guided estimate, the watch, and the figures by name."""
    watch = Watch()
    x = torch.zeros_like(found[POSITIVE])
    out = guidance.denoise(found.__getitem__, x, at or level(), gradient_context=gradient_context, watch=watch)
    return out, watch, by_name(watch)


def by_name(watch):
    """The figures as tensors."""
    (seen,) = figures([watch.kept()])
    return {name: torch.tensor(values, dtype=torch.float64) for name, values in seen.items()}


def length(change):
    return torch.linalg.vector_norm(change.flatten(1), dim=1)


def test_updates_are_lengths_relative_to_the_unguided_estimate():
    found = predictions()
    out, watch, seen = look(GUIDANCE, found)
    positive, negative, guide = found.values()
    before = positive + (W - 1) * (positive - negative) + (V - 1) * (positive - guide)
    torch.testing.assert_close(seen["host"], (W - 1) * length(positive - negative) / length(positive))
    torch.testing.assert_close(seen[1], (V - 1) * length(positive - guide) / length(positive))
    torch.testing.assert_close(seen[2], length(out - before) / length(positive))
    torch.testing.assert_close(seen["total"], length(out - positive) / length(positive))
    assert set(seen) == {"host", 1, 2, "total", "cosine", "effective weight"}
    assert watch.step.branches.keys() == {POSITIVE, NEGATIVE, GUIDE}
    assert torch.equal(watch.guided, out) and watch.step.cfg.tolist() == [W] * 3


def test_the_cosine_is_that_of_the_two_prompts():
    found = predictions()
    positive, negative = found[POSITIVE].flatten(1), found[NEGATIVE].flatten(1)
    _, _, seen = look(GUIDANCE, found)
    torch.testing.assert_close(seen["cosine"], torch.cosine_similarity(positive, negative, dim=1))
    _, watch, seen = look(Guidance((Autoguidance(V),)), found)
    assert "cosine" not in seen and watch.step.branches.keys() == {POSITIVE, GUIDE}
    assert seen["host"].tolist() == [0.0] * 3
    found[NEGATIVE] = -found[POSITIVE]
    _, _, seen = look(GUIDANCE, found)
    torch.testing.assert_close(seen["cosine"], -torch.ones(3, dtype=torch.float64))
    assert float(seen["cosine"].min()) >= -1.0


@pytest.mark.parametrize("shape", [(3, 4, 7), (3, 4, 2, 5, 6)], ids=["sound", "video"])
def test_samples_stay_apart_in_every_shape(shape):
    found = predictions(shape)
    _, _, together = look(GUIDANCE, found)
    for index in range(3):
        rows = torch.tensor([index])
        _, _, one = look(GUIDANCE, {branch: value[rows] for branch, value in found.items()}, level()[rows])
        assert one.keys() == together.keys()
        for name, value in one.items():
            torch.testing.assert_close(value, together[name][rows])


def test_evaluations_that_saw_different_things_are_read_together():
    objective = Objective(Bowl(), "denoised")
    guidances = (GUIDANCE, Guidance(), Guidance((GradientGuidance(2.0, objective=objective),)))
    looks = [look(guidance, predictions(), gradient_context=GRADIENT_CONTEXT) for guidance in guidances]
    together = figures([watch.kept() for _, watch, _ in looks])
    assert together == [figures([watch.kept()])[0] for _, watch, _ in looks]
    assert len({frozenset(seen) for seen in together}) == len(guidances)


@pytest.mark.parametrize(
    "rules", [(CFG(7.5),), (CFG(0.4),), (CFG(5.0), Rescale(0.7)), (CFG(W), Autoguidance(V), APG(0.2))]
)
def test_the_effective_weight_is_how_far_guidance_goes_along_cfg_s_own_push(rules):
    """<g - u, c - u> / <c - u, c - u> (2602.22570); of plain CFG its weight."""
    found = predictions()
    out, _, seen = look(Guidance(rules), found)
    c, u = found[POSITIVE].flatten(1), found[NEGATIVE].flatten(1)
    wanted = ((out.flatten(1) - u) * (c - u)).sum(1) / (c - u).square().sum(1)
    torch.testing.assert_close(seen["effective weight"], wanted, rtol=1e-9, atol=1e-9)
    if len(rules) == 1:
        torch.testing.assert_close(wanted, torch.full_like(wanted, rules[0].weight), rtol=1e-9, atol=0)


def test_the_cosine_of_prompts_that_almost_agree_is_exact():
    positive, other = tensors(2)
    found = {POSITIVE: positive, NEGATIVE: positive + 1e-6 * other, GUIDE: positive}
    _, _, seen = look(GUIDANCE, found)
    wanted = torch.cosine_similarity(positive.flatten(1), found[NEGATIVE].flatten(1), dim=1)
    torch.testing.assert_close(1 - seen["cosine"], 1 - wanted, rtol=1e-3, atol=1e-16)


@pytest.mark.parametrize(
    "guidance", [GUIDANCE, Guidance((CFG(W), APG(W), Rescale(0.3))), Guidance(), Guidance((CFG(1.0),))]
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_looking_changes_no_bit(guidance, dtype):
    found = {branch: value.to(dtype) for branch, value in predictions().items()}
    out, _, seen = look(guidance, found)
    x = torch.zeros_like(found[POSITIVE])
    assert torch.equal(out, guidance.denoise(found.__getitem__, x, level()))
    assert all(value.isfinite().all() and value.shape == (3,) for value in seen.values())


def test_outside_its_interval_a_component_is_not_seen():
    guidance = Guidance((Autoguidance(V, Interval(math.inf, 1.0, "sigma_ve")),))
    _, watch, seen = look(guidance, predictions(), NoiseLevel.variance_exploding(torch.full((3,), 0.5)))
    assert set(seen) == {"host", "total"} and watch.step.branches.keys() == {POSITIVE}


def test_a_loss_is_what_the_guide_found():
    objective = Objective(Bowl(), "denoised")
    found = predictions()
    _, _, seen = look(Guidance((GradientGuidance(2.0, objective=objective),)), found, gradient_context=GRADIENT_CONTEXT)
    torch.testing.assert_close(-seen[objective], Bowl()(found[POSITIVE], None), rtol=1e-6, atol=0)
    assert 0 in seen


def test_the_score_of_a_video_is_the_mean_of_its_frames():
    objective = Objective(Bowl(), "denoised")
    found = {POSITIVE: tensors(1, (2, 3, 4, 5, 5))[0]}
    gradient_context = Lent()
    _, _, seen = look(Guidance((GradientGuidance(2.0, objective=objective),)), found, level(2), gradient_context)
    frames = found[POSITIVE].transpose(1, 2)
    wanted = torch.stack([Bowl()(sample, None).mean() for sample in frames])
    torch.testing.assert_close(-seen[objective], wanted, rtol=1e-6, atol=0)


def test_probability_is_the_exponential():
    assert probability([0.0, math.log(0.25)]) == pytest.approx([1.0, 0.25], abs=1e-15)


def test_without_a_positive_prompt_the_hosts_own_estimate_is_what_is_pushed():
    watch = Watch()
    (denoised, moved) = tensors(2)
    watch.combined(denoised, Step(denoised, level(), {}, torch.ones(3)))
    watch.moved(0, moved)
    watch.guided_to(denoised + moved)
    seen = by_name(watch)
    torch.testing.assert_close(seen[0], length(moved) / length(denoised))
    torch.testing.assert_close(seen["total"], seen[0])
    assert seen["host"].tolist() == [0.0] * 3


def test_an_estimate_of_zero_divides_nothing():
    found = {branch: torch.zeros(1, 3, 4, 4) for branch in (POSITIVE, NEGATIVE, GUIDE)}
    _, _, seen = look(GUIDANCE, found, level(1))
    assert seen.pop("effective weight").tolist() == [1.0]
    assert all(value.tolist() == [0.0] for value in seen.values())


def test_small_pictures_keep_their_shape_and_their_colours():
    picture = torch.tensor([-1.0, 0.0, 3.0]).reshape(1, 3, 1, 1).expand(1, 3, 4, 6)
    small = small_picture(picture)
    assert small.shape == (1, 4, 6, 3) and small.dtype == torch.uint8
    assert small[0, 0, 0].tolist() == [0, 128, 255]
    wide = small_picture(picture.repeat(1, 1, 50, 100).half())
    assert wide.shape == (1, round(200 * SIDE / 600), SIDE, 3)
    assert wide[0, 5, 5].tolist() == [0, 128, 255]
