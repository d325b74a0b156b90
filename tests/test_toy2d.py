"""The claims of the autoguidance paper's 2-D experiment, on the networks kept in benchmarks/results."""

import sys

import pytest
import torch
from conftest import ROOT

sys.path.append(str(ROOT / "benchmarks"))

import toy2d
from toy2d_world import world

COUNT = 2**11


@pytest.fixture(scope="module")
def rows():
    """Every sampler of the experiment from the same noise, with fewer samples than the printed table."""
    truth = world("A")
    peak = toy2d.densest(truth)
    clean, noisy = toy2d.start(truth, COUNT)
    found = {name: toy2d.heun(sampler, noisy) for name, sampler in toy2d.samplers(truth).items()}
    return {name: toy2d.measure(truth, x, peak) for name, x in {"ground truth": clean, **found}.items()}


@pytest.mark.slow
def test_the_world_has_the_moments_that_the_paper_states():
    both = world("AB", torch.float64)
    weights = both.weights[:, None]
    mean = (weights * both.means).sum(0)
    spread = torch.einsum("kij,kj,kij->ki", both.axes, both.variances, both.axes)
    std = ((weights * (both.means**2 + spread)).sum(0) - mean**2).sqrt()
    assert mean.tolist() == pytest.approx([0, 0], abs=2e-3) and std.tolist() == pytest.approx([0.5, 0.5], abs=2e-3)
    assert len(both.weights) == 2 * 127 * 8
    assert toy2d.densest(world("A")) == pytest.approx(2.90, abs=0.01)


@pytest.mark.parametrize("sigma", [0.0, 0.05, 2.0])
def test_the_exact_score_is_the_gradient_of_the_density(sigma):
    truth = world("A", torch.float64)
    x = truth.sample(50, torch.Generator().manual_seed(0)) + 0.01
    sigmas = torch.full((50,), sigma, dtype=torch.float64)
    step = 1e-6 * torch.eye(2, dtype=torch.float64)
    ends = [[truth.log_density(x + sign * step[i], sigmas) for sign in (1, -1)] for i in (0, 1)]
    numeric = torch.stack([(up - down) / 2e-6 for up, down in ends], 1)
    torch.testing.assert_close(truth.score(x, sigmas), numeric, rtol=1e-4, atol=1e-4)


@pytest.mark.slow
def test_the_exact_score_gives_the_data_back(rows):
    assert rows["exact score"].outliers < 2.0
    assert abs(rows["exact score"].trunk - rows["ground truth"].trunk) < 3.0


@pytest.mark.slow
def test_autoguidance_removes_outliers_and_keeps_the_trunk(rows):
    assert rows["autoguidance 3"].outliers < rows["unguided"].outliers
    assert abs(rows["autoguidance 3"].trunk - rows["ground truth"].trunk) < 10.0


@pytest.mark.slow
def test_cfg_empties_the_trunk(rows):
    assert rows["CFG 4"].trunk < rows["ground truth"].trunk / 4


@pytest.mark.slow
def test_naive_truncation_loses_the_leaves(rows):
    truncated = next(row for name, row in rows.items() if name.startswith("naive"))
    assert truncated.leaf == 0.0


@pytest.mark.slow
def test_the_guide_is_the_worse_network(rows):
    assert rows["guide alone"].outliers > rows["unguided"].outliers
