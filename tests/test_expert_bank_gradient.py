"""Gradients by an expert bank equal those of separate networks, for every sample's own noise level."""

import pytest
import torch
from bank_adapters import by_hand, random_adapter, small, spec
from gradient_context import Lent

from guidance_pack.guidance.experts.bank import ExpertBank, adapter_names, own_tensors
from guidance_pack.guidance.guide import Guide
from guidance_pack.guidance.losses.cross_entropy import CrossEntropy
from guidance_pack.guidance.noise_level import NoiseLevel
from guidance_pack.guidance.objective import Objective, gradient
from guidance_pack.guidance.routing import Experts

ADAPTERS = tuple(random_adapter(seed) for seed in range(3))
EDGES = (0.5, 2.0)
WANTED = torch.eye(3, dtype=torch.float64)


class BankLent(Lent):
    """Lends one bank to all members, as the host does: the expert is put in charge when its network is asked for."""

    bank: ExpertBank

    def network(self, objective, member):
        return super().network(objective, 0) if self.bank.use(member) else None


def bank() -> ExpertBank:
    base = small().double()
    return ExpertBank(base, ADAPTERS, own_tensors(base, adapter_names(ADAPTERS))).eval()


def contexts(wanted):
    team, separate = bank(), [by_hand(small(), adapter) for adapter in ADAPTERS]
    lent = BankLent([team], wanted)
    lent.bank = team
    return lent, Lent(separate, wanted)


@pytest.mark.parametrize("at", ["noisy input", "denoised", "through denoiser"])
@pytest.mark.parametrize("handover", [0.0, 1.0])
def test_a_mixed_batch_equals_separate_networks(at, handover):
    guide = Guide((spec(sees="noisy"),) * 3, Experts(EDGES, handover))
    x = torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    level = NoiseLevel.variance_exploding(torch.tensor([3.0, 0.2, 0.5, 1.9], dtype=torch.float64))
    objective = Objective(CrossEntropy(), at, guide)
    mine, theirs = contexts(WANTED[[0, 1, 2, 0]])
    mine.denoiser = theirs.denoiser = lambda leaf: torch.tanh(leaf) * leaf.roll(1, -1)
    found = gradient(objective, x, 0.5 * x, level, 0, mine)
    torch.testing.assert_close(found, gradient(objective, x, 0.5 * x, level, 0, theirs), rtol=1e-9, atol=1e-12)
    assert float(found.abs().flatten(1).max(1).values.min()) > 1e-6
    if not handover:
        assert [pictures for _, pictures in mine.asked] == [1, 2, 1], "an expert was asked for others' pictures"


def test_each_sample_is_as_if_it_were_alone():
    guide = Guide((spec(sees="noisy"),) * 3, Experts(EDGES))
    x = torch.randn(3, 3, 8, 8, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    level = NoiseLevel.variance_exploding(torch.tensor([3.0, 0.2, 1.0], dtype=torch.float64))
    objective = Objective(CrossEntropy(), "noisy input", guide)
    together = gradient(objective, x, x, level, 0, contexts(WANTED)[0])
    for index in range(3):
        one = slice(index, index + 1)
        alone = gradient(objective, x[one], x[one], level[torch.tensor([index])], 0, contexts(WANTED[one])[0])
        torch.testing.assert_close(together[one], alone, rtol=1e-9, atol=1e-12)
