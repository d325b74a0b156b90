"""The degradation study's damaged denoisers are the undamaged one at strength 0, and what their names say else."""

import sys
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

ROOT = Path(__file__).resolve().parents[1]
sys.path.append(str(ROOT / "benchmarks"))

from degraded import Damaged  # noqa: E402

from guidance_pack.guidance.networks.tiny.files import build, read_denoiser  # noqa: E402
from guidance_pack.guidance.networks.tiny.preconditioning import precondition  # noqa: E402
from guidance_pack.guidance.perturbation import key_of, normal  # noqa: E402

FILE = read_denoiser(ROOT / "assets" / "shapes-edm.safetensors")
X = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
SIGMA, Y = torch.tensor([0.5, 2.0]), torch.tensor([1, 10])


@torch.no_grad()
def denoised(around=None):
    network = build(FILE)
    return precondition(lambda x, t, y: network(x, t, y, around=around), "edm", FILE.sigma_data)(X, SIGMA, Y)


@torch.no_grad()
def damaged(kind, strength, seed=1):
    return Damaged(FILE, kind, strength, seed)(X, SIGMA, Y)


@pytest.mark.parametrize("kind", ["dropout", "input noise", "random blocks"])
def test_without_strength_nothing_is_damaged(kind):
    torch.testing.assert_close(damaged(kind, 0.0), denoised(), atol=1e-5, rtol=1e-5)
    strong = damaged(kind, 0.5)
    assert torch.equal(strong, damaged(kind, 0.5)) and not torch.equal(strong, damaged(kind, 0.5, seed=2))
    assert (strong - denoised()).abs().max() > 0.01


def test_a_skipped_block_and_lone_tokens_by_hand():
    def skipping(part, index, run, hidden):
        return hidden if (part, index) == ("deep", 1) else run(hidden, F.scaled_dot_product_attention)

    assert torch.equal(damaged("skipped block", 1.0), denoised(skipping))
    lonely = denoised(lambda part, index, run, hidden: run(hidden, lambda q, k, v: v))
    assert torch.equal(damaged("identity attention", 1.0), lonely)


def test_all_blocks_left_out_leave_the_blocks_that_change_size():
    def none(part, index, run, hidden):
        return run(hidden, F.scaled_dot_product_attention) if (part, index) == ("up", 0) else hidden

    assert torch.equal(damaged("random blocks", 1.0), denoised(none))


def test_more_noise_is_seen_at_a_higher_level():
    draws = normal(X.shape, key_of(1, 0, "input"))
    more = X + (1.5**2 - 1) ** 0.5 * SIGMA.view(-1, 1, 1, 1) * draws
    network = build(FILE)
    with torch.no_grad():
        expected = precondition(network, "edm", FILE.sigma_data)(more, 1.5 * SIGMA, Y)
    torch.testing.assert_close(damaged("input noise", 0.5), expected, atol=1e-5, rtol=1e-5)
