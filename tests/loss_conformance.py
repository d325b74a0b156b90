"""What every loss must do, written once: `CHECKS` holds one function per promise, each takes a loss class."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import FrozenInstanceError, fields
from typing import get_args

import torch
from torch import Tensor

from guidance_pack.guidance.loss import Loss, Reads

BATCH, CLASSES, SIZE = 3, 5, 12
MAPS = ("depth", "segmentation")
TOLERANCE = {torch.float16: 2e-3, torch.bfloat16: 2e-2, torch.float32: 1e-5}
CHECKS: dict[str, Callable[[type[Loss]], None]] = {}


def check(function: Callable[[type[Loss]], None]) -> Callable[[type[Loss]], None]:
    """Enter a promise under its function's name."""
    CHECKS[function.__name__] = function
    return function


def example(kind: str, seed: int = 0, size: int = SIZE) -> tuple[Tensor, Tensor]:
    """A random output of a kind and a random target for it, float64; class numbers as whole numbers."""
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape: int) -> Tensor:
        return torch.randn(BATCH, *shape, generator=generator, dtype=torch.float64)

    if kind == "segmentation":
        return draw(CLASSES, size, size), torch.randint(-1, CLASSES, (BATCH, 1, size, size), generator=generator)
    if kind == "classification":
        return draw(CLASSES), draw(CLASSES).softmax(1)
    shape = {"embedding": (CLASSES,), "score": (1,), "depth": (1, size, size), "picture": (3, size, size)}[kind]
    return draw(*shape), draw(*shape)


def agreement(kind: str) -> tuple[Tensor, Tensor]:
    """An output and a target between which there is no difference."""
    output, target = example(kind)
    if kind == "classification":
        return target.log(), target
    if kind == "segmentation":
        return 50 * torch.nn.functional.one_hot(target[:, 0].clamp(min=0), CLASSES).movedim(-1, 1).double(), target
    return output, output.clone()


def judged(cls: type[Loss], output: Tensor, target: Tensor) -> Tensor:
    return cls()(output, target if cls.wants_target else None)


def kinds(cls: type[Loss]) -> Iterator[str]:
    yield from sorted(cls.reads)


def slope(cls: type[Loss], output: Tensor, target: Tensor) -> Tensor:
    leaf = output.clone().requires_grad_()
    return torch.autograd.grad(judged(cls, leaf, target).sum(), leaf)[0]


@check
def it_gives_one_number_per_sample(cls: type[Loss]) -> None:
    for kind in kinds(cls):
        found = judged(cls, *example(kind))
        assert found.shape == (BATCH,), f"{tuple(found.shape)} came out for {BATCH} samples of {kind}"
        assert torch.isfinite(found).all()


@check
def it_is_smallest_where_they_agree(cls: type[Loss]) -> None:
    for kind in set(kinds(cls)) - {"score"}:  # which has no best
        output, target = agreement(kind)
        if not cls.wants_target:
            output = torch.full_like(output, 0.3)
        best = judged(cls, output, target)
        for seed in range(1, 5):
            other = example(kind, seed)[0]
            for far in (0.01, 0.3, 3.0):
                moved = judged(cls, output + far * other, target)
                assert bool((moved >= best - 1e-12).all()), f"{kind}: smaller elsewhere than in agreement"
        assert bool((judged(cls, *example(kind, 9)) > best + 1e-3).all()), f"{kind}: no larger where they differ"


@check
def going_down_leads_to_agreement(cls: type[Loss]) -> None:
    """Along its own gradient a random output comes closer, from wherever it starts."""
    for kind in kinds(cls):
        for sign in (1.0, -1.0):
            output, target = example(kind, 3)
            output = sign * output
            down = slope(cls, output, target)
            assert float(down.flatten(1).norm(dim=1).min()) > 1e-9, f"{kind}: it has no direction"
            step = 1e-4 / down.flatten(1).norm(dim=1).reshape(-1, *[1] * (down.ndim - 1))
            before, after = judged(cls, output, target), judged(cls, output - step * down, target)
            assert bool((after < before).all()), f"{kind}: its gradient does not lead down"


@check
def a_batch_is_its_samples(cls: type[Loss]) -> None:
    for kind in kinds(cls):
        output, target = example(kind)
        together = judged(cls, output, target)
        for i in range(BATCH):
            alone = judged(cls, output[i : i + 1], target[i : i + 1])
            torch.testing.assert_close(alone, together[i : i + 1], rtol=1e-12, atol=1e-12)


