"""Weights that rules choose in a run: adaptive stop and feedback, against their papers and in the law."""

import math

import pytest
import torch
from cases import levels

from guidance_pack.guidance.branch import NEGATIVE, POSITIVE, Branch
from guidance_pack.guidance.compose import Guidance, Memory
from guidance_pack.guidance.feedback import Pace
from guidance_pack.guidance.noise_level import NoiseLevel
from guidance_pack.guidance.rules.adaptive_stop import AdaptiveStop
from guidance_pack.guidance.rules.autoguidance import Autoguidance
from guidance_pack.guidance.rules.cfg import CFG
from guidance_pack.guidance.rules.feedback import Feedback
from guidance_pack.guidance.rules.feedback_autoguidance import FeedbackAutoguidance
from guidance_pack.guidance.schedule import Interval

GUIDE = Branch("guide")
STEPS = 12
SIGMAS = tuple(float(s) for s in (torch.linspace(80.0 ** (1 / 7), 0.002 ** (1 / 7), STEPS) ** 7).double()) + (0.0,)
SHAPE = (3, 2, 3, 3)


def drawn(seed, shape=SHAPE):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def networks(x, sigma):
    """Two Gaussian worlds of spread 0.3 around means that are apart: what a perfect denoiser of each says."""
    share = 0.09 / (0.09 + sigma**2)
    return tuple(mean + share * (x - mean) for mean in (drawn(1), drawn(2)))


def published(x, noises, pi=0.95, t0=0.5, t1=0.4, most=10.0):
    """The weights, and where the stochastic sampler ends, after `edm_sampler` of the authors' code (FBG_pure)."""
    variances = [0.0] * STEPS  # counted from the end
    for step, (now, then) in enumerate(zip(SIGMAS[:-2], SIGMAS[1:-1], strict=True)):
        variances[STEPS - step - 1] = (now**2 - then**2) * then**2 / now**2
    delta = math.log((1 - pi) * 3 / 2) / ((1 - t0) * STEPS)
    low = math.floor(t1 * STEPS)
    tau = abs(2 * ((1 - (t1 * STEPS - low)) * variances[low] + (t1 * STEPS - low) * variances[low + 1]) / 10 * delta)
    posterior, weights = torch.zeros(len(x), dtype=torch.float64), []
    for now, then, noise in zip(SIGMAS[:-1], SIGMAS[1:], noises, strict=True):
        weights.append(posterior.exp() / (posterior.exp() - (1 - pi)))
        c, u = networks(x, now)
        guided = u + weights[-1][:, None, None, None] * (c - u)
        stay = then**2 / now**2
        following = stay * x + (1 - stay) * guided + math.sqrt(now**2 - then**2) * then / now * noise
        if then:
            errors = [((following - stay * x - (1 - stay) * d) ** 2).sum((1, 2, 3)) for d in (c, u)]
            variance = (now**2 - then**2) * then**2 / now**2
            posterior = posterior - tau / (2 * variance) * (errors[0] - errors[1]) + delta
            posterior = posterior.clamp(math.log((1 - pi) * most / (most - 1)), 3.0)
        x = following
    return torch.stack(weights), x


def sampled(guidance, x, noises, coordinates=NoiseLevel.variance_exploding, calls=1):
    """The weights of CFG in each step of the same sampler, where it ends, and the evaluations of each branch.

    coordinates: in which the rules see it. calls: how often each level is evaluated; all but the last elsewhere.
    """
    at = [coordinates(torch.full((len(x),), s, dtype=torch.float64)) for s in coordinates_of(coordinates)]
    guidance = guidance.over(NoiseLevel(*(torch.cat([getattr(one, n)[:1] for one in at]) for n in "ab")))
    memory, weights, asked = Memory(), [], []
    for step, (now, then, noise) in enumerate(zip(SIGMAS[:-1], SIGMAS[1:], noises, strict=True)):
        memory.move_to(step + 1)
        for call in reversed(range(calls)):
            seen = x + 0.3 * call

            def evaluate(branch, seen=seen, now=now):
                asked.append(branch)
                return networks(seen, now)[branch != POSITIVE]

            scale = float(at[step].a[0])
            chosen = guidance.choose(scale * seen, at[step], memory)
            out = guidance.denoise(evaluate, scale * seen, at[step], 5.0, memory)
        weights.append(guidance.cfg(at[step], 5.0, chosen))
        stay = then**2 / now**2
        x = stay * x + (1 - stay) * out + math.sqrt(now**2 - then**2) * then / now * noise
    return torch.stack(weights), x, asked


