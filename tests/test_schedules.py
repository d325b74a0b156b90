"""Schedules: edges, neighbours, curves, units, products, and what they say when they are wrong."""

import math
from dataclasses import replace

import pytest
import torch

from guidance_pack.guidance.noise_level import NoiseLevel
from guidance_pack.guidance.rules.cfg import CFG
from guidance_pack.guidance.schedule import ALWAYS, Constant, Curve, Interval, Product, ramp


class FakePositions:
    """A model whose percent p lies at sigma 10^(1 - 3 p), 10 to 0.01, and whose own sigma is twice the VE one."""

    def edge(self, value, unit):
        if unit == "percent":
            return math.inf if value <= 0.0 else 0.0 if value >= 1.0 else 10 ** (1 - 3 * value)
        return value if unit == "sigma_ve" else value / 2

    def knot(self, value, unit):
        sigma = 10 ** (1 - 3 * value) if unit == "percent" else value if unit == "sigma_ve" else value / 2
        return min(max(sigma, 0.01), 10.0)


POSITIONS = FakePositions()


def level(*sigmas):
    return NoiseLevel.variance_exploding(torch.tensor(sigmas, dtype=torch.float64))


def at_percent(*percents):
    return level(*(10 ** (1 - 3 * p) for p in percents))


def test_an_interval_is_open_below_and_closed_above():
    interval = Interval(2.0, 0.5, "sigma_ve")
    just = [math.nextafter(0.5, 1), math.nextafter(2.0, 3)]
    assert interval(level(0.0, 0.5, just[0], 1.0, 2.0, just[1], math.inf)).tolist() == [0, 0, 1, 1, 1, 0, 0]


@pytest.mark.parametrize("edges", [(math.inf, 2.0, 0.5, 0.0), (math.inf, 14.6, 3.3, 3.3, 0.1, 0.0)])
def test_neighbours_leave_no_gap_and_do_not_overlap(edges):
    parts = [Interval(a, b, "sigma_ve") for a, b in zip(edges, edges[1:], strict=False)]
    sigmas = [s for e in edges[1:-1] for s in (math.nextafter(e, 0), e, math.nextafter(e, 100))] + [1e-9, 1e9, math.inf]
    total = sum(part(level(*sigmas)) for part in parts)
    assert total.tolist() == [1.0] * len(sigmas)


def test_neighbours_in_percent_stay_neighbours():
    edges = (0.0, 0.25, 0.6, 1.0)
    parts = [Interval(a, b).resolve(POSITIONS) for a, b in zip(edges, edges[1:], strict=False)]
    everywhere = at_percent(-1.0, 0.0, 0.1, 0.25, 0.3, 0.6, 0.61, 1.0, 2.0)
    assert sum(part(everywhere) for part in parts).tolist() == [1.0] * 9


def test_every_sample_has_its_own_strength():
    schedule = Interval(2.0, 0.5, "sigma_ve")
    assert CFG(5.0, schedule).strength(level(3.0, 1.0, 0.1)).tolist() == [1.0, 5.0, 1.0]


def test_units_say_the_same():
    high, low = 10**0.4, 10**-0.8
    percent, own, ve = Interval(0.2, 0.6), Interval(2 * high, 2 * low, "sigma"), Interval(high, low, "sigma_ve")
    sigmas = at_percent(0.0, 0.19, 0.21, 0.4, 0.59, 0.61, 1.0)
    expected = [0, 0, 1, 1, 1, 0, 0]
    for interval in (percent, own, ve):
        assert interval.resolve(POSITIONS)(sigmas).tolist() == expected


def test_the_whole_range_is_everywhere():
    assert Interval().everywhere and Interval().resolve(POSITIONS).everywhere
    assert Interval().resolve(POSITIONS)(level(1e-12, 1.0, math.inf)).tolist() == [1, 1, 1]
    assert not Interval(0.0, 0.99).everywhere and not Interval(math.inf, 1e-3, "sigma_ve").everywhere


@pytest.mark.parametrize("cosine", [False, True], ids=["linear", "cosine"])
@pytest.mark.parametrize("ends", [(0.0, 1.0), (1.0, 0.25), (2.0, -1.0)])
def test_a_ramp_hits_its_ends_and_moves_one_way(ends, cosine):
    curve = ramp(*ends, 0.2, 0.8, cosine=cosine).resolve(POSITIONS)
    found = curve(at_percent(*[i / 200 for i in range(201)]))
    assert float(found[0]) == float(found[39]) == ends[0] and float(found[-1]) == float(found[161]) == ends[1]
    steps = (found[1:] - found[:-1]) * math.copysign(1, ends[1] - ends[0])
    assert bool((steps >= -1e-12).all()), "it turns round"
    assert float(steps.max()) < 0.02 * abs(ends[1] - ends[0]), "it jumps"
    assert float(curve(at_percent(0.5))) == pytest.approx(sum(ends) / 2, abs=1e-9)


