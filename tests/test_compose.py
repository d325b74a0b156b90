"""The law: what is evaluated, in which order rules act, and what is remembered."""

import math

import pytest
import torch
from oracle import GUIDE, exact_branches, points

from guidance_pack.guidance.branch import MAIN, NEGATIVE, POSITIVE, Branch
from guidance_pack.guidance.compose import Guidance, Memory, combine, common_value, overlap
from guidance_pack.guidance.noise_level import NoiseLevel
from guidance_pack.guidance.rules.apg import APG
from guidance_pack.guidance.rules.autoguidance import Autoguidance
from guidance_pack.guidance.rules.cfg import CFG
from guidance_pack.guidance.rules.rescale import Rescale
from guidance_pack.guidance.schedule import Constant, Interval
from guidance_pack.guidance.step import Step

NOISY, CLEAN = Interval(math.inf, 1.0, "sigma_ve"), Interval(1.0, 0.0, "sigma_ve")


def levels(*sigmas):
    return NoiseLevel.variance_exploding(torch.tensor(sigmas, dtype=torch.float64))


class Network:
    """Exact networks that count how often each branch was asked for."""

    def __init__(self, *sigmas):
        self.asked = []
        sigmas = torch.tensor(sigmas, dtype=torch.float64)
        self.level = NoiseLevel.variance_exploding(sigmas)
        self.x = points(len(sigmas))[0]
        self.exact = exact_branches(self.x, sigmas)

    def __call__(self, branch):
        self.asked.append(branch)
        return self.exact(branch)

    def guide(self, *rules, sampler=1.0):
        return Guidance(rules).denoise(self, self.x, self.level, sampler)


@pytest.mark.parametrize(
    ("rules", "sampler", "sigma", "expected"),
    [
        ((), 1.0, 2.0, {POSITIVE}),
        ((), 4.0, 2.0, {POSITIVE, NEGATIVE}),
        ((CFG(1.0),), 4.0, 2.0, {POSITIVE}),
        ((CFG(3.0, NOISY),), 4.0, 2.0, {POSITIVE, NEGATIVE}),
        ((CFG(3.0, NOISY),), 4.0, 0.5, {POSITIVE}),
        ((CFG(3.0, NOISY), CFG(2.0, CLEAN)), 1.0, 0.5, {POSITIVE, NEGATIVE}),
        ((Autoguidance(2.0),), 1.0, 2.0, {POSITIVE, GUIDE}),
        ((Autoguidance(2.0),), 4.0, 2.0, {POSITIVE, NEGATIVE, GUIDE}),
        ((Autoguidance(1.0),), 1.0, 2.0, {POSITIVE}),
        ((Autoguidance(2.0, CLEAN),), 1.0, 2.0, {POSITIVE}),
        ((Autoguidance(2.0), Autoguidance(3.0, guide="other")), 1.0, 2.0, {POSITIVE, GUIDE, Branch("other")}),
        ((Autoguidance(2.0), Autoguidance(3.0)), 1.0, 2.0, {POSITIVE, GUIDE}),
        ((Rescale(),), 1.0, 2.0, {POSITIVE}),
        ((APG(),), 1.0, 2.0, {POSITIVE}),
        ((APG(), Rescale(), CFG(3.0)), 1.0, 2.0, {POSITIVE, NEGATIVE}),
    ],
)
def test_only_what_is_needed_is_evaluated_and_only_once(rules, sampler, sigma, expected):
    network = Network(sigma, sigma)
    exact = network.exact
    network.exact = lambda branch: exact(branch if branch.network == MAIN else GUIDE)
    network.guide(*rules, sampler=sampler)
    assert sorted(network.asked, key=str) == sorted(expected, key=str)


def test_a_mixed_batch_asks_for_what_one_of_its_samples_needs():
    network = Network(2.0, 0.5)
    network.guide(CFG(3.0, NOISY), Autoguidance(2.0, CLEAN))
    assert set(network.asked) == {POSITIVE, NEGATIVE, GUIDE}


def test_each_sample_of_a_mixed_batch_gets_its_own_guidance():
    network = Network(2.0, 0.5)
    found = network.guide(CFG(3.0, NOISY), Autoguidance(2.0, CLEAN))
    positive, negative, guide = (network.exact(branch) for branch in (POSITIVE, NEGATIVE, GUIDE))
    expected = torch.stack([(positive + 2 * (positive - negative))[0], (positive + (positive - guide))[1]])
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-15)


def test_where_nothing_guides_the_positive_branch_comes_out_itself():
    network = Network(2.0)
    positive = network.exact(POSITIVE)
    network.exact = lambda branch: positive
    assert network.guide(CFG(4.0, CLEAN), Autoguidance(3.0, CLEAN), Rescale(0.5, CLEAN), APG()) is positive


