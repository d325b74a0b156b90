"""Damage on plain tensors: draws, dropout, noise levels, blur, pooling and lone tokens, against formulas by hand."""

import math

import elsewhere
import pytest
import torch
import torch.nn.functional as F

from guidance_pack.guidance.noise_level import NoiseLevel
from guidance_pack.guidance.perturbation import (
    add_noise,
    as_flow,
    blend,
    blur,
    chance,
    drop,
    identity_attention,
    key_of,
    noisier,
    normal,
    pool,
    skip_block,
    uniform,
)

GRID = (2, 4, 6)


def tokens(seed=0, grid=GRID, channels=3, rows=2):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(rows, math.prod(grid), channels, generator=generator, dtype=torch.float64)


def test_draws_are_uniform_and_unrelated():
    draws = torch.stack([uniform((100_000,), key_of(3, 1.0, place)) for place in ("a", "b")])
    assert float(draws.min()) > 0 and float(draws.max()) < 1
    share = torch.histc(draws[0], 50, 0, 1) / 100_000
    assert (share - 0.02).abs().max() < 5 * math.sqrt(0.02 * 0.98 / 100_000)
    assert abs(float(torch.corrcoef(draws)[0, 1])) < 5 / math.sqrt(100_000)
    neighbours = torch.corrcoef(torch.stack([draws[0, :-1], draws[0, 1:]]))[0, 1]
    assert abs(float(neighbours)) < 5 / math.sqrt(100_000)


def test_draws_are_the_same_on_a_device_without_float64():
    with elsewhere.device() as away:
        drawn = [draw((2000,), key_of(1, 2.0, "x"), away) for draw in (uniform, normal)]
    assert torch.equal(drawn[0].here, uniform((2000,), key_of(1, 2.0, "x")))
    assert torch.equal(drawn[1].here, normal((2000,), key_of(1, 2.0, "x")))


def test_normal_draws_have_the_moments_of_the_normal():
    draws = normal((200_000,), key_of(1, 2.0, "x")).double()
    assert draws.isfinite().all()
    for power, expected in ((1, 0.0), (2, 1.0), (3, 0.0), (4, 3.0)):
        assert float((draws**power).mean()) == pytest.approx(expected, abs=0.08)


def test_a_draw_depends_on_its_key_alone():
    state = torch.get_rng_state()
    first = uniform((4, 5), key_of(7, 0.5, "deep"))
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(99)
    assert torch.equal(first, uniform((4, 5), key_of(7, 0.5, "deep")))
    others = [key_of(8, 0.5, "deep"), key_of(7, 0.25, "deep"), key_of(7, 0.5, "up")]
    assert not any(torch.equal(first, uniform((4, 5), key)) for key in others)
    assert first.flatten()[0] == pytest.approx(by_hand(key_of(7, 0.5, "deep"), 0), abs=1e-7)
    assert first.flatten()[13] == pytest.approx(by_hand(key_of(7, 0.5, "deep"), 13), abs=1e-7)


def by_hand(key, index):
    """The same hash in Python's integers."""

    def mix(z):
        z = ((z ^ (z >> 16)) * 0x85EBCA6B) % 2**32
        z = ((z ^ (z >> 13)) * 0xC2B2AE35) % 2**32
        return z ^ (z >> 16)

    return ((mix(mix(index ^ (key % 2**32)) ^ (key >> 32)) >> 9) + 0.5) / 2**23


def test_chance_is_uniform():
    draws = torch.tensor([chance(key_of(seed, 1.0, "x")) for seed in range(4000)])
    assert float(draws.mean()) == pytest.approx(0.5, abs=5 * math.sqrt(1 / 12 / 4000))
    assert float((draws < 0.1).double().mean()) == pytest.approx(0.1, abs=5 * math.sqrt(0.09 / 4000))


def test_dropout_keeps_the_mean_of_what_a_block_adds():
    before, after = torch.zeros(1, 200_000), torch.ones(1, 200_000)
    out = drop(before, after, 0.1, uniform((200_000,), 5)[None])
    assert sorted(out.unique().tolist()) == pytest.approx([0.0, 1 / 0.9])
    assert float(out.mean()) == pytest.approx(1.0, abs=0.005)


