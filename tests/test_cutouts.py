"""Cutouts: inside the picture, drawn again alike, with a gradient, and true to the picture they are cut from."""

import pytest
import torch

from guidance_pack.guidance.cutouts import Cutouts
from guidance_pack.guidance.seeds import generator_of

SIZES = [(8, 8), (40, 31), (9, 200)]


def picture(batch=2, height=24, width=32, dtype=torch.float64):
    generator = torch.Generator().manual_seed(1)
    return torch.randn(batch, 3, height, width, generator=generator, dtype=torch.float64).to(dtype)


@pytest.mark.many
@pytest.mark.parametrize("size", [4, 16, 64])
@pytest.mark.parametrize(("height", "width"), SIZES)
def test_the_crops_of_a_picture_lie_next_to_each_other(height, width, size):
    cutouts = Cutouts(5, size=size)
    pictures = picture(3, height, width)
    crops = cutouts(pictures, 2)
    assert crops.shape == (15, 3, size, size) and torch.isfinite(crops).all()
    for i in range(3):
        torch.testing.assert_close(crops[5 * i : 5 * i + 5], cutouts(pictures[i : i + 1], 2), rtol=0, atol=1e-12)


@pytest.mark.parametrize("smallest", [0.01, 0.4, 1.0])
@pytest.mark.parametrize(("height", "width"), SIZES)
def test_boxes_lie_inside_and_reach_everywhere(height, width, smallest):
    boxes = torch.cat([Cutouts(50, smallest=smallest).boxes(height, width, position) for position in range(40)])
    left, top, side = boxes.T
    shorter = min(height, width)
    assert bool((left >= 0).all() and (top >= 0).all())
    assert bool((left + side <= width).all() and (top + side <= height).all())
    assert bool((side >= max(1, round(smallest * shorter - 0.5))).all() and (side <= shorter).all())
    assert int((left + side).max()) == width and int((top + side).max()) == height
    assert int(left.min()) == int(top.min()) == 0 and int(side.max()) == shorter


def test_crops_show_what_lies_in_their_boxes():
    """Crops of their own size are pixels of the picture, unchanged: also noisy ones, far beyond [-1, 1]."""
    cutouts = Cutouts(6, smallest=0.5, size=15)
    noisy = 50 * picture(1)
    exact = 0
    for position in range(10):
        boxes = cutouts.boxes(24, 32, position).tolist()
        for (left, top, side), crop in zip(boxes, cutouts(noisy, position), strict=True):
            inside = noisy[0, :, top : top + side, left : left + side]
            assert float(crop.min()) >= float(inside.min()) and float(crop.max()) <= float(inside.max())
            if side == 15:
                exact += 1
                torch.testing.assert_close(crop, inside, rtol=0, atol=0)
    assert exact > 0 and float(noisy.abs().max()) > 100


def test_downsizing_averages_and_does_not_alias():
    """Stripes two pixels wide are grey from afar; without a filter a crop would show every eighth pixel: all black."""
    stripes = torch.tensor([1.0, 1.0, -1.0, -1.0], dtype=torch.float64).roll(1).repeat(16).expand(1, 3, 64, 64)
    unfiltered = torch.nn.functional.interpolate(stripes, (8, 8), mode="bilinear")
    assert float(unfiltered.abs().min()) == 1.0
    assert float(Cutouts(8, smallest=1.0, size=8)(stripes, 0).abs().max()) < 0.2


def test_the_same_seed_and_step_give_the_same_crops_whatever_else_was_drawn():
    cutouts, pictures = Cutouts(4, seed=7, size=8), picture()
    torch.manual_seed(1)
    first = cutouts(pictures, 3)
    torch.manual_seed(99)
    untouched = torch.get_rng_state()
    assert torch.equal(cutouts(pictures, 3), first)
    assert torch.equal(torch.get_rng_state(), untouched), "it draws from the global generator"


def test_steps_and_seeds_give_other_crops():
    """Seeds that differ in any bit count, up to the host's largest."""
    seeds = (0, 1, 4096, 2**32, 2**63, 2**64 - 1)
    drawn = [Cutouts(4, seed=seed).boxes(100, 100, position) for seed in seeds for position in (0, 1, 2, 1000)]
    for i, first in enumerate(drawn):
        assert not any(torch.equal(first, other) for other in drawn[i + 1 :])


def test_replayable_numbers():
    draws = {tuple(torch.randn(4, generator=generator_of(s, p)).tolist()) for s in range(20) for p in range(20)}
    assert len(draws) == 400


@pytest.mark.slow
@pytest.mark.parametrize("size", [5, 20])
def test_the_gradient_reaches_the_picture(size):
    cutouts = Cutouts(2, size=size)
    leaf = picture(1, 9, 12).requires_grad_()
    assert torch.autograd.gradcheck(lambda at: cutouts(at, 1), (leaf,))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_the_dtype_is_kept(dtype):
    assert Cutouts(2, size=10)(picture(dtype=dtype), 0).dtype == dtype


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"count": 0}, "count is 0.*1 or more"),
        ({"size": -3}, "size is -3.*1 or more"),
        ({"smallest": 0.0}, "smallest is 0.*above 0"),
        ({"smallest": 1.5}, "smallest is 1.5.*at most 1"),
        ({"smallest": float("nan")}, "smallest is nan"),
    ],
)
def test_wrong_settings_are_refused(wrong, words):
    with pytest.raises(ValueError, match=words):
        Cutouts(**{"count": 4, **wrong})
