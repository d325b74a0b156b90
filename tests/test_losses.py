"""Every registered loss keeps every promise, every promise is one that a broken loss breaks; and each loss by hand."""

import math
from dataclasses import dataclass
from typing import ClassVar

import pytest
import torch
from loss_conformance import CHECKS, agreement, example

from guidance_pack.guidance.loss import Loss, fit, loss, losses
from guidance_pack.guidance.losses.cross_entropy import CrossEntropy
from guidance_pack.guidance.losses.depth import Depth
from guidance_pack.guidance.losses.depth_metric import DepthMetric
from guidance_pack.guidance.losses.edges import Edges
from guidance_pack.guidance.losses.embedding import Embedding
from guidance_pack.guidance.losses.segmentation import Segmentation
from guidance_pack.guidance.losses.ssim import StructuralSimilarity
from guidance_pack.guidance.losses.total_variation import TotalVariation


@pytest.mark.many
@pytest.mark.parametrize("check", CHECKS.values(), ids=CHECKS.keys())
@pytest.mark.parametrize("cls", losses().values(), ids=losses().keys())
def test_loss(cls, check):
    check(cls)


@dataclass(frozen=True)
class Good(Loss):
    """L = mean (x - t)^2      0000.00000 Eq. 1"""

    name: ClassVar[str] = "good"
    title: ClassVar[str] = "good"
    reads: ClassVar[frozenset] = frozenset({"picture", "depth"})

    def compare(self, output, target):
        return self.each(output - fit(target, output)).flatten(1).mean(1)

    def each(self, difference):
        return difference.square()


class OneForAll(Good):
    def compare(self, output, target):
        return super().compare(output, target).mean()


class PrefersLess(Good):
    def each(self, difference):
        return difference


class SeesNothing(Good):
    def each(self, difference):
        return 0 * difference


class StuckBelow(Good):
    """L = mean max(x - t, 0)^2: an output that lies below is not pulled up."""

    def compare(self, output, target):
        return super().compare(output, target) * (output.flatten(1)[:, 0] > 0)


class ComparesWithTheBatch(Good):
    def compare(self, output, target):
        return super().compare(output, target) / output.abs().max()


class DetachesTheScale(Good):
    def each(self, difference):
        return difference.square() / (1 + difference.detach().square())


class ReturnsFloat32(Good):
    def __call__(self, output, target):
        return super().__call__(output, target).float()


class SumsInHalfPrecision(Good):
    def __call__(self, output, target):
        return self.compare(output, target.to(output))


class UnguardedSpread(Good):
    def compare(self, output, target):
        return super().compare(output, target) / output.flatten(1).std(1)


class RootOfZero(Good):
    def compare(self, output, target):
        return super().compare(output, target).sqrt()


class SumsOverPixels(Good):
    def compare(self, output, target):
        return self.each(output - fit(target, output)).flatten(1).sum(1)


class TakesItsSizeOnly(Good):
    def compare(self, output, target):
        return (output - target).square().flatten(1).mean(1)


class BlendsClasses(Segmentation):
    def compare(self, output, target):
        return super().compare(output, fit(target, output, "bilinear"))


class WritesIntoTheOutput(Good):
    def compare(self, output, target):
        return (output.sub_(target) if not output.requires_grad else output - target).square().flatten(1).mean(1)


class NotFrozen(Good):
    __setattr__ = object.__setattr__


class NoEquation(Good):
    """How far two pictures are apart, 0000.00000."""


class NoSource(Good):
    """L = mean (x - t)^2"""


class ReadsMinds(Good):
    """L = mean (x - t)^2      0000.00000 Eq. 1"""

    reads = frozenset({"thoughts"})


BROKEN = [
    ("it_gives_one_number_per_sample", OneForAll),
    ("it_is_smallest_where_they_agree", PrefersLess),
    ("it_is_smallest_where_they_agree", SeesNothing),
    ("going_down_leads_to_agreement", SeesNothing),
    ("going_down_leads_to_agreement", StuckBelow),
    ("a_batch_is_its_samples", ComparesWithTheBatch),
    ("its_gradient_is_right", DetachesTheScale),
    ("the_dtype_is_kept_and_sums_are_exact", ReturnsFloat32),
    ("the_dtype_is_kept_and_sums_are_exact", SumsInHalfPrecision),
    ("flat_outputs_stay_finite", UnguardedSpread),
    ("flat_outputs_stay_finite", RootOfZero),
    ("larger_pictures_do_not_count_more", SumsOverPixels),
    ("maps_of_other_sizes_are_fitted", TakesItsSizeOnly),
    ("maps_of_other_sizes_are_fitted", BlendsClasses),
    ("inputs_stay", WritesIntoTheOutput),
    ("it_is_frozen", NotFrozen),
    ("it_says_what_it_is", NoEquation),
    ("it_says_what_it_is", NoSource),
    ("it_says_what_it_is", ReadsMinds),
]


@pytest.mark.parametrize("check", CHECKS.values(), ids=CHECKS.keys())
def test_a_good_loss_passes(check):
    check(Good)


@pytest.mark.parametrize(("name", "cls"), BROKEN, ids=[f"{name}-{cls.__name__}" for name, cls in BROKEN])
def test_a_broken_loss_is_caught(name, cls):
    with pytest.raises((AssertionError, KeyError, RuntimeError)):
        CHECKS[name](cls)


def test_every_check_has_a_broken_loss():
    assert {name for name, _ in BROKEN} == set(CHECKS)


def test_the_register_knows_the_losses_of_the_folder():
    known = losses()
    assert {"cross_entropy", "segmentation", "depth", "embedding", "mse", "ssim"} <= set(known)
    assert all(cls.name == name and issubclass(cls, Loss) for name, cls in known.items())
    assert len({cls.title for cls in known.values()}) == len(known), "two losses have the same title"