def coordinates_of(coordinates):
    return [s / (1 + s) for s in SIGMAS] if coordinates == NoiseLevel.flow else SIGMAS


@pytest.fixture(scope="module")
def start():
    return SIGMAS[0] * drawn(5), [drawn(10 + i) for i in range(STEPS)]


@pytest.mark.parametrize("coordinates", [NoiseLevel.variance_exploding, NoiseLevel.flow], ids=["ve", "flow"])
@pytest.mark.parametrize("settings", [{}, {"pi": 0.8, "t0": 0.6, "t1": 0.5, "max_weight": 4.0}], ids=["paper", "other"])
def test_feedback_is_the_authors_sampler(start, settings, coordinates):
    """2506.06085: the weights of every sample at every step, in float64; the law sees it in either coordinates."""
    names = {"max_weight": "most"}
    expected, end = published(*start, **{names.get(k, k): v for k, v in settings.items()})
    weights, x, _ = sampled(Guidance((Feedback(**settings),)), *start, coordinates)
    torch.testing.assert_close(weights, expected, rtol=1e-7, atol=1e-7)
    torch.testing.assert_close(x, end, rtol=1e-7, atol=1e-7)
    spread = expected.max(0).values
    assert float(expected.max()) > 1.5 and float((spread - spread[0]).abs().max()) > 1e-3, "nothing to tell apart"


def test_feedback_over_autoguidance_is_the_same_with_the_guide_as_rival(start):
    expected, end = published(*start)
    weights, x, asked = sampled(Guidance((CFG(1.0), FeedbackAutoguidance())), *start)
    torch.testing.assert_close(x, end, rtol=1e-7, atol=1e-7)
    assert bool((weights == 1.0).all()) and set(asked) == {POSITIVE, GUIDE}


def test_with_cfg_beside_it_the_weights_add_up_as_in_the_hybrid():
    level = levels(3.0, 0.2)
    alone = Guidance((Feedback(),)).cfg(level, 9.0)
    torch.testing.assert_close(alone, torch.full((2,), 1 / 0.95, dtype=torch.float64))
    mixed = Guidance((CFG(2.0, Interval(1.0, 0.0, "sigma_ve")), Feedback())).cfg(level, 9.0)
    torch.testing.assert_close(mixed, alone + torch.tensor([0.0, 1.0], dtype=torch.float64))


@pytest.mark.parametrize("calls", [2, 3])
def test_repeated_evaluations_of_a_level_count_once(start, calls):
    for rules in ((Feedback(),), (AdaptiveStop(0.9),), (CFG(1.0), FeedbackAutoguidance(reuse=3))):
        once, again = (sampled(Guidance(rules), *start, calls=count) for count in (1, calls))
        torch.testing.assert_close(again[:2], once[:2], rtol=0, atol=0)


def test_a_sampler_that_adds_noise_shows_nothing_and_forgets_nothing():
    rule = Feedback().over(levels(*SIGMAS))
    x, c, u = drawn(3)[:1], drawn(4)[:1], drawn(5)[:1]
    memory = Memory()
    found = []
    for position, sigma in enumerate((2.0, 0.5, 1.5, 0.4), 1):
        memory.move_to(position)
        found.append(float(rule.choose(x, levels(sigma), position, memory.before.get(0))[0]))
        Guidance((rule,)).denoise({POSITIVE: c, NEGATIVE: u}.__getitem__, x, levels(sigma), 1.0, memory)
    assert found[1] != found[0] and found[2] == found[1] and found[3] != found[2]


def test_what_lies_between_two_levels_leaves_the_state_of_the_level():
    memory = Memory()
    memory.move_to(1)
    memory.keep(0, "level")
    memory.move_to(1, between=True)
    memory.keep(0, "on the way")
    assert memory.after[0] == "level"
    memory.move_to(2, between=True)
    memory.keep(0, "churned up to here")
    assert memory.after[0] == "churned up to here", "better than none"


