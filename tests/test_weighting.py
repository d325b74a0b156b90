"""Loss weights: the four plain losses are one loss up to a factor, and P2's and min-SNR's numbers."""

import math
from dataclasses import FrozenInstanceError

import pytest
import torch
from world.loop import Settings, denoising_loss

from guidance_pack.guidance.noise_level import NoiseLevel
from guidance_pack.guidance.noise_schedule import noise_schedule
from guidance_pack.guidance.training.weighting import (
    P2,
    TARGETS,
    MinSNR,
    OverSigma,
    Plain,
    Scaled,
    VelocityWeight,
    normalise_weight,
    on,
)

WEIGHTS = [*map(Plain, TARGETS), P2(1, 0.5), P2(1, 1), P2(0.3, 2), MinSNR(5), MinSNR(1)]


def levels_of(schedule):
    return NoiseLevel.variance_exploding(noise_schedule(schedule).sigmas)


def per_sample(error):
    return error.square().flatten(1).mean(1)


def losses_of_random_predictions(a, b):
    """What four networks, each predicting its own target at random, would lose: the loss on each target, [B].

    One error is chosen by a random eps prediction; the other targets' predictions follow from it by their definitions
    in VP (eps, v) and flow coordinates, and so do the losses, from the targets themselves.
    """
    generator = torch.Generator().manual_seed(0)
    x0, noise, eps_hat = torch.randn(3, len(a), 2, 5, generator=generator, dtype=torch.float64)
    column = (-1, 1, 1)
    a, b = a.reshape(column), b.reshape(column)
    denoised = (a * x0 + b * noise - b * eps_hat) / a
    size = (a**2 + b**2).sqrt()
    alpha, sigma = a / size, b / size
    v, v_hat = alpha * noise - sigma * x0, alpha * eps_hat - sigma * denoised
    flow, flow_hat = noise - x0, eps_hat - denoised
    return {
        "x0": per_sample(denoised - x0), "eps": per_sample(eps_hat - noise),
        "v": per_sample(v_hat - v), "flow": per_sample(flow_hat - flow),
    }


COORDINATES = {
    "variance exploding": (torch.ones(6), torch.tensor([0.03, 0.4, 1.0, 2.5, 14.6, 80.0])),
    "variance preserving": (torch.tensor([0.99, 0.8, 0.5, 0.1]).sqrt(), torch.tensor([0.01, 0.2, 0.5, 0.9]).sqrt()),
    "flow": (torch.tensor([0.9, 0.5, 0.01]), torch.tensor([0.1, 0.5, 0.99])),
}


@pytest.mark.parametrize("coordinates", COORDINATES)
@pytest.mark.parametrize("target", TARGETS)
def test_a_plain_weight_turns_the_loss_on_the_denoised_into_that_of_its_target(coordinates, target):
    a, b = (values.double() for values in COORDINATES[coordinates])
    losses = losses_of_random_predictions(a, b)
    torch.testing.assert_close(Plain(target)(NoiseLevel(a, b)) * losses["x0"], losses[target], rtol=1e-11, atol=0)


def test_the_conversions_of_the_literature():
    """L_eps = SNR L_x0 = alpha_bar L_v, L_v = (1 + SNR) L_x0, L_eps = (1 - t)^2 L_flow."""
    t = torch.tensor([0.05, 0.3, 0.5, 0.95], dtype=torch.float64)
    level = NoiseLevel.flow(t)
    losses = losses_of_random_predictions(level.a, level.b)
    torch.testing.assert_close(losses["eps"], level.snr * losses["x0"])
    torch.testing.assert_close(losses["eps"], level.alpha_bar * losses["v"])
    torch.testing.assert_close(losses["v"], (1 + level.snr) * losses["x0"])
    torch.testing.assert_close(losses["eps"], (1 - t) ** 2 * losses["flow"])


@pytest.mark.parametrize("weight", WEIGHTS, ids=str)
@pytest.mark.parametrize("target", TARGETS)
def test_a_weight_is_the_same_objective_on_every_target(weight, target):
    a, b = (values.double() for values in COORDINATES["variance exploding"])
    losses, level = losses_of_random_predictions(a, b), NoiseLevel(a, b)
    torch.testing.assert_close(on(target, weight, level) * losses[target], weight(level) * losses["x0"])


@pytest.mark.parametrize("weight", WEIGHTS, ids=str)
def test_weights_depend_on_the_noise_not_on_the_family(weight):
    sigma = torch.logspace(-2.5, 2.5, 20, dtype=torch.float64)
    exploding = weight(NoiseLevel.variance_exploding(sigma))
    torch.testing.assert_close(weight(NoiseLevel.variance_preserving(1 / (1 + sigma**2))), exploding)
    torch.testing.assert_close(weight(NoiseLevel.flow(sigma / (1 + sigma))), exploding)
    assert exploding.dtype == torch.float64 and exploding.shape == sigma.shape


@pytest.mark.parametrize("gamma", [0.0, 0.5, 1.0, 2.0])
def test_p2_in_closed_form(gamma):
    level = levels_of("linear")
    ab = level.alpha_bar
    torch.testing.assert_close(on("eps", P2(1, gamma), level), (1 - ab) ** gamma)
    torch.testing.assert_close(on("v", P2(1, gamma), level), ab * (1 - ab) ** gamma)
    torch.testing.assert_close(on("eps", P2(3, gamma), level), 1 / (3 + level.snr) ** gamma)
    t = torch.linspace(0.01, 0.99, 30, dtype=torch.float64)
    flow = (1 - t) ** 2 / (1 + ((1 - t) / t) ** 2) ** gamma
    torch.testing.assert_close(on("flow", P2(1, gamma), NoiseLevel.flow(t)), flow)


