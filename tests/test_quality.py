"""The measures in closed form, the benchmark's sampler, and the embedded networks themselves."""

import math
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from world import LABELS, render
from world.judge import read_judge

from guidance_pack.guidance.networks.tiny.files import build, read_denoiser
from guidance_pack.guidance.networks.tiny.preconditioning import SIGMA_RANGE, add_noise, precondition
from guidance_pack.guidance.tuning.sets import frechet_distance, precision_recall

ROOT = Path(__file__).resolve().parents[1]
sys.path.append(str(ROOT / "benchmarks"))

from measures import class_accuracy  # noqa: E402
from sampling import Guided, Setting, heun, noise_levels  # noqa: E402
from sheets import contact_sheet  # noqa: E402

PAIRS = [("edm", "shapes-edm", "shapes-edm-weak"), ("flow", "shapes-flow", "shapes-flow-weak")]
EARLY = ("edm", "shapes-edm", "shapes-edm-early")
DENOISERS = [*(name for pair in PAIRS for name in pair[1:]), EARLY[2]]


def gaussian(count, mean, std, seed=0):
    return mean + std * torch.randn(count, len(mean), generator=torch.Generator().manual_seed(seed)).double()


def standardised(count, features, seed=0):
    """Points whose mean is exactly 0 and whose covariance is exactly the identity."""
    points = gaussian(count, torch.zeros(features), torch.ones(features), seed)
    points = points - points.mean(0)
    return torch.linalg.solve_triangular(torch.linalg.cholesky(points.T.cov()), points.T, upper=False).T


def test_frechet_distance_of_equal_sets_is_zero():
    points = gaussian(500, torch.zeros(6), torch.ones(6))
    assert frechet_distance(points, points) == pytest.approx(0, abs=1e-9)


def test_frechet_distance_of_gaussians_in_closed_form():
    base = standardised(500, 4)
    mean, scale = torch.tensor([1.0, 0, -2, 0.5]).double(), torch.tensor([2.0, 1, 0.5, 3]).double()
    expected = mean.square().sum() + (scale - 1).square().sum()
    assert frechet_distance(base, base * scale + mean) == pytest.approx(expected.item())
    turn = torch.linalg.qr(gaussian(4, torch.zeros(4), torch.ones(4), 1)).Q
    assert frechet_distance(base @ turn, (base * scale + mean) @ turn) == pytest.approx(expected.item())


def test_frechet_distance_with_covariances_that_do_not_commute():
    base = standardised(400, 2)
    first, second = torch.tensor([[2.0, 0], [1, 1]]).double(), torch.tensor([[1.0, 1], [0, 3]]).double()
    cov_first, cov_second = first @ first.T, second @ second.T
    # For 2x2 matrices tr(M^(1/2)) = sqrt(tr M + 2 sqrt(det M)).
    product = cov_first @ cov_second
    root = (product.trace() + 2 * torch.linalg.det(product).sqrt()).sqrt()
    expected = cov_first.trace() + cov_second.trace() - 2 * root
    assert frechet_distance(base @ first.T, base @ second.T) == pytest.approx(expected.item())


def test_precision_and_recall():
    real = gaussian(400, torch.zeros(2), torch.ones(2))
    same = precision_recall(real, gaussian(400, torch.zeros(2), torch.ones(2), 1))
    assert same.precision > 0.9 and same.recall > 0.9
    far = precision_recall(real, gaussian(400, torch.full((2,), 50.0), torch.ones(2), 1))
    assert far.precision == far.recall == 0
    narrow = precision_recall(real, gaussian(400, torch.zeros(2), torch.full((2,), 0.1), 1))
    assert narrow.precision > 0.95 and narrow.recall < 0.2


def test_precision_by_hand():
    """On a line of points one apart, the second neighbours reach 1 inside and 2 at the ends."""
    real = torch.arange(5.0)[:, None]
    samples = torch.tensor([[-1.5], [0.5], [5.9], [6.1], [2.2], [40.0]])
    assert precision_recall(real, samples, neighbours=2).precision == pytest.approx(4 / 6)


def test_class_accuracy():
    assert class_accuracy(torch.eye(4), torch.tensor([0, 1, 2, 0])) == 0.75