def test_combine_leaves_the_positive_branch_where_there_is_no_negative():
    x, sigma = points(2)
    step = Step(x, levels(0.7, 0.7), {POSITIVE: x}, torch.ones(2, dtype=torch.float64))
    assert combine(step) is x


def test_weights_of_cfg_rules():
    level = levels(2.0, 0.5)
    for rules, sampler, expected in (
        ((), 6.0, [6.0, 6.0]),
        ((CFG(3.0),), 6.0, [3.0, 3.0]),
        ((CFG(None, NOISY),), 6.0, [6.0, 1.0]),
        ((CFG(3.0, NOISY), CFG(2.0, CLEAN)), 6.0, [3.0, 2.0]),
        ((CFG(3.0), CFG(2.0, CLEAN)), 6.0, [3.0, 4.0]),
    ):
        assert Guidance(rules).cfg(level, sampler).tolist() == expected


def test_transforms_run_after_terms_wherever_they_stand():
    network = Network(2.0, 0.5)
    rules = (Rescale(0.8), CFG(4.0), Autoguidance(2.0))
    expected = network.guide(CFG(4.0), Autoguidance(2.0), Rescale(0.8))
    torch.testing.assert_close(network.guide(*rules), expected, rtol=0, atol=1e-14)


def test_steer_leaves_the_combination_to_the_caller():
    """Where the host has combined the branches, the CFG rules must not act once more."""
    network = Network(2.0)
    step = Step(network.x, network.level, {b: network.exact(b) for b in (POSITIVE, NEGATIVE)}, torch.full((1,), 4.0))
    combined = combine(step)
    guidance = Guidance((CFG(4.0),))
    acting = guidance.acting(step.level, step.cfg, Memory())
    assert torch.equal(guidance.steer(combined, step, Memory(), acting), combined)


def test_resolve_reaches_every_rule():
    class Positions:
        def edge(self, value, unit):
            return {0.0: math.inf, 0.5: 1.0, 1.0: 0.0}[value]

    guidance = Guidance((CFG(3.0, Interval(0.0, 0.5)), Rescale(0.5, Interval(0.5, 1.0)), APG(schedule=Constant(0.5))))
    resolved = guidance.resolve(Positions())
    assert [rule.schedule for rule in resolved.rules] == [NOISY, CLEAN, Constant(0.5)]
    assert [type(rule) for rule in resolved.rules] == [CFG, Rescale, APG]
    assert resolved.rules[0].weight == 3.0


def test_memory_moves_when_the_position_moves():
    memory = Memory()
    memory.move_to(1)
    assert memory.before == {}
    memory.keep(0, "first")
    memory.move_to(1)
    assert memory.before == {} and memory.turns[0] == 0, "a repeated evaluation starts from the same state"
    memory.keep(0, "second")
    memory.move_to(2)
    assert memory.before == {0: "second"} and memory.turns[0] == 1
    memory.keep(0, "third")
    assert memory.before == {0: "second"}
    memory.move_to(3)
    memory.move_to(4)
    assert memory.turns[0] == 2, "a turn is a position at which the rule has acted"


def test_states_belong_to_their_rules():
    """Two stateful rules of one kind do not read each other's state."""
    memories = [Memory() for _ in range(3)]
    both = Guidance((APG(0.0, 0.0, -0.5), APG(1.0, 0.0, 0.9)))
    apart = [Guidance((rule,)) for rule in both.rules]
    for position, sigma in enumerate((2.0, 0.7, 0.3)):
        for memory in memories:
            memory.move_to(position)
        x, sigmas = points(4, sigma, seed=position)
        evaluate, level = exact_branches(x, sigmas), levels(*sigmas.tolist())
        plain = Guidance().denoise(evaluate, x, level, 3.0)
        alone = [g.denoise(evaluate, x, level, 3.0, m) - plain for g, m in zip(apart, memories, strict=False)]
        together = both.denoise(evaluate, x, level, 3.0, memories[2])
        torch.testing.assert_close(together, plain + sum(alone), rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [
        ((math.inf, 1.0), (1.0, 0.0), False),
        ((math.inf, 1.0), (1.5, 0.0), True),
        ((2.0, 1.0), (2.0, 1.0), True),
        ((2.0, 2.0), (3.0, 1.0), False),
        ((5.0, 4.0), (2.0, 1.0), False),
    ],
)
def test_overlap_of_half_open_intervals(first, second, expected):
    assert overlap(first, second) is overlap(second, first) is expected


def test_a_value_in_common():
    assert common_value(torch.tensor([2.0, 2.0, 2.0 + 1e-14], dtype=torch.float64)) == 2.0
    assert common_value(torch.tensor([2.0, 2.1])) is None
    assert common_value(torch.tensor([3.0])) == 3.0


def test_guidance_is_a_value():
    assert Guidance((CFG(3.0),)) == Guidance((CFG(3.0),)) and hash(Guidance((CFG(3.0),))) == hash(Guidance((CFG(3.0),)))
