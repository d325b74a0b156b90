"""Clamp in closed form: the static and the per-sample range, and where in the law it acts."""

import numpy as np
import pytest
import torch
from cases import SIGMAS, Bowl, case, levels

from guidance_pack.guidance.algebra import quantile
from guidance_pack.guidance.branch import NEGATIVE, POSITIVE
from guidance_pack.guidance.compose import Guidance, Memory
from guidance_pack.guidance.objective import Objective
from guidance_pack.guidance.rules.cfg import CFG
from guidance_pack.guidance.rules.clamp import Clamp
from guidance_pack.guidance.rules.gradient import GradientGuidance
from guidance_pack.guidance.rules.rescale import Rescale
from guidance_pack.guidance.schedule import Constant, Interval

PUSH = GradientGuidance(2.0, objective=Objective(Bowl(), "noisy input"))
CASE = case(CFG())


def combined():
    """What CFG at 3 makes of the networks' estimates."""
    positive, negative = CASE.predictions[POSITIVE], CASE.predictions[NEGATIVE]
    return positive + 2.0 * (positive - negative)


def imagen(estimate, share, limit=1.0):
    """Dynamic thresholding in numpy, sample by sample (2205.11487 Section 2.3)."""
    found = []
    for sample in estimate.numpy():
        s = max(np.quantile(np.abs(sample), share), limit)
        found.append(np.clip(sample, -s, s) * limit / s)
    return torch.from_numpy(np.stack(found))


def test_static_is_a_clip_to_the_bit():
    for limit in (0.3, 1.0, 2.5):
        assert torch.equal(CASE.guide(Guidance((CFG(3.0), Clamp(limit)))), combined().clamp(-limit, limit))


@pytest.mark.parametrize("share", [0.005, 0.5, 0.95, 0.995, 1.0])
@pytest.mark.parametrize("limit", [1.0, 0.4, 50.0])
def test_quantile_is_imagens_dynamic_thresholding(share, limit):
    found = CASE.guide(Guidance((CFG(3.0), Clamp(limit, share))))
    torch.testing.assert_close(found, imagen(combined(), share, limit), rtol=1e-12, atol=1e-12)
    assert float(found.abs().max()) <= limit * (1 + 1e-12)


def test_an_estimate_inside_the_range_is_left_alone():
    inside = {branch: estimate / estimate.abs().max() for branch, estimate in CASE.predictions.items()}
    alone = type(CASE)(CASE.x, CASE.level, inside)
    for share in (0.0, 0.995):
        assert torch.equal(alone.guide(Guidance((CFG(1.0), Clamp(1.0, share)))), inside[POSITIVE])


def test_a_range_of_its_own_for_every_sample():
    """The largest sample of a batch does not change the others."""
    loud = case(CFG()).change(lambda tensor: tensor * torch.tensor([50.0, 1.0, 1.0]).reshape(-1, 1, 1, 1))
    rules = Guidance((CFG(3.0), Clamp(1.0, 0.9)))
    assert torch.equal(loud.guide(rules)[1:], CASE.guide(rules)[1:])


def test_quantiles_of_any_size_and_dtype():
    numbers = torch.rand(3, 2, 5, 7, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    for share in (0.0, 0.1, 0.5, 0.999, 1.0):
        wanted = torch.quantile(numbers.flatten(1), share, dim=1).reshape(3, 1, 1, 1)
        torch.testing.assert_close(quantile(numbers, share), wanted)
    assert quantile(numbers.half(), 0.5).dtype == torch.float32
    assert quantile(torch.ones(2, 1), 0.7).tolist() == [[1.0], [1.0]]
    assert quantile(torch.zeros(1, 1 << 25), 0.5).tolist() == [[0.0]]  # torch.quantile refuses these


def test_it_acts_after_the_networks_and_before_gradients_and_transforms():
    """Wherever it stands in the chain: the papers' pushes are added to the clamped estimate, and not clamped again."""
    push = CASE.guide(Guidance((CFG(1.0), PUSH))) - CASE.predictions[POSITIVE]
    wanted = combined().clamp(-1, 1) + push
    chains = [(CFG(3.0), Clamp(), PUSH), (PUSH, CFG(3.0), Clamp()), (Clamp(), PUSH, CFG(3.0))]
    for chain in chains:
        torch.testing.assert_close(CASE.guide(Guidance(chain)), wanted, rtol=1e-12, atol=1e-12)
    assert float(wanted.abs().max()) > 1.05
    rescaled = CASE.guide(Guidance((Rescale(1.0), Clamp(0.1), CFG(3.0))))
    spread = CASE.predictions[POSITIVE].flatten(1).std(1, correction=0)
    torch.testing.assert_close(rescaled.flatten(1).std(1, correction=0), spread)


def test_a_schedule_is_how_much_of_it():
    half = CASE.guide(Guidance((CFG(3.0), Clamp(1.0, 0.9, Constant(0.25)))))
    torch.testing.assert_close(half, 0.75 * combined() + 0.25 * imagen(combined(), 0.9), rtol=1e-12, atol=1e-12)
    late = CASE.guide(Guidance((CFG(3.0), Clamp(schedule=Interval(1.0, 0.0, "sigma_ve")))))
    assert torch.equal(late[:2], combined()[:2]) and torch.equal(late[2:], combined()[2:].clamp(-1, 1))


def test_it_needs_no_evaluation():
    cfg = torch.ones(3, dtype=torch.float64)
    (acting,) = Guidance((Clamp(),)).acting(levels(*SIGMAS), cfg, Memory())
    assert not acting.needs
    assert not Guidance((Clamp(0.0, 0.9),)).acting(levels(*SIGMAS), cfg, Memory())
