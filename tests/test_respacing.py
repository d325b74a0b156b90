"""The timesteps that the papers' samplers visit: golden lists, and what cannot be visited in words."""

import pytest
import torch

from guidance_pack.guidance.respacing import edm_sigmas, respaced, respacing_problem

# Of guided-diffusion's and GLIDE's own `space_timesteps`.
FAST27 = [997, 800, 799, 600, 599, 500, 400, 399, 377, 355, 333, 311, 288, 266, 244, 222, 200,
          199, 177, 155, 133, 111, 88, 66, 44, 22, 0]  # fmt: skip
TWENTY_FIVE = [999, 957, 916, 874, 832, 791, 749, 708, 666, 624, 583, 541, 500,
               458, 416, 375, 333, 291, 250, 208, 166, 125, 83, 42, 0]  # fmt: skip


def test_golden_lists():
    assert respaced("ddim25", 1000) == list(range(960, -1, -40))
    assert respaced("ddim250", 1000) == list(range(996, -1, -4))
    assert respaced("25", 1000) == TWENTY_FIVE
    assert respaced("fast27", 1000) == FAST27
    assert respaced("1000", 1000) == list(range(999, -1, -1))
    assert respaced("1", 1000) == [0]


def test_250_steps_have_both_ends():
    found = respaced("250", 1000)
    assert (len(found), found[:3], found[-3:], sum(found)) == (250, [999, 995, 991], [8, 4, 0], 124_875)


def test_parts_share_out_the_timesteps_from_clean_to_noisy():
    found = respaced("90, 60,60,20,20", 1000)
    inside = [sum(200 * part <= t < 200 * (part + 1) for t in found) for part in range(5)]
    assert inside == [90, 60, 60, 20, 20] and found == sorted(set(found), reverse=True)
    assert respaced("2,2,2", 10) == [9, 7, 6, 4, 3, 0]  # ten timesteps in three parts: 4, 3, 3


@pytest.mark.parametrize(
    ("respacing", "words"),
    [
        ("ddim300", "No whole stride through 1000 timesteps gives 300 steps. The nearest that there are: ddim250 and "
         "ddim334. Or write 300 alone"),
        ("ddim1", "The nearest that there are: ddim2 and ddim3"),
        ("1200", "asks for 1200 steps of 1000 timesteps."),
        ("600,10", "asks for 600 steps of 500 timesteps in part 1 of 2."),
    ],
)  # fmt: skip
def test_what_cannot_be_visited_in_words(respacing, words):
    assert respacing_problem(respacing) is None
    with pytest.raises(ValueError, match=words):
        respaced(respacing, 1000)


@pytest.mark.parametrize("respacing", ["", "0", "ddim0", "ddim", "fast28", "1.5", "-3", "1,,2", "a" * 9999, "9" * 99])
def test_what_is_no_respacing_in_words(respacing):
    problem = respacing_problem(respacing)
    assert "can be ddim25" in problem and "fast27" in problem and len(problem) < 400
    with pytest.raises(ValueError, match="respacing is '"):
        respaced(respacing, 1000)


def test_edm_steps():
    found = edm_sigmas(32, 0.002, 80.0)
    assert found.shape == (33,) and found[-1] == 0.0
    wanted = torch.tensor([80, 66.931, 55.736, 46.186], dtype=torch.float64)
    torch.testing.assert_close(found[:4], wanted, rtol=1e-5, atol=0)
    torch.testing.assert_close(found[-4:-1], torch.tensor([0.00845, 0.00427, 0.002]).double(), rtol=1e-3, atol=0)
    with pytest.raises(ValueError, match="two steps or more, and 1"):
        edm_sigmas(1, 0.002, 80.0)