def test_a_linear_ramp_in_percent_is_straight_in_percent():
    curve = ramp(1.0, 0.0, 0.0, 1.0).resolve(POSITIONS)
    assert curve(at_percent(0.1, 0.35, 0.9)).tolist() == pytest.approx([0.9, 0.65, 0.1], abs=1e-9)


def test_a_cosine_ramp_is_flat_at_its_ends():
    curve = ramp(0.0, 1.0, 0.0, 1.0, cosine=True).resolve(POSITIONS)
    found = curve(at_percent(0.01, 0.25, 0.99))
    assert found.tolist() == pytest.approx([(1 - math.cos(math.pi * p)) / 2 for p in (0.01, 0.25, 0.99)], abs=3e-3)


def test_a_curve_in_sigma_is_straight_in_log_sigma():
    curve = Curve(((8.0, 0.0), (2.0, 1.0), (0.5, 0.0)), "sigma").resolve(POSITIONS)
    assert curve(level(100.0, 4.0, 2.0, 1.0, 0.5, 0.25, 0.01)).tolist() == pytest.approx([0, 0, 0.5, 1, 0.5, 0, 0])


def test_a_curve_with_a_jump_takes_one_of_its_values():
    curve = Curve(((0.0, 1.0), (0.5, 1.0), (0.5, 0.0), (1.0, 0.0)), "percent").resolve(POSITIONS)
    assert curve(at_percent(0.4, 0.49, 0.51, 0.6)).tolist() == pytest.approx([1, 1, 0, 0], abs=1e-9)


def test_a_curve_holds_its_ends_beyond_the_model():
    curve = ramp(0.2, 0.9, 0.0, 1.0).resolve(POSITIONS)
    assert curve(level(1e6, 1e-9)).tolist() == pytest.approx([0.2, 0.9])


def test_a_curve_holds_its_ends_at_infinite_and_at_zero_noise():
    curve = ramp(0.2, 0.9, 0.0, 1.0).resolve(POSITIONS)
    assert curve(level(math.inf, 0.0)).tolist() == pytest.approx([0.2, 0.9])


def test_products_multiply_and_resolve_their_parts():
    product = (Interval(0.2, 0.8) * Constant(0.5) * ramp(0.0, 1.0, 0.0, 1.0)).resolve(POSITIONS)
    assert product(at_percent(0.1, 0.4, 0.6, 0.9)).tolist() == pytest.approx([0, 0.2, 0.3, 0], abs=1e-9)
    assert Product(())(level(1.0, 2.0)).tolist() == [1, 1]


def test_strengths_are_float64_and_one_per_sample():
    parts = (ALWAYS, Interval(2.0, 1.0, "sigma_ve"), ramp(0.0, 1.0, 5.0, 0.1, "sigma_ve"))
    for schedule in (*parts, Product(parts)):
        found = schedule(level(3.0, 1.5, 0.2))
        assert (found.dtype, found.shape, found.device.type) == (torch.float64, (3,), "cpu")


def test_schedules_are_values():
    assert Interval(0.1, 0.5) == Interval(0.1, 0.5) and hash(ramp(0, 1, 0.1, 0.5)) == hash(ramp(0, 1, 0.1, 0.5))
    assert replace(Interval(0.1, 0.5), end=0.7) == Interval(0.1, 0.7)
    assert ALWAYS.resolve(POSITIONS) == ALWAYS


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: Interval(0.6, 0.2), "percent .*0 <= start <= end <= 1; got start 0.6 and end 0.2"),
        (lambda: Interval(-0.1, 0.2), "got start -0.1"),
        (lambda: Interval(0.2, 1.2), "end 1.2"),
        (lambda: Interval(float("nan"), 1.0), "got start nan"),
        (lambda: Interval(1.0, 2.0, "sigma"), "sigma .*start >= end >= 0; got start 1 and end 2"),
        (lambda: Interval(1.0, -1.0, "sigma"), "end -1"),
        (lambda: Curve(((0.0, 1.0),)), r"two or more points .*got positions \[0.0\]"),
        (lambda: Curve(((0.5, 1.0), (0.2, 1.0))), r"percent rising.*\[0.5, 0.2\] in percent"),
        (lambda: Curve(((0.5, 1.0), (2.0, 1.0)), "sigma"), r"sigma falling.*\[0.5, 2.0\] in sigma"),
        (lambda: Interval(0.1, 0.5)(level(1.0)), "is in percent: call resolve"),
        (lambda: ramp(0, 1, 0.1, 0.5)(level(1.0)), "is in percent: call resolve"),
        (lambda: Interval(2.0, 1.0, "sigma")(level(1.0)), "is in sigma: call resolve"),
    ],
)
def test_mistakes_are_told_in_words(make, words):
    with pytest.raises(ValueError, match=words):
        make()