@check
def its_gradient_is_right(cls: type[Loss]) -> None:
    for kind in kinds(cls):
        output, target = example(kind, size=7)
        leaf = output.clone().requires_grad_()
        assert torch.autograd.gradcheck(lambda at, target=target: judged(cls, at, target), (leaf,))


@check
def the_dtype_is_kept_and_sums_are_exact(cls: type[Loss]) -> None:
    for kind in kinds(cls):
        for dtype, tolerance in TOLERANCE.items():
            for scale in (1.0, 100.0):
                output, target = example(kind, size=40)
                output = (scale * output).to(dtype)
                target = (scale * target).to(dtype) if kind in ("picture", "depth") else target
                found, exact = judged(cls, output, target), judged(cls, output.double(), target)
                assert found.dtype == dtype, f"{kind}: {dtype} came out as {found.dtype}"
                torch.testing.assert_close(found.double(), exact, rtol=tolerance, atol=tolerance)
                assert slope(cls, output, target).dtype == dtype
        assert judged(cls, *example(kind)).dtype == torch.float64


@check
def flat_outputs_stay_finite(cls: type[Loss]) -> None:
    for kind in kinds(cls):
        output, target = example(kind)
        targets = [target] if kind == "classification" else [target, torch.zeros_like(target)]
        for value in (0.0, 1.0, -1.0, 200.0):
            for dtype in (torch.float16, torch.float32, torch.float64):
                flat = torch.full_like(output, value).to(dtype)
                for wanted in targets:
                    assert torch.isfinite(judged(cls, flat, wanted)).all(), f"{kind}: all {value:g} in {dtype}"
                    assert torch.isfinite(slope(cls, flat, wanted)).all(), f"{kind}: slope at {value:g} in {dtype}"


@check
def larger_pictures_do_not_count_more(cls: type[Loss]) -> None:
    for kind in set(kinds(cls)) & {"picture", *MAPS}:
        output, target = example(kind)
        large = [t.repeat_interleave(4, -1).repeat_interleave(4, -2) for t in (output, target)]
        share = judged(cls, large[0], large[1]) / judged(cls, output, target)
        assert bool(((share > 1 / 6) & (share < 6)).all()), f"{kind}: 16 times the pixels count {share.tolist()}"


@check
def maps_of_other_sizes_are_fitted(cls: type[Loss]) -> None:
    for kind in set(kinds(cls)) & set(MAPS):
        output, target = example(kind)
        plain = judged(cls, output, target)
        assert torch.equal(judged(cls, output, target[:, 0]), plain), f"{kind}: [B, h, w] is not [B, 1, h, w]"
        large = target.repeat_interleave(3, -1).repeat_interleave(3, -2)
        if kind == "segmentation":
            assert torch.equal(judged(cls, output, large), plain), "classes are not resized by nearest"
        else:
            assert torch.isfinite(judged(cls, output, large)).all()


@check
def inputs_stay(cls: type[Loss]) -> None:
    for kind in kinds(cls):
        output, target = example(kind)
        kept = output.clone(), target.clone()
        judged(cls, output, target)
        assert torch.equal(output, kept[0]) and torch.equal(target, kept[1]), f"{kind}: it changes its inputs"


@check
def it_is_frozen(cls: type[Loss]) -> None:
    assert cls() == cls() and hash(cls()) == hash(cls())
    for name in (*(field.name for field in fields(cls)), "title"):
        try:
            setattr(cls(), name, None)
        except FrozenInstanceError:
            continue
        raise AssertionError(f"{name} can be changed after the loss was made")


@check
def it_says_what_it_is(cls: type[Loss]) -> None:
    assert cls.title and cls.title == cls.title.strip() and "\n" not in cls.title
    assert cls.reads and set(cls.reads) <= set(get_args(Reads)), f"it reads {set(cls.reads)}"
    first = (cls.__doc__ or "").partition("\n")[0]
    assert first.startswith("L = "), "the docstring does not start with the equation"
    source = r"\b\d{4}\.\d{4,5}\b|kornia\.\w+\.\w+|our own"
    assert re.search(source, first), "the equation names no source: a paper, a kornia function, or `our own`"