def test_p2_with_gamma_0_is_the_plain_eps_loss():
    level = levels_of("cosine")
    torch.testing.assert_close(P2(2, 0)(level), Plain("eps")(level))


def test_min_snr_in_closed_form():
    level = levels_of("linear")
    torch.testing.assert_close(on("eps", MinSNR(5), level), (5 / level.snr).clamp(max=1))
    torch.testing.assert_close(on("v", MinSNR(5), level), level.snr.clamp(max=5) / (level.snr + 1))


MEANS = [("linear", 0.5, 0.806), ("linear", 1, 0.724), ("cosine", 0.5, 0.642), ("cosine", 1, 0.504)]


@pytest.mark.parametrize("schedule, gamma, mean", MEANS)
def test_mean_weights_of_p2_over_the_papers_schedules(schedule, gamma, mean):
    assert on("eps", P2(1, gamma), levels_of(schedule)).mean() == pytest.approx(mean, abs=5e-4)


@pytest.mark.parametrize("schedule, edges", [("linear", (258, 674)), ("cosine", (495, 935))])
def test_the_papers_stages(schedule, edges):
    """Clean-up above SNR 1, coarse below 0.01, content between: with k = 1 the weight has halved at SNR 1."""
    found = noise_schedule(schedule).timestep(torch.tensor([1.0, 10.0]))
    assert found.tolist() == pytest.approx(edges, abs=1)
    assert on("eps", P2(1, 1), NoiseLevel.variance_exploding(torch.tensor([1.0]))).item() == pytest.approx(0.5)


def test_ends_of_the_scale():
    """Pure noise (a = 0, or the host's sigma of 1e9) and a clean picture (b = 0)."""
    ends = NoiseLevel(torch.tensor([0.0, 1.0, 1.0]).double(), torch.tensor([1.0, 999999999.9, 0.0]).double())
    for gamma, clean in [(0.5, math.inf), (1.0, 1.0), (2.0, 0.0), (10.0, 0.0)]:
        noise, nearly, none = P2(1, gamma)(ends).tolist()
        assert noise == 0.0 and nearly == pytest.approx(1e-18) and none == clean
    assert MinSNR(5)(ends).tolist() == pytest.approx([0.0, 1e-18, 5.0])
    assert Plain("flow")(ends)[:2].tolist() == pytest.approx([1.0, 1.0])


@pytest.mark.parametrize("weight", WEIGHTS, ids=str)
@pytest.mark.parametrize("target", TARGETS)
def test_a_normalised_weight_has_mean_one_and_the_same_shape(weight, target):
    level = levels_of("linear")
    fair = normalise_weight(weight, level, target)
    assert on(target, fair, level).mean() == pytest.approx(1.0, abs=1e-12)
    ratio = fair(level) / weight(level)
    torch.testing.assert_close(ratio, ratio[:1].expand_as(ratio), rtol=1e-12, atol=0)


def test_a_weight_can_be_made_as_large_as_another():
    level = levels_of("cosine")
    like = normalise_weight(P2(), level, "v", like=Plain())
    assert on("v", like, level).mean() == pytest.approx(float(on("v", Plain(), level).mean()))
    assert normalise_weight(Plain(), level, "v", like=Plain()) == Scaled(Plain(), 1.0)


def test_a_mean_that_is_infinite_is_refused():
    with pytest.raises(ValueError, match="Leave out levels without noise"):
        normalise_weight(Plain("eps"), NoiseLevel.variance_exploding(torch.tensor([0.0, 1.0])))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_loop_takes_level_weights(dtype):
    t = torch.tensor([0.1, 0.5, 0.9], dtype=dtype)
    flow = OverSigma(Plain("flow"), "flow")(t)
    torch.testing.assert_close(flow, VelocityWeight()(t))
    assert flow.dtype == dtype
    torch.testing.assert_close(OverSigma(Plain("eps"))(t), 1 / t**2)


def test_the_loss_of_the_loop_with_p2():
    sigma = torch.tensor([0.5, 2.0])
    settings = Settings(1, 0, noise=lambda count, generator: sigma, weight=OverSigma(P2(1, 1)), label_dropout=0.0)
    clean, labels = torch.ones(2, 3, 4, 4), torch.zeros(2).long()
    loss = denoising_loss(lambda x, s, y: torch.zeros_like(x), clean, labels, settings, torch.Generator())
    assert loss.item() == pytest.approx(float((1 / (1 + sigma**2)).mean()))  # SNR / (1 + SNR)


@pytest.mark.parametrize(
    "make, words",
    [
        (lambda: P2(0, 1), "k is 0; it must be above 0"),
        (lambda: P2(math.nan, 1), "k is nan"),
        (lambda: P2(1, -0.5), "gamma is -0.5; it must be 0"),
        (lambda: P2(1, math.inf), "gamma is inf"),
        (lambda: MinSNR(0), "min-SNR's gamma is 0; it must be above 0"),
        (lambda: Plain("noise"), "target is 'noise'; it can be x0, eps, v, flow"),
        (lambda: OverSigma(P2(), "eps"), "it must be one of edm, flow"),
        (lambda: on("score", P2(), levels_of("linear")), "target is 'score'"),
    ],
)
def test_wrong_inputs_in_words(make, words):
    with pytest.raises(ValueError, match=words):
        make()


def test_weights_are_values():
    assert P2(1, 1) == P2() and hash(MinSNR(5)) == hash(MinSNR())
    with pytest.raises(FrozenInstanceError):
        P2().k = 2