def test_a_block_is_left_out_exactly_or_in_part():
    before, after = tokens(1), tokens(2)
    out = skip_block(before, after, torch.tensor([1.0, 0.0]))
    assert torch.equal(out[0], before[0]) and torch.equal(out[1], after[1])
    half = skip_block(before, after, torch.tensor([0.25, 0.25]))
    torch.testing.assert_close(half, 0.75 * after + 0.25 * before)
    small = before[:, :3]
    for damage in (lambda: skip_block(small, after, torch.ones(2)), lambda: drop(small, after, 0.1, after)):
        with pytest.raises(ValueError, match=r"\(2, 3, 3\) into \(2, 48, 3\).*other layers"):
            damage()


@pytest.mark.parametrize("sigma", [0.01, 1.0, 70.0])
def test_more_noise_is_the_noise_that_is_told(sigma):
    level = NoiseLevel.variance_exploding(torch.tensor([sigma]))
    more, added = noisier(level, 0.2, math.inf)
    assert float(more.sigma) == pytest.approx(1.2 * sigma)
    assert float(added) ** 2 + sigma**2 == pytest.approx(float(more.b) ** 2)
    capped, added = noisier(level, 0.2, 80.0)
    assert float(capped.sigma) == pytest.approx(min(1.2 * sigma, 80.0))
    beyond, added = noisier(level, 0.2, sigma / 2)
    assert float(beyond.sigma) == pytest.approx(sigma) and float(added) == 0.0


@pytest.mark.parametrize("t", [0.2, 0.7, 1.0])
@pytest.mark.parametrize("scale", [1.0, 2.0])
def test_more_noise_on_a_flow_is_a_flow(t, scale):
    clean, first, second = tokens(1), tokens(2), tokens(3)
    level = NoiseLevel.flow(torch.full((2,), t), scale)
    x = (1 - t) * clean + t * scale * first
    more, added = noisier(level, 0.5, math.inf)
    moved, time = as_flow(add_noise(x, added, second), more, scale)
    expected_time = 1.5 * t / (1 - t + 1.5 * t)
    torch.testing.assert_close(time, torch.full((2,), expected_time, dtype=torch.float64), atol=1e-7, rtol=0)
    noise = (first + math.sqrt(1.5**2 - 1) * second) / 1.5
    torch.testing.assert_close(
        moved, (1 - expected_time) * clean + expected_time * scale * noise, atol=1e-6, rtol=1e-6
    )


def test_blur_is_the_gaussian_mean_within_a_frame():
    q = tokens()
    out = blur(q, GRID, 1.3).reshape(2, *GRID, 3)
    maps = q.reshape(2, *GRID, 3)
    for row, column in ((0, 0), (2, 3)):
        weights = torch.tensor(
            [[math.exp(-((r - row) ** 2 + (c - column) ** 2) / (2 * 1.3**2)) for c in range(6)] for r in range(4)],
            dtype=torch.float64,
        )
        expected = (maps * weights[..., None]).sum((2, 3)) / weights.sum()
        torch.testing.assert_close(out[:, :, row, column], expected, atol=1e-6, rtol=1e-6)
    average = maps.mean((2, 3), keepdim=True).expand_as(maps)
    torch.testing.assert_close(blur(q, GRID, 1e6).reshape_as(maps), average, atol=1e-6, rtol=1e-6)


def test_pooling_averages_squares_and_what_is_left_at_the_border():
    q = tokens(grid=(1, 3, 4))
    maps = q.reshape(2, 3, 4, 3)
    rows, columns = (slice(0, 2), slice(2, 3)), (slice(0, 2), slice(2, 4))
    squares = [maps[:, row, column].flatten(1, 2).mean(1) for row in rows for column in columns]
    torch.testing.assert_close(pool(q, (1, 3, 4), 2), torch.stack(squares, 1))


@pytest.mark.parametrize("text", [0, 5])
def test_lone_tokens_see_themselves_and_the_text(text):
    q, k, v = (tokens(seed).reshape(2, 48, 1, 3).transpose(1, 2) for seed in range(3))
    mask = torch.zeros(48, 48, dtype=torch.float64)
    mask[text:, text:] = -math.inf
    mask.fill_diagonal_(0.0)
    own = torch.randn(48, 48, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    for extra in (None, own[None, None]):
        full = mask if extra is None else mask + own
        expected = F.scaled_dot_product_attention(q, k, v, attn_mask=full)[..., text:, :]
        torch.testing.assert_close(identity_attention(q, k, v, text, extra), expected, atol=1e-6, rtol=1e-6)


def test_partly_runs_from_whole_to_damaged():
    whole, damaged = tokens(1), tokens(2)
    assert blend(whole, damaged, 1.0) is damaged
    torch.testing.assert_close(blend(whole, damaged, 0.3), 0.7 * whole + 0.3 * damaged)
