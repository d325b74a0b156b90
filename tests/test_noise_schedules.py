"""Discrete noise schedules against published numbers, and the way from one network's timestep to another's."""

import math

import pytest
import torch

from guidance_pack.guidance.noise_schedule import NAMES, noise_schedule

EDGES = {  # VE sigma at timesteps 100, 200, ..., 900
    "linear": (0.34226, 0.72359, 1.2402, 2.0411, 3.4430, 6.1735, 12.025, 25.736, 60.822),
    "cosine": (0.17104, 0.33746, 0.52236, 0.74028, 1.0156, 1.3953, 1.9884, 3.1204, 6.4299),
    "stable diffusion": (0.34393, 0.57167, 0.83275, 1.1644, 1.6183, 2.2846, 3.3344, 5.1110, 8.3466),
    "flow": tuple((i + 0.005) / (9.995 - i) for i in range(1, 10)),  # u / (1 - u), u = 0.1005, 0.2005
}
ENDS = {
    "linear": (0.01000, 157.41), "cosine": (0.00643, 20291), "stable diffusion": (0.02917, 14.615),
    "flow": (0.0005, 1999),
}
MIDDLES = {  # half-way below timesteps 200, 400, 600, 800
    "linear": (0.72143, 2.0360, 6.1543, 25.632),
    "cosine": (0.33659, 0.73907, 1.3930, 3.1120),
    "stable diffusion": (0.57047, 1.1625, 2.2805, 5.0994),
    "flow": (1 / 4, 2 / 3, 3 / 2, 4),  # u / (1 - u) at u = 0.2, 0.4, 0.6, 0.8
}


def test_the_names():
    assert set(NAMES) == set(EDGES)


@pytest.mark.parametrize("name", NAMES)
def test_published_sigmas(name):
    schedule = noise_schedule(name)
    assert len(schedule) == 1000 and schedule.sigmas.dtype == torch.float64
    assert bool((schedule.sigmas.diff() > 0).all())
    assert [schedule.sigma(t) for t in range(100, 1000, 100)] == pytest.approx(EDGES[name], rel=1e-4)
    assert (schedule.sigma(0), schedule.sigma(999)) == pytest.approx(ENDS[name], rel=1e-3)
    assert [schedule.below(t) for t in (200, 400, 600, 800)] == pytest.approx(MIDDLES[name], rel=5e-5)


def test_the_first_timestep_of_25_ddim_steps():
    assert noise_schedule("linear").sigma(960) == pytest.approx(106.95, rel=1e-4)
    assert noise_schedule("cosine").sigma(960) == pytest.approx(16.43, rel=1e-3)


@pytest.mark.parametrize(
    ("name", "timestep", "expected"),
    [("stable diffusion", 800, 569.0), ("stable diffusion", 999, 726.9), ("cosine", 800, 481.9)],
)
def test_a_timestep_of_another_schedule_by_equal_noise(name, timestep, expected):
    sigma = torch.tensor([noise_schedule(name).sigma(timestep)], dtype=torch.float64)
    found = float(noise_schedule("linear").timestep(sigma))
    assert found == pytest.approx(expected, abs=0.06 if expected != 569.0 else 0.6)
    assert noise_schedule("linear").sigma(found) == pytest.approx(float(sigma), rel=1e-12)


def test_stable_diffusion_at_800():
    assert noise_schedule("stable diffusion").sigma(800) == pytest.approx(5.111, abs=5e-4)


@pytest.mark.parametrize("name", NAMES)
def test_timesteps_and_sigmas_are_inverse(name):
    schedule = noise_schedule(name)
    whole = schedule.timestep(schedule.sigmas)
    torch.testing.assert_close(whole, torch.arange(1000, dtype=torch.float64), rtol=0, atol=1e-9)
    between = [schedule.sigma(t) for t in (0.25, 17.5, 998.999)]
    assert schedule.timestep(torch.tensor(between).double()).tolist() == pytest.approx([0.25, 17.5, 998.999], abs=1e-4)
    low, high = (math.log(schedule.sigma(t)) for t in (17, 18))
    assert math.log(schedule.sigma(17.5)) == pytest.approx((low + high) / 2, abs=1e-12)


def test_noise_beyond_the_schedule_has_its_last_timestep():
    sigmas = torch.tensor([0.0, 1e-9, 1e9, math.inf], dtype=torch.float64)
    assert noise_schedule("linear").timestep(sigmas).tolist() == [0.0, 0.0, 999.0, 999.0]


@pytest.mark.parametrize("timestep", [-1, 999.5, 1000, math.nan])
def test_a_timestep_beyond_the_schedule_is_refused(timestep):
    with pytest.raises(ValueError, match="timestep is .*'linear' has 0 to 999"):
        noise_schedule("linear").sigma(timestep)


def test_an_unknown_name_is_refused_with_the_known_ones():
    with pytest.raises(ValueError, match="no noise schedule 'karras'.*linear, cosine, stable diffusion"):
        noise_schedule("karras")