@pytest.mark.parametrize("prediction", ["edm", "flow"])
def test_heun_finds_the_gaussian(prediction):
    """With the exact denoiser of N(m, v^2) pictures, noise must end as m + v n, n the starting noise."""
    mean, std = 0.3, 0.5

    def exact(x, sigma, y):
        a, b = (1.0, sigma) if prediction == "edm" else (1 - sigma, sigma)
        return mean + a * std**2 / (a**2 * std**2 + b**2) * (x - a * mean)

    noise = torch.randn(4, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    out = heun(exact, noise, None, noise_levels(prediction, 64))
    torch.testing.assert_close(out, mean + std * noise, rtol=0.02, atol=0.02)


def test_noise_levels_fall_to_zero():
    for prediction, (low, high) in SIGMA_RANGE.items():
        levels = noise_levels(prediction, 20)
        assert levels == sorted(levels, reverse=True) and len(levels) == 21
        assert levels[0] == pytest.approx(high) and levels[-1] == 0 and levels[-2] >= low * 0.999


@pytest.mark.parametrize(
    "setting, evaluations",
    [
        (Setting("plain"), 9),
        (Setting("cfg", cfg=2), 18),
        (Setting("autoguidance", autoguidance=2), 18),
        (Setting("both", cfg=2, autoguidance=2), 27),
        (Setting("nowhere", cfg=2, interval=(100.0, math.inf)), 9),
    ],
)
def test_only_the_evaluations_that_are_needed(setting, evaluations):
    guided = Guided(lambda x, s, y: x / 2, lambda x, s, y: x / 3, setting, "edm", null=10)
    heun(guided, torch.randn(2, 3, 4, 4), torch.zeros(2).long(), noise_levels("edm", 5))
    assert guided.evaluations == evaluations


def test_contact_sheet_shows_the_pictures():
    red = torch.tensor([1.0, -1, -1])[None, :, None, None].expand(3, 3, 8, 8)
    sheet = contact_sheet([("red", red)], columns=2, zoom=2)
    assert sheet.size == (32, 18 + 32) and sheet.getpixel((5, 25)) == (255, 0, 0)
    with pytest.raises(ValueError, match="at least one row"):
        contact_sheet([])


def asset(name):
    return ROOT / "assets" / f"{name}.safetensors"


@pytest.mark.parametrize("name", DENOISERS)
def test_denoisers_carry_their_facts(name):
    file = read_denoiser(asset(name))
    facts = file.metadata
    assert facts["recipe"] == name and file.labels == LABELS and file.config["num_classes"] == len(LABELS)
    assert facts["pictures_seen"] == facts["steps"] * facts["batch"] > 0
    assert facts["parameters"] == sum(t.numel() for t in file.tensors.values())
    assert file.prediction == ("flow" if "flow" in name else "edm")


@pytest.mark.parametrize("name", [*DENOISERS, "shapes-judge"])
def test_assets_are_what_their_recipes_make(name):
    from train_world import RECIPES

    recipe = RECIPES[name]
    file = read_judge() if name == "shapes-judge" else read_denoiser(asset(name))
    facts = file.metadata
    assert recipe.config.items() <= file.config.items()
    assert (facts["steps"], facts["batch"]) == (recipe.steps, recipe.batch)
    assert (facts["data_seed"], facts["training_seed"]) == (recipe.data_seed, recipe.seed)


@pytest.mark.parametrize("family, main, weak", PAIRS)
def test_the_weak_sibling_is_smaller_and_less_trained(family, main, weak):
    strong, feeble = read_denoiser(asset(main)).metadata, read_denoiser(asset(weak)).metadata
    assert feeble["parameters"] < strong["parameters"] / 3
    assert feeble["pictures_seen"] <= strong["pictures_seen"] / 4


def test_the_early_sibling_is_as_large_and_less_trained():
    strong, early = (read_denoiser(asset(name)) for name in EARLY[1:])
    assert early.config == strong.config
    assert early.metadata["pictures_seen"] <= strong.metadata["pictures_seen"] / 16


def test_the_embedded_pictures_are_rendered_ones():
    """To write them anew: save_file({"images": render(16).images}, asset("shapes-pictures"))."""
    torch.testing.assert_close(load_file(asset("shapes-pictures")), {"images": render(16).images})


def test_assets_are_a_few_megabytes_together():
    assert sum(path.stat().st_size for path in (ROOT / "assets").glob("*.safetensors")) < 24e6


def denoising_error(denoise, prediction, sigma, unconditional=False):
    pictures = render(40, seed=77_777)
    noise = torch.randn(pictures.images.shape, generator=torch.Generator().manual_seed(1))
    noisy = add_noise(prediction, pictures.images, noise, torch.full((40,), sigma))
    labels = torch.full((40,), len(LABELS)) if unconditional else pictures.labels
    return (denoise(noisy, torch.full((40,), sigma), labels) - pictures.images).square().mean().item()


@pytest.mark.slow
@pytest.mark.parametrize("unconditional", [False, True], ids=["class", "null class"])
@pytest.mark.parametrize("family, main, weak", [*PAIRS, EARLY])
def test_denoisers_have_learnt_to_denoise(family, main, weak, unconditional):
    """Far below an untrained network (zero output) at every noise level; and the main one below the weak one."""
    files = [read_denoiser(asset(name)) for name in (main, weak)]
    strong, feeble = (precondition(build(file), family, file.sigma_data) for file in files)
    untrained = precondition(lambda x, t, y: torch.zeros_like(x), family)
    for sigma in {"edm": (0.1, 0.4, 1.5), "flow": (0.1, 0.3, 0.6)}[family]:
        errors = [denoising_error(d, family, sigma, unconditional) for d in (strong, feeble, untrained)]
        assert errors[0] < errors[1] < errors[2] / 2, f"at noise level {sigma}"


def test_the_judge_knows_the_world():
    file = read_judge()
    assert file.labels == LABELS
    pictures = render(500, seed=88_888)
    judge = build(file)
    assert class_accuracy(judge(pictures.images), pictures.labels) > 0.98
