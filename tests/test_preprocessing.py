"""From pictures to what networks take: what is seen, in which numbers, with which gradient."""

import pytest
import torch
import torch.nn.functional as F
from torchvision.transforms import functional as TF

from guidance_pack.guidance.preprocessing import Preprocessing, resize

IMAGENET = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}


def picture(height=12, width=12, batch=2):
    generator = torch.Generator().manual_seed(2)
    return torch.randn(batch, 3, height, width, generator=generator, dtype=torch.float64)


def coordinates(height, width):
    """A picture whose three channels say where a pixel is: its row and column, 0 to 1 across the picture."""
    rows = (torch.arange(height, dtype=torch.float64) + 0.5) / height
    columns = (torch.arange(width, dtype=torch.float64) + 0.5) / width
    return torch.stack([*torch.meshgrid(rows, columns, indexing="ij"), torch.zeros(height, width).double()])[None]


def test_the_default_maps_black_and_white_to_0_and_1():
    ends = torch.tensor([-1.0, 0.0, 1.0, 3.0]).view(1, 1, 1, 4).expand(1, 3, 1, 4)
    assert Preprocessing()(ends)[0, 0, 0].tolist() == [0.0, 0.5, 1.0, 2.0]


@pytest.mark.parametrize(("black", "white"), [(-1.0, 1.0), (0.0, 255.0), (0.0, 1.0)])
def test_the_ranges(black, white):
    found = Preprocessing(black=black, white=white)(picture())
    torch.testing.assert_close(found, black + (picture() + 1) / 2 * (white - black), rtol=1e-12, atol=1e-12)


def test_normalisation_is_per_channel():
    found = Preprocessing(**IMAGENET)(picture())
    torch.testing.assert_close(found, TF.normalize((picture() + 1) / 2, **IMAGENET), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("size", [(4, 4), (12, 12), (30, 30)])
def test_a_square_picture_is_seen_whole(size):
    found = Preprocessing(size)(coordinates(12, 12))
    assert found.shape == (1, 3, *size)
    reach = 2 * found[0, :2] - 1  # preprocessing maps to (x + 1) / 2
    assert float(reach.min()) < 0.5 / 4 + 0.05 and float(reach.max()) > 1 - 0.5 / 4 - 0.05
    torch.testing.assert_close(reach.mean((1, 2)), torch.full((2,), 0.5).double(), rtol=0, atol=1e-6)


@pytest.mark.parametrize(("height", "width"), [(8, 16), (16, 8), (10, 13), (100, 33)])
def test_of_another_shape_the_middle_is_seen_unstretched(height, width):
    found = Preprocessing((8, 8)).frame(coordinates(height, width))
    assert found.shape == (1, 3, 8, 8)
    rows, columns = found[0, 0] * height, found[0, 1] * width
    assert float(rows.mean()) == pytest.approx(height / 2, abs=0.7 * height / 8)
    assert float(columns.mean()) == pytest.approx(width / 2, abs=0.7 * width / 8)
    step = min(height, width) / 8
    middle = slice(2, 6)
    assert float(rows.diff(dim=0)[middle].mean()) == pytest.approx(step, rel=0.05), "stretched from top to bottom"
    assert float(columns.diff(dim=1)[:, middle].mean()) == pytest.approx(step, rel=0.05), "stretched from left to right"


def test_the_middle_of_a_wide_picture_exactly():
    wide = picture(4, 10)
    assert torch.equal(Preprocessing((4, 4)).frame(wide), wide[..., 3:7])


def test_a_size_of_another_shape_is_covered():
    found = Preprocessing((4, 8)).frame(picture(8, 8))
    torch.testing.assert_close(found, picture(8, 8)[..., 2:6, :])


@pytest.mark.parametrize(
    ("size", "multiple", "expected"),
    [((12, 12), 1, (12, 12)), ((12, 20), 8, (16, 16)), ((64, 96), 32, (64, 96)), ((3, 50), 14, (14, 56))],
)
def test_sizes_become_multiples(size, multiple, expected):
    found = Preprocessing(multiple=multiple)(picture(*size))
    assert tuple(found.shape[-2:]) == expected
    if expected == size:
        assert torch.equal(found, (picture(*size) + 1) / 2)


def test_a_picture_of_the_right_size_is_not_resampled():
    assert torch.equal(Preprocessing((12, 12), black=-1.0).frame(picture()), picture())


def test_maps_are_framed_like_pictures_without_blending():
    classes = torch.arange(4.0).repeat_interleave(6)[None, None, None].expand(1, 1, 12, 24)
    framed = Preprocessing((6, 6)).frame(classes, "nearest")
    assert framed.shape == (1, 1, 6, 6) and set(framed.unique().tolist()) == {1.0, 2.0}
    shown = Preprocessing((6, 6)).frame(coordinates(12, 24))[0, 1]
    assert torch.equal(framed[0, 0] == 2.0, shown > 0.5), "the map does not lie over the picture"


def test_ppap_resnet_sees_the_picture_as_it_is():
    """Pixels in [-1, 1] at 256, not normalised."""
    raw = picture(256, 256, 1)
    torch.testing.assert_close(Preprocessing((256, 256), black=-1.0, white=1.0)(raw), raw, rtol=0, atol=1e-12)


def test_ppap_deit_normalises_and_resizes_without_antialiasing():
    """(x + 1) / 2, ImageNet's mean and deviation, then torchvision 0.14's Resize to 224, which did not antialias."""
    raw = picture(256, 256, 1)
    found = Preprocessing((224, 224), **IMAGENET, antialias=False)(raw)
    normalised = TF.normalize((raw + 1) / 2, **IMAGENET)
    torch.testing.assert_close(found, TF.resize(normalised, [224, 224], antialias=False), rtol=0, atol=1e-6)
    assert not torch.allclose(found, TF.resize(normalised, [224, 224], antialias=True), atol=1e-2)


def test_midas_has_the_range_first_and_the_size_second():
    raw = picture(300, 300, 1)
    found = Preprocessing((256, 256), **IMAGENET)(raw)
    expected = TF.normalize(TF.resize((1 + raw) / 2, [256, 256], antialias=True), **IMAGENET)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    "preprocessing",
    [
        Preprocessing((5, 5), **IMAGENET),
        Preprocessing((9, 6), filter="bicubic"),
        Preprocessing((14, 14), black=-1.0, antialias=False),
        Preprocessing(multiple=4, filter="bicubic", antialias=False),
    ],
    ids=["smaller", "bicubic", "larger", "multiple"],
)
def test_the_gradient_equals_finite_differences(preprocessing):
    leaf = picture(7, 9, 1).requires_grad_()
    assert torch.autograd.gradcheck(preprocessing, (leaf,))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_the_dtype_is_kept(dtype):
    assert Preprocessing((5, 5), **IMAGENET)(picture().to(dtype)).dtype == dtype


def test_resize_picks_the_nearest_pixel_by_its_middle():
    row = torch.arange(5.0).view(1, 1, 1, 5)
    assert resize(row, (1, 3), "nearest").flatten().tolist() == [0.0, 2.0, 4.0]
    torch.testing.assert_close(resize(row, (1, 10), "bilinear"), F.interpolate(row, (1, 10), mode="bilinear"))
