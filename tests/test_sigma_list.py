"""Where in a sampler's list an evaluation is: one rule for every order of levels, exact and rounded."""

import pytest
import torch

from guidance_pack.guidance.sigma_list import SigmaList

FALLING = SigmaList((10.0, 5.0, 2.0, 1.0, 0.0))
RISING = SigmaList((0.1, 1.0, 2.0, 5.0, 10.0))
THERE_AND_BACK = SigmaList((0.5, 2.0, 8.0, 2.0, 0.5, 0.0))
RESTARTS = SigmaList((10.0, 5.0, 2.0, 5.0, 2.0, 0.0))


def walked(sigmas: SigmaList, *evaluations: float) -> list[int]:
    """The positions of evaluations that follow each other."""
    found: list[int] = []
    for sigma in evaluations:
        found.append(sigmas.position(sigma, found[-1] if found else 0))
    return found


@pytest.mark.parametrize(
    ("sigmas", "evaluations", "expected"),
    [
        (FALLING, (10.0, 5.0, 2.0, 1.0, 0.0), [1, 2, 3, 4, 5]),
        (FALLING, (10.0, 5.0, 5.0, 2.0, 2.0, 1.0, 1.0), [1, 2, 2, 3, 3, 4, 4]),
        (FALLING, (10.0, 7.0, 5.0, 3.0, 2.0, 0.5), [1, 1, 2, 2, 3, 4]),
        (FALLING, (14.0, 10.0, 1e-3), [1, 1, 4]),
        (RISING, (0.1, 1.0, 2.0, 5.0, 10.0), [1, 2, 3, 4, 5]),
        (RISING, (0.05, 0.5, 1.5, 2.0, 7.0, 20.0), [1, 1, 2, 3, 4, 5]),
        (THERE_AND_BACK, (0.5, 2.0, 8.0, 2.0, 0.5), [1, 2, 3, 4, 5]),
        (THERE_AND_BACK, (0.5, 1.0, 2.0, 4.0, 8.0, 4.0, 2.0, 1.0, 0.5, 0.2), [1, 1, 2, 2, 3, 3, 4, 4, 5, 5]),
        (RESTARTS, (10.0, 5.0, 2.0, 5.0, 2.0), [1, 2, 3, 4, 5]),
        (RESTARTS, (10.0, 5.0, 5.0, 2.0, 2.0, 5.0, 5.0, 2.0, 2.0), [1, 2, 2, 3, 3, 4, 4, 5, 5]),
        (SigmaList((10.0, 10.0, 5.0, 5.0, 0.0)), (10.0, 10.0, 7.0, 5.0, 5.0), [2, 2, 2, 4, 4]),
    ],
    ids=["each", "heun", "between", "beyond", "rising", "rising between and beyond", "there and back",
         "there and back, between", "restarts", "restarts with heun", "repeats"],
)
def test_a_position_follows_the_list_as_it_was_given(sigmas, evaluations, expected):
    assert walked(sigmas, *evaluations) == expected


@pytest.mark.parametrize("sigmas", [FALLING, RISING, THERE_AND_BACK, RESTARTS])
@pytest.mark.parametrize("off", [1 - 1e-6, 1.0, 1 + 1e-6])
def test_rounding_moves_no_position(sigmas, off):
    assert walked(sigmas, *(off * sigma for sigma in sigmas.values)) == [1, 2, 3, 4, 5, 6][: len(sigmas.values)]
    assert sigmas.walk == (1, 2, 3, 4, 5)[: len(sigmas.values) - 1]


def test_a_level_that_is_no_number_leaves_the_run_where_it_is():
    assert FALLING.position(float("nan"), here=3) == 3


def test_levels_may_be_as_dense_as_a_flow_of_a_thousand_steps():
    t = torch.linspace(1, 0, 1001)
    sigmas = SigmaList.of(12 * t / (1 + 11 * t))
    assert sigmas.walk == tuple(range(1, 1001))


def test_what_follows_is_the_next_level_and_nothing_follows_the_last():
    assert [RISING.following(position) for position in range(1, 6)] == [1.0, 2.0, 5.0, 10.0, None]
