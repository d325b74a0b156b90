"""Per-sample algebra: against plain loops, in every rank and dtype, and where something is zero."""

import pytest
import torch

from guidance_pack.guidance.algebra import dot, norm, parallel, ratio, std

SHAPES = [(3, 60), (3, 4, 15), (3, 4, 3, 5), (3, 2, 2, 3, 5), (2, 1, 1, 1)]
LOW = [torch.float16, torch.bfloat16]


def pair(shape, dtype=torch.float64):
    generator = torch.Generator().manual_seed(0)
    return tuple(torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype) for _ in range(2))


@pytest.mark.parametrize("shape", SHAPES)
def test_reductions_equal_plain_loops(shape):
    a, b = pair(shape)
    ones = (shape[0], *[1] * (len(shape) - 1))
    for i in range(shape[0]):
        values, others = a[i].flatten().tolist(), b[i].flatten().tolist()
        mean = sum(values) / len(values)
        spread = (sum((v - mean) ** 2 for v in values) / len(values)) ** 0.5
        inner = sum(v * o for v, o in zip(values, others, strict=True))
        assert float(dot(a, b)[i]) == pytest.approx(inner, rel=1e-12)
        assert float(norm(a)[i]) == pytest.approx(sum(v * v for v in values) ** 0.5, rel=1e-12)
        assert float(std(a)[i]) == pytest.approx(spread, rel=1e-12)
    assert dot(a, b).shape == norm(a).shape == std(a).shape == ones


@pytest.mark.parametrize("shape", SHAPES)
def test_the_parallel_part_lies_along_and_the_rest_across(shape):
    a, b = pair(shape)
    along = parallel(a, b)
    torch.testing.assert_close(dot(a - along, b), torch.zeros_like(dot(a, b)), rtol=0, atol=1e-12)
    torch.testing.assert_close(parallel(along, b), along)
    torch.testing.assert_close(parallel(b, b), b)


def test_nothing_lies_along_zero():
    a, _ = pair((2, 3, 4))
    assert torch.equal(parallel(a, torch.zeros_like(a)), torch.zeros_like(a))


def test_samples_do_not_see_each_other():
    a, b = pair((3, 4, 5))
    changed = a.clone()
    changed[1:] *= 1000
    for how in (norm, std, lambda t: dot(t, b), lambda t: parallel(t, b)):
        assert torch.equal(how(a)[0], how(changed)[0])


@pytest.mark.parametrize("dtype", LOW)
def test_low_precision_is_reduced_in_float32(dtype):
    """A float16 sum of squares would overflow here and a bfloat16 one would stop growing."""
    a = torch.full((1, 4, 64, 64), 30.0, dtype=dtype)
    assert norm(a).dtype == torch.float32
    assert float(norm(a)) == pytest.approx(30 * (4 * 64 * 64) ** 0.5, rel=1e-6)
    assert float(std(a)) == 0.0
    assert parallel(a, a).dtype == dtype
    assert torch.equal(parallel(a, a), a)


def test_ratio_where_the_denominator_is_zero():
    found = ratio(torch.tensor([1.0, 2.0, 0.0]), torch.tensor([0.0, 4.0, 0.0]), at_zero=7.0)
    assert found.tolist() == [7.0, 0.5, 7.0]


def test_ratio_has_finite_gradients_where_the_denominator_is_zero():
    denominator = torch.tensor([0.0, 2.0], requires_grad=True)
    ratio(torch.ones(2), denominator).sum().backward()
    assert torch.isfinite(denominator.grad).all()
