"""Experts take turns by noise level: PPAP's partition, half-open, per sample, and the smooth hand-over."""

import math

import pytest
import torch

from guidance_pack.guidance.noise_level import NoiseLevel
from guidance_pack.guidance.noise_schedule import NAMES, noise_schedule
from guidance_pack.guidance.routing import Experts, equal_ranges


def levels(*sigmas):
    return NoiseLevel.variance_exploding(torch.tensor(sigmas, dtype=torch.float64))


def chosen(experts, sigmas):
    """The expert in charge of each sigma; each has exactly one."""
    charge = experts.gate_weights(NoiseLevel.variance_exploding(sigmas))
    assert charge.dtype == torch.float64 and charge.shape == (len(sigmas), experts.count)
    assert bool((charge.sum(1) == 1).all()) and bool(((charge == 0) | (charge == 1)).all())
    return charge.argmax(1)


def karras(count, low, high):
    """The noise levels of 2206.00364 Eq. 5, rho 7."""
    part = torch.linspace(0, 1, count, dtype=torch.float64)
    return (high ** (1 / 7) + part * (low ** (1 / 7) - high ** (1 / 7))) ** 7


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("count", [1, 2, 5, 7, 10])
def test_every_whole_timestep_has_the_expert_that_was_trained_on_it(count, name):
    """Expert n has timesteps int(n T / N) up to int((n + 1) T / N), also after a round trip through float32."""
    schedule = noise_schedule(name)
    bounds = [n * 1000 // count for n in range(count + 1)]
    expected = [n for n in range(count) for _ in range(bounds[n], bounds[n + 1])]
    experts = equal_ranges(count, schedule)
    assert chosen(experts, schedule.sigmas).tolist() == expected
    assert chosen(experts, schedule.sigmas.float().double()).tolist() == expected
    flow = (schedule.sigmas / (1 + schedule.sigmas)).float()
    if name != "cosine":  # a flow's t near 1 does not tell cosine's last sigmas apart in float32
        assert experts.gate_weights(NoiseLevel.flow(flow)).argmax(1).tolist() == expected


def test_the_timesteps_on_the_edges_belong_to_the_noisier_expert():
    """t = 200, 400, 600, 800, all of them steps of DDIM-25, where the reference code takes the wrong expert."""
    schedule = noise_schedule("linear")
    at = torch.tensor([schedule.sigma(t) for t in (199, 200, 201, 400, 600, 800, 999)])
    assert chosen(equal_ranges(5, schedule), at).tolist() == [0, 1, 1, 2, 3, 4, 4]


def test_the_edges_are_half_open():
    experts = Experts((1.0, 4.0))
    sigmas = torch.tensor([0.0, 1 - 1e-12, 1.0, 4 - 1e-12, 4.0, 1e12, math.inf], dtype=torch.float64)
    assert chosen(experts, sigmas).tolist() == [0, 0, 1, 1, 2, 2, 2]


@pytest.mark.parametrize(
    ("sigmas", "steps"),
    [
        (karras(25, 0.03, 14.6), [10, 4, 6, 5, 0]),
        (karras(32, 0.002, 80.0), [12, 3, 4, 7, 6]),
    ],
    ids=["Karras", "EDM"],
)
def test_how_often_a_sampler_asks_each_expert(sigmas, steps):
    """PPAP's five experts, trained on ADM's linear schedule, on other samplers' noise levels."""
    found = chosen(equal_ranges(5, noise_schedule("linear")), sigmas)
    assert torch.bincount(found, minlength=5).tolist() == steps


def test_edm_goes_below_the_first_timestep():
    assert int((karras(32, 0.002, 80.0) < noise_schedule("linear").sigma(0)).sum()) == 3


def test_the_expert_depends_on_the_noise_not_on_the_coordinates():
    sigmas = torch.tensor([0.3, 0.9, 1.0, 5.0], dtype=torch.float64)
    experts = Experts((0.9, 1.0))
    expected = chosen(experts, sigmas)
    vp = NoiseLevel.variance_preserving(1 / (1 + sigmas**2))
    away = torch.tensor([0, 3])  # where no rounding decides
    assert torch.equal(experts.gate_weights(vp).argmax(1)[away], expected[away])


def test_a_hand_over_is_continuous_and_shared_by_neighbours():
    experts = Experts((0.5, 5.0), handover=0.8)
    logs = torch.linspace(math.log(0.1), math.log(30), 4001, dtype=torch.float64)
    charge = experts.gate_weights(NoiseLevel.variance_exploding(logs.exp()))
    torch.testing.assert_close(charge.sum(1), torch.ones(4001).double(), rtol=0, atol=1e-12)
    assert bool((charge >= 0).all())
    step = float(logs[1] - logs[0])
    assert float(charge.diff(dim=0).abs().max()) <= step / 0.8 + 1e-9, "it jumps"
    assert bool(((charge > 0).sum(1) <= 2).all()), "more than two experts share"
    at_edges = experts.gate_weights(levels(0.5, 5.0))
    torch.testing.assert_close(at_edges, torch.tensor([[0.5, 0.5, 0], [0, 0.5, 0.5]]).double(), rtol=0, atol=1e-9)
    outside = experts.gate_weights(levels(0.5 * math.exp(-0.401), 0.5 * math.exp(0.401)))
    assert outside.tolist() == [[1, 0, 0], [0, 1, 0]]


def test_a_narrow_hand_over_is_the_half_open_switch():
    sharp, smooth = Experts((0.5, 5.0)), Experts((0.5, 5.0), handover=1e-6)
    sigmas = karras(100, 0.01, 50.0)
    level = NoiseLevel.variance_exploding(sigmas)
    torch.testing.assert_close(sharp.gate_weights(level), smooth.gate_weights(level))


def test_one_expert_is_always_in_charge():
    assert Experts().gate_weights(levels(0.0, 1.0, math.inf)).tolist() == [[1.0], [1.0], [1.0]]


@pytest.mark.parametrize("edges", [(1.0, 1.0), (2.0, 1.0), (0.0, 1.0), (-1.0,), (math.nan,)])
def test_edges_that_do_not_rise_are_refused(edges):
    with pytest.raises(ValueError, match="must rise from clean to noisy"):
        Experts(edges)


@pytest.mark.parametrize("handover", [-0.1, 1.0, math.nan])
def test_a_hand_over_wider_than_an_expert_is_refused(handover):
    with pytest.raises(ValueError, match="handover is .*narrowest"):
        Experts((1.0, 2.0), handover)


@pytest.mark.parametrize("count", [0, -1, 1001])
def test_impossible_counts_are_refused(count):
    with pytest.raises(ValueError, match=f"1 to 1000 experts; got {count}"):
        equal_ranges(count, noise_schedule("linear"))