def test_every_task_has_a_loss():
    read = frozenset().union(*(cls.reads for cls in losses().values()))
    assert read == {"classification", "depth", "segmentation", "embedding", "score", "picture"}


def test_a_name_can_be_taken_once():
    with pytest.raises(ValueError, match="There is a loss 'mse' already, in .*losses.mse"):
        loss("mse")(type("Another", (Loss,), {}))


def test_cross_entropy_is_the_log_probability():
    logits, _ = example("classification")
    wanted = torch.eye(5, dtype=torch.float64)[[2, 0, 4]]
    expected = -logits.softmax(1)[range(3), [2, 0, 4]].log()
    torch.testing.assert_close(CrossEntropy()(logits, wanted), expected)
    torch.testing.assert_close(CrossEntropy()(logits, 2.5 * wanted), 2.5 * expected)


def test_segmentation_averages_over_the_pixels_that_are_asked_for():
    output, target = example("segmentation")
    expected = [
        -sum(float(output[b, :, i, j].log_softmax(0)[int(target[b, 0, i, j])]) for i, j in asked) / len(asked)
        for b in range(3)
        for asked in [(target[b, 0] >= 0).nonzero().tolist()]
    ]
    torch.testing.assert_close(Segmentation()(output, target), torch.tensor(expected, dtype=torch.float64))


def test_a_segmentation_that_asks_for_nothing_is_zero():
    output, target = example("segmentation")
    assert Segmentation()(output, torch.full_like(target, -1)).tolist() == [0.0, 0.0, 0.0]


@pytest.mark.parametrize(("scale", "shift"), [(1.0, 0.0), (40.0, -7.0), (0.5, 20.0)])
def test_depth_knows_no_scale_and_no_shift(scale, shift):
    output, target = example("depth")
    plain = Depth()(output, target)
    torch.testing.assert_close(Depth()(scale * output + shift, target), plain, rtol=0, atol=1e-4)
    torch.testing.assert_close(Depth()(output, scale * target + shift), plain, rtol=0, atol=1e-4)


def test_depth_is_one_minus_the_correlation_and_an_inverted_map_is_worst():
    output, target = example("depth")
    pairs = torch.stack([output.flatten(1), target.flatten(1)], 1)
    correlation = [float(torch.corrcoef(pair)[0, 1]) for pair in pairs]
    torch.testing.assert_close(Depth()(output, target), 1 - torch.tensor(correlation).double(), rtol=0, atol=1e-6)
    torch.testing.assert_close(Depth()(-output, output), torch.full((3,), 2.0).double(), rtol=0, atol=1e-6)


def test_depth_goes_with_the_least_squares_alignment():
    """min over s, h of mean (s d + h - t)^2 / var t = 1 - (1 - L)^2      1907.01341 Eq. 4, by solving for s and h"""
    output, target = example("depth")
    for i in range(3):
        design = torch.stack([output[i].flatten(), torch.ones(output[i].numel(), dtype=torch.float64)], 1)
        wanted = target[i].flatten()
        solved = torch.linalg.lstsq(design, wanted[:, None]).solution
        left = (design @ solved - wanted[:, None]).square().mean() / wanted.var(correction=0)
        assert float(left) == pytest.approx(float(1 - (1 - Depth()(output, target)[i]) ** 2), abs=1e-6)


def test_metric_depth_keeps_the_units():
    output, target = example("depth")
    torch.testing.assert_close(DepthMetric()(target + 0.25, target), torch.full((3,), 0.25).double())
    assert float(DepthMetric()(2 * output, output)[0]) == pytest.approx(float(output[0].abs().mean()))


def test_embeddings_by_angle():
    east, north = torch.tensor([[2.0, 0.0]]), torch.tensor([[0.0, 0.5]])
    between = torch.tensor([[1.0, 1.0]])
    assert [float(Embedding()(east, v)) for v in (east, north, -3 * east, between)] == pytest.approx(
        [0.0, 1.0, 2.0, 1 - math.sqrt(0.5)], abs=1e-6
    )
    assert float(Embedding()(torch.zeros(1, 2), north)) == 1.0


def test_structural_similarity_in_closed_form_on_flat_pictures():
    """Flat pictures have no structure: SSIM is (2 m n + c) / (m^2 + n^2 + c) with c = 0.01^2, m and n from 0 to 1."""
    flat = [torch.full((1, 3, 16, 16), value, dtype=torch.float64) for value in (0.2, -0.6)]
    m, n, c = 0.6, 0.2, 1e-4
    assert float(StructuralSimilarity()(*flat)) == pytest.approx(1 - (2 * m * n + c) / (m * m + n * n + c), abs=1e-6)


def test_edges_do_not_see_brightness_and_variation_counts_steps():
    output, _ = agreement("picture")
    torch.testing.assert_close(Edges()(output + 0.5, output), torch.zeros(3).double(), rtol=0, atol=1e-12)
    ramp = torch.arange(12, dtype=torch.float64).mul(0.1).expand(1, 3, 12, 12)
    assert float(TotalVariation()(ramp, None)) == pytest.approx(0.1)


@pytest.mark.parametrize("filter", ["nearest", "bilinear"])
def test_fit_resizes_maps_to_the_output(filter):
    target = torch.arange(16.0).view(1, 4, 4)
    output = torch.zeros(1, 7, 2, 2)
    found = fit(target, output, filter)
    assert found.shape == (1, 1, 2, 2)
    assert fit(target, torch.zeros(1, 7, 4, 4), filter).data_ptr() == target.data_ptr()
    if filter == "nearest":
        assert set(found.flatten().tolist()) <= set(target.flatten().tolist())
    else:
        assert float(found.mean()) == pytest.approx(float(target.mean()))