def test_the_pace_of_a_flow_that_starts_without_signal_is_finite():
    pace = Pace.of(NoiseLevel.flow(torch.linspace(1, 0, 9, dtype=torch.float64)), 0.95, 0.5, 1.0)
    assert math.isfinite(pace.temperature) and pace.temperature > 0 > pace.drift
    unsampling = Pace.of(levels(*reversed(SIGMAS)), 0.95, 0.5, 0.4)
    assert unsampling.temperature == 0.0


def test_between_two_evaluations_of_the_guide_the_weight_still_moves(start):
    """Under reuse the picture is compared with what the guide said last, at every level."""
    x, noises = start
    asked = sampled(Guidance((CFG(1.0), FeedbackAutoguidance(reuse=3))), x, noises)[2]
    assert asked.count(GUIDE) == STEPS / 3 and asked.count(POSITIVE) == STEPS
    guidance = Guidance((FeedbackAutoguidance(reuse=3),)).over(levels(*SIGMAS))
    memory, weights, trails = Memory(), [], []
    for position, sigma in enumerate(SIGMAS[:6], 1):
        memory.move_to(position)
        level, predictions = levels(*[sigma] * 3), networks(x, sigma)
        weights.append(float(guidance.choose(x, level, memory)[0][0]))
        guidance.denoise({POSITIVE: predictions[0], GUIDE: predictions[1]}.__getitem__, x, level, 1.0, memory)
        trails.append(memory.after[0].position)
    assert trails == [1, 1, 1, 4, 4, 4]
    assert len(set(weights[1:4])) == 3


def test_stop_is_the_papers_policy_for_each_sample(start):
    """2312.12487: the first level at which both agree to gamma is the last with CFG, in each sample."""
    gamma, (x, noises) = 0.9, start
    weights, _, asked = sampled(Guidance((AdaptiveStop(gamma),)), x, noises)
    stopped, expected = torch.zeros(3, dtype=torch.bool), []
    for now, then, noise in zip(SIGMAS[:-1], SIGMAS[1:], noises, strict=True):
        w = torch.where(stopped, 1.0, 5.0)
        expected.append(w)
        c, u = networks(x, now)
        alike = torch.cosine_similarity(c.flatten(1), u.flatten(1), dim=1) >= gamma
        stopped = stopped | (alike & (now <= 5))
        stay = then**2 / now**2
        guided = u + w[:, None, None, None] * (c - u)
        x = stay * x + (1 - stay) * guided + math.sqrt(now**2 - then**2) * then / now * noise
    assert torch.equal(weights, torch.stack(expected).double())
    assert asked.count(NEGATIVE) == int((weights != 1).any(1).sum()) < STEPS, "no negative once all have stopped"


def test_stop_works_on_whatever_weight_there_is_and_autoguidance_goes_on():
    x, level = drawn(3), levels(2.0, 2.0, 2.0)
    same = {POSITIVE: drawn(4), NEGATIVE: drawn(4), GUIDE: drawn(6)}
    memory = Memory(position=1)
    guidance = Guidance((AdaptiveStop(), CFG(3.0), Autoguidance(2.0)))
    guidance.denoise(same.__getitem__, x, level, 8.0, memory)
    memory.move_to(2)
    asked = []
    other = {POSITIVE: drawn(7), GUIDE: drawn(8)}
    out = guidance.denoise(lambda b: asked.append(b) or other[b], x, levels(1.0, 1.0, 1.0), 8.0, memory)
    assert asked == [POSITIVE, GUIDE]
    torch.testing.assert_close(out, 2 * drawn(7) - drawn(8))


def test_nothing_stops_where_all_prompts_give_the_same_grey():
    x, alike, rule, memory = drawn(3), {POSITIVE: drawn(4), NEGATIVE: drawn(4)}, AdaptiveStop(0.9), Memory()
    for position, sigma in enumerate((80.0, 5.1, 5.0), 1):
        memory.move_to(position)
        level = levels(*[sigma] * 3)
        assert rule.choose(x, level, position, memory.before.get(0)).tolist() == [0.0] * 3
        Guidance((rule,)).denoise(alike.__getitem__, x, level, 4.0, memory)
    memory.move_to(4)
    assert rule.choose(x, levels(3.0, 3.0, 3.0), 4, memory.before[0]).tolist() == [1.0] * 3
