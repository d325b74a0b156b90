"""The shapes world: pictures are determined by (seed, index), and their maps are true."""

import pytest
import torch
from world import LABELS, SIZE, render
from world.shapes import signed_distance


def test_shapes_types_and_ranges():
    p = render(40, seed=5)
    assert p.images.shape == (40, 3, SIZE, SIZE) and p.images.dtype == torch.float32
    assert p.images.min() >= -1 and p.images.max() <= 1
    assert p.depth.shape == (40, 1, SIZE, SIZE) and 0 < p.depth.min() and p.depth.max() == 1
    assert p.segmentation.shape == (40, SIZE, SIZE) and p.segmentation.dtype == torch.int64
    assert p.segmentation.min() == 0 and p.segmentation.max() <= len(LABELS)


def test_ten_readable_classes():
    assert len(LABELS) == len(set(LABELS)) == 10


def test_same_seed_and_index_give_the_same_picture():
    first, second = render(12, seed=3), render(12, seed=3)
    for name in ("images", "labels", "depth", "segmentation"):
        assert torch.equal(getattr(first, name), getattr(second, name))


def test_a_picture_does_not_depend_on_its_batch():
    whole = render(30, seed=8)
    for index in (0, 7, 29):
        alone = render(torch.tensor([index]), seed=8)
        assert torch.equal(alone.images[0], whole.images[index])
        assert torch.equal(alone.segmentation[0], whole.segmentation[index])
    backwards = render(torch.arange(29, -1, -1), seed=8)
    assert torch.equal(backwards.images.flip(0), whole.images)


def test_torch_global_generator_is_neither_used_nor_moved():
    before = torch.get_rng_state()
    first = render(10, seed=1).images
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(123)
    assert torch.equal(render(10, seed=1).images, first)


def test_seeds_and_indices_give_different_pictures():
    pictures = torch.cat([render(200, seed=0).images, render(200, seed=1).images, render(200, seed=-1).images])
    assert len(torch.unique(pictures.flatten(1), dim=0)) == 600


def test_neighbouring_seeds_share_no_picture():
    """A seed must not be an offset into one long world."""
    first = render(torch.arange(0, 400), seed=0, labels=torch.zeros(400, dtype=torch.int64)).images.flatten(1)
    second = render(torch.arange(0, 400), seed=1, labels=torch.zeros(400, dtype=torch.int64)).images.flatten(1)
    assert torch.cdist(first, second).min() > 0.1


def test_labels_are_balanced():
    assert torch.equal(render(200).labels.bincount(), torch.full((10,), 20))


def test_the_main_shape_is_the_largest_and_is_visible():
    p = render(300, seed=2)
    counts = torch.stack([(p.segmentation == k + 1).sum((1, 2)) for k in range(len(LABELS))], 1)
    own = counts.gather(1, p.labels[:, None])[:, 0]
    assert own.min() >= 40


def test_given_labels_change_the_shape_alone():
    indices = torch.arange(20)
    circles = render(indices, seed=4, labels=torch.zeros(20, dtype=torch.int64))
    rings = render(indices, seed=4, labels=torch.full((20,), LABELS.index("ring")))
    both_background = (circles.segmentation == 0) & (rings.segmentation == 0)
    away = torch.nn.functional.max_pool2d(1 - both_background.float()[:, None], 3, 1, 1) == 0
    difference = (circles.images - rings.images).abs().amax(1, keepdim=True)
    assert difference[away].max() == 0


def test_maps_agree_with_each_other_and_with_the_picture():
    p = render(200, seed=6)
    background = p.segmentation == 0
    assert torch.equal(background, p.depth[:, 0] == 1)
    # Well inside the main shape all pixels have its colour times the light: one direction in RGB. Shapes from the
    # fourth kind on are never a distractor's.
    own = (p.segmentation == p.labels[:, None, None] + 1).float()[:, None]
    # Beyond the picture counts as outside, because a shape's rim may lie just there.
    others = torch.nn.functional.pad(1 - own, (2, 2, 2, 2), value=1.0)
    inside = torch.nn.functional.max_pool2d(others, 5, 1)[:, 0] == 0
    for image, here in zip(p.images[p.labels >= 3], inside[p.labels >= 3], strict=True):
        colours = image[:, here]
        unclipped = colours[:, (colours < 0.999).all(0)] + 1
        if unclipped.shape[1] > 5:
            assert torch.nn.functional.normalize(unclipped, dim=0).std(1).max() < 1e-3


def test_nearer_covers_farther():
    """Where two things meet, the one that is on top is the nearer one: its depth is what the map shows."""
    p = render(300, seed=9)
    for i in range(300):
        kinds = p.segmentation[i].unique()
        for kind in kinds[kinds > 0]:
            assert len(p.depth[i, 0][p.segmentation[i] == kind].unique()) <= 2  # a distractor may be of the main kind


def test_larger_main_shapes_are_nearer():
    p = render(torch.arange(0, 3000, 10), seed=1)  # circles
    own = p.segmentation == 1
    whole = own.sum((1, 2)).float()
    depth = torch.stack([d[0][m].min() for d, m in zip(p.depth, own, strict=True)])
    assert torch.corrcoef(torch.stack([whole, depth]))[0, 1] < -0.5


@pytest.mark.parametrize("label", range(len(LABELS)))
def test_signed_distances_are_distances(label):
    """|grad| = 1 nearly everywhere near the outline, negative inside, positive far away."""
    line = torch.linspace(-1.6, 1.6, 129)
    y, x = torch.meshgrid(-line, line, indexing="ij")
    distance = signed_distance(torch.tensor([label]), x[None], y[None])[0]
    assert distance[0].min() > 0 and distance.min() < -0.1
    step = float(line[1] - line[0])
    gradient = torch.stack(torch.gradient(distance, spacing=step)).norm(dim=0)[2:-2, 2:-2]
    near = distance[2:-2, 2:-2].abs() < 0.15
    assert (gradient[near] - 1).abs().median() < 0.01
    assert ((gradient[near] - 1).abs() < 0.1).float().mean() > 0.85


@pytest.mark.parametrize(
    "indices, labels, words",
    [
        (torch.rand(3), None, "whole numbers"),
        (torch.zeros(2, 2, dtype=torch.int64), None, "one row"),
        (3, torch.tensor([0, 1]), "3 whole numbers"),
        (1, torch.tensor([10]), "from 0"),
    ],
)
def test_wrong_requests_are_refused_in_words(indices, labels, words):
    with pytest.raises(ValueError, match=words):
        render(indices, labels=labels)
