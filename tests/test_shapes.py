"""The shapes of CFG against their authors' formulas, written out sample by sample from the papers."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from cases import CFG_WEIGHT, SHAPE, SIGMAS, case, levels, same
from scipy.fft import dctn, idctn

from guidance_pack.guidance.algebra import coarse
from guidance_pack.guidance.branch import EMPTY, NEGATIVE, POSITIVE
from guidance_pack.guidance.compose import Guidance, Memory
from guidance_pack.guidance.noise_level import NoiseLevel
from guidance_pack.guidance.rule import rules
from guidance_pack.guidance.rules.autoguidance import Autoguidance
from guidance_pack.guidance.rules.cfg import CFG
from guidance_pack.guidance.rules.cfg_norm import CFGNorm
from guidance_pack.guidance.rules.cfg_pp import CFGPlusPlus
from guidance_pack.guidance.rules.cfg_zero import CFGZero
from guidance_pack.guidance.rules.fdg import FDG
from guidance_pack.guidance.rules.higs import HiGS
from guidance_pack.guidance.rules.mambo_g import MamboG
from guidance_pack.guidance.rules.mimic import Mimic
from guidance_pack.guidance.rules.momentum import Momentum
from guidance_pack.guidance.rules.perp_neg import PerpNeg
from guidance_pack.guidance.rules.pmc import PMC
from guidance_pack.guidance.rules.renorm import Renorm
from guidance_pack.guidance.rules.skim import Skim
from guidance_pack.guidance.rules.tag import TAG
from guidance_pack.guidance.rules.tcfg import TCFG
from guidance_pack.guidance.rules.zero_init import ZeroInit
from guidance_pack.guidance.shaping import Shape

W = 6.0
FLOW_TIMES = (0.9, 0.5, 0.2)
IN_FLOW = NoiseLevel.flow(torch.tensor(FLOW_TIMES, dtype=torch.float64))
COORDINATES = {"ve": levels(*SIGMAS), "flow": IN_FLOW}


@pytest.fixture(params=COORDINATES)
def given(request):
    """Random predictions at three noise levels, in both coordinates."""
    return replace(case(CFG()), level=COORDINATES[request.param])


def guided(given, rule, weight=W):
    return given.guide(Guidance((CFG(weight), rule)))


def by_sample(given, formula):
    """formula(x, c, u, a, b) in numpy for each sample: what a network predicts, from the denoised estimates."""
    every = [t.numpy() for t in (given.x, given.predictions[POSITIVE], given.predictions[NEGATIVE])]
    rows = zip(*every, given.level.a.tolist(), given.level.b.tolist(), strict=True)
    return torch.from_numpy(np.stack([formula(*row) for row in rows]))


def native(formula):
    """A formula in what networks predict, noise or velocity, as one in denoised estimates: v = (x - D) / b."""
    return lambda x, c, u, a, b: x - b * formula((x - c) / b, (x - u) / b)


def cfg_zero(c, u):  # 2503.18886 Algorithm 1 and the released `optimized_scale`
    s = np.vdot(c, u) / np.sum(u**2)
    return (1 - W) * s * u + W * c


def tcfg(c, u):  # 2503.18137: SVD of both scores, the unconditional one keeps its part along the first vector
    _, _, vectors = np.linalg.svd(np.stack([c.ravel(), u.ravel()]), full_matrices=False)
    kept = (np.outer(vectors[0], vectors[0]) @ u.ravel()).reshape(u.shape)
    return kept + W * (c - kept)


def mambo_g(c, u):  # 2508.03442, as in the diffusers guider of its authors
    r = np.linalg.norm(c - u) / np.linalg.norm(u)
    return u + (1 + (W - 1) * math.exp(-2.5 * r)) * (c - u)


NATIVE = {"cfg_zero": (CFGZero(), cfg_zero), "tcfg": (TCFG(), tcfg), "mambo_g": (MamboG(alpha=2.5), mambo_g)}


@pytest.mark.parametrize(("rule", "formula"), NATIVE.values(), ids=NATIVE)
def test_of_what_networks_predict(given, rule, formula):
    assert same(guided(given, rule), by_sample(given, native(formula)), 1e-9)


def pmc(x, c, u, a, b):  # 2609.24287: the largest step within the limit, found by halving
    def fits(step):
        return np.linalg.norm(c + step * (c - u)) <= 1.2 * np.linalg.norm(c)

    low, high = 0.0, W - 1
    if fits(high):
        return c + high * (c - u)
    for _ in range(80):
        middle = (low + high) / 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    return c + low * (c - u)


def renorm(x, c, u, a, b):  # 2503.21758, CFG-Renorm
    whole, most = u + W * (c - u), 1.3 * np.linalg.norm(c)
    return whole * most / np.linalg.norm(whole) if np.linalg.norm(whole) >= most else whole


def cfg_norm(x, c, u, a, b):  # ComfyUI's CFGNorm, place by place
    whole = (u + W * (c - u)).reshape(len(c), -1)
    for place in range(whole.shape[1]):
        most = np.linalg.norm(c.reshape(len(c), -1)[:, place])
        whole[:, place] *= min(1.0, most / np.linalg.norm(whole[:, place]))
    return whole.reshape(c.shape)


def mimic(x, c, u, a, b):  # sd-dynamic-thresholding: mean, absolute deviation, channels apart
    found = []
    for positive, negative in zip(c, u, strict=True):
        whole, lower = negative + W * (positive - negative), negative + 2.5 * (positive - negative)
        spread, largest = whole - whole.mean(), np.abs(lower - lower.mean()).max()
        edge = max(largest, np.quantile(np.abs(spread), 0.9))
        found.append(np.clip(spread, -edge, edge) / edge * largest + whole.mean())
    return np.stack(found)


def skim(x, c, u, a, b):  # Skimmed_CFG, number by number: first the negative prompt's, then the positive one's
    def skimmed(one, other, at):
        whole = other + W * (one - other)
        outward = np.sign(one - other) == np.sign(one) == np.sign(whole) == np.sign(whole - at)
        return one - (whole - (other + 2.5 * (one - other))) / W if outward else one

    found = []
    for at, positive, negative in zip(x.ravel(), c.ravel(), u.ravel(), strict=True):
        lower = skimmed(negative, positive, at)
        found.append(lower + W * (skimmed(positive, lower, at) - lower))
    return np.array(found).reshape(x.shape)


def tag(x, c, u, a, b):  # 2510.04533 Eq. 6, of the Euler step to half the noise; from the step back to the estimate
    whole, unit = u + W * (c - u), x.ravel() / np.linalg.norm(x)
    step = (x - whole) / b * (b / 2 - b)
    along = (unit @ step.ravel() * unit).reshape(x.shape)
    return x - b * (along + 1.4 * (step - along)) / (b / 2 - b)


DENOISED = {
    "pmc": (PMC(limit=1.2), pmc),
    "renorm": (Renorm(longest=1.3), renorm),
    "cfg_norm": (CFGNorm(), cfg_norm),
    "mimic": (Mimic(mimic=2.5, quantile=0.9), mimic),
    "skim": (Skim(skim=2.5), skim),
    "tag": (TAG(eta=1.4), tag),
}


@pytest.mark.parametrize(("rule", "formula"), DENOISED.values(), ids=DENOISED)
def test_of_denoised_estimates(given, rule, formula):
    assert same(guided(given, rule), by_sample(given, formula), 1e-9)


def test_zero_init_is_no_velocity_in_the_first_steps_of_a_flow():
    given = replace(case(CFG()), level=IN_FLOW)
    step = {"evaluate": given.predictions.__getitem__, "x": given.x, "level": given.level, "sampler": W}
    rule = Guidance((ZeroInit(zero_steps=2), CFGZero()))
    for position in (1, 2):
        assert same((given.x - rule.denoise(**step, position=position)), torch.zeros(3, *SHAPE, dtype=torch.float64))
    assert torch.equal(rule.denoise(**step, position=3), given.guide(Guidance((CFG(W), CFGZero()))))


def test_zero_init_stands_still_on_the_same_path_in_every_coordinates():
    """The same noisy picture in VE coordinates is x / (1 - t); a step with D' goes where a flow's stays."""
    x, t, after = case(CFG()).x, IN_FLOW.b, IN_FLOW.b / 2
    sigma, then = t / (1 - t), after / (1 - after)
    at = (x / (1 - t).reshape(-1, 1, 1, 1), NoiseLevel.variance_exploding(sigma))
    still = Guidance((ZeroInit(),)).denoise(lambda branch: x, *at, position=1)
    slope = (at[0] - still) / sigma.reshape(-1, 1, 1, 1)
    moved = at[0] + slope * (then - sigma).reshape(-1, 1, 1, 1)
    assert same(moved * (1 - after).reshape(-1, 1, 1, 1), x)


@pytest.mark.parametrize("size", [(8, 16), (16, 4), (32, 32)])
def test_coarse_is_kornias_pyramid(size):
    from kornia.geometry.transform import pyrdown, pyrup

    picture = torch.randn(2, 3, *size, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    torch.testing.assert_close(coarse(picture), pyrup(pyrdown(picture)))


@pytest.mark.parametrize("shape", [(8, 16), (5, 7), (1, 3), (2, 2)])
def test_fdg_combines_every_level_at_its_own_weight(shape):
    """2506.19713 Algorithm 1: a pyramid of either prediction, guided level by level, put together again."""
    given = case(CFG(), shape=(3, *shape))
    low, high = 1 + (W - 1) * 0.3, 1 + (W - 1) * 1.5
    c, u = given.predictions[POSITIVE], given.predictions[NEGATIVE]
    fine = (c - coarse(c)) * high - (u - coarse(u)) * (high - 1)
    expected = fine + coarse(c) * low - coarse(u) * (low - 1)
    assert same(guided(given, FDG(low=0.3, high=1.5)), expected)
    assert same(guided(given, FDG(low=1.0, high=1.0)), guided(given, FDG(amount=0.0)))


def test_coarse_reads_time_in_sound_and_every_frame_of_a_video():
    sound = torch.randn(1, 2, 9, dtype=torch.float64)
    torch.testing.assert_close(coarse(sound), coarse(sound[:, :, None])[:, :, 0])
    assert torch.equal(coarse(torch.ones(1, 2, 3, 4, 5)), torch.ones(1, 2, 3, 4, 5))


@pytest.mark.parametrize("coordinates", COORDINATES)
def test_momentum_goes_away_from_the_average_velocity(coordinates):
    """2602.20360 Algorithm 1 over four steps of three samples, in numpy."""
    rule, memory, average = Guidance((CFG(W), Momentum(push=0.7, memory=0.4))), Memory(), None
    for position in range(1, 5):
        given = replace(case(CFG(), seed=position), level=COORDINATES[coordinates])
        memory.move_to(position)
        b = given.level.b.reshape(-1, 1, 1, 1).numpy()
        velocity = (given.x - given.guide(Guidance((CFG(W),)))).numpy() / b
        average = velocity if average is None else average
        expected = given.x.numpy() - b * (velocity + 0.7 * (velocity - average))
        average = 0.6 * velocity + 0.4 * average
        assert same(given.guide(rule, memory), torch.from_numpy(expected))


def higs(estimate, average, t):  # 2509.22300 Eq. 6 to 8, with scipy's cosine transform, sample by sample
    delta = estimate - average
    along = np.vdot(delta, estimate) / np.vdot(estimate, estimate) * estimate
    shares = [np.arange(n) / n for n in estimate.shape[1:]]
    radius = np.sqrt(sum(s**2 for s in np.meshgrid(*shares, indexing="ij")))
    spectrum = dctn(delta - along + 0.3 * along, norm="ortho", axes=(1, 2)) / (1 + np.exp(-50 * (radius - 0.2)))
    weight = 2.0 * math.sqrt((t - 0.25) / (0.8 - 0.25)) if 0.25 < t <= 0.8 else 0.0
    return estimate + weight * idctn(spectrum, norm="ortho", axes=(1, 2))


@pytest.mark.parametrize("coordinates", COORDINATES)
def test_higs_goes_away_from_the_average_estimate_in_fine_detail(coordinates):
    rule = HiGS(history=2.0, recent=0.6, along=0.3, cutoff=0.2, from_noise=0.8, to_noise=0.25)
    level = COORDINATES[coordinates]
    shares, memory, average = (level.b / (level.a + level.b)).tolist(), Memory(), 0.0
    for position in range(1, 5):
        given = replace(case(CFG(), seed=position), level=level)
        memory.move_to(position)
        whole = given.guide(Guidance((CFG(W),))).numpy()
        expected = whole if position == 1 else [higs(*row) for row in zip(whole, average, shares, strict=True)]
        average = 0.6 * whole + 0.4 * average
        assert same(given.guide(Guidance((CFG(W), rule)), memory), torch.from_numpy(np.stack(expected)))


def test_perp_neg_is_its_paper_s_equation(given):
    """2304.04968 Eq. 8: the negative prompt's direction less its projection, both from the empty prompt."""
    rule = PerpNeg(neg_scale=1.7)
    given = replace(case(rule), level=given.level)
    expected = []
    for row in range(3):
        c, n, e = (given.predictions[b][row].double().numpy() for b in (POSITIVE, NEGATIVE, EMPTY))
        unit = (c - e).ravel() / np.linalg.norm(c - e)
        across = (n - e) - (unit @ (n - e).ravel() * unit).reshape(n.shape)
        expected.append(e + W * ((c - e) - 1.7 * across))
    assert same(guided(given, rule), torch.from_numpy(np.stack(expected)), 1e-9)


def sampled(coordinates, rules, sampler, step):
    """Three samples down six noise levels, each step by `step(x, branches, guided, level, after)`."""
    make = NoiseLevel.flow if coordinates == "flow" else NoiseLevel.variance_exploding
    first = 1.0 if coordinates == "flow" else 20.0
    ladder = [make(torch.full((3,), first * (1 - i / 6) ** 2, dtype=torch.float64)) for i in range(7)]
    x, guidance, memory = case(CFG()).x * first, Guidance(rules), Memory()
    for position, (level, after) in enumerate(zip(ladder, ladder[1:], strict=False), 1):
        memory.move_to(position)
        branches = {POSITIVE: torch.sin(x) + 0.3, NEGATIVE: torch.cos(1.3 * x)}
        denoised = guidance.denoise(
            branches.__getitem__, x, level, sampler, memory, position=position, following=after
        )
        x = step(x, branches, denoised, *(float(n[0]) for n in (level.a, level.b, after.a, after.b)))
    return x


def euler(x, branches, denoised, a, b, a_after, b_after):
    return x + (x - denoised) / b * (b_after - b)


def cfg_plus_plus(x, branches, denoised, a, b, a_after, b_after):
    """2406.08070 Algorithm 2: combine at 0.6, and add back the noise that the negative prompt sees."""
    combined = branches[NEGATIVE] + 0.6 * (branches[POSITIVE] - branches[NEGATIVE])
    return a_after * combined + b_after * (x - a * branches[NEGATIVE]) / b


@pytest.mark.parametrize("sampler", [1.0, 7.0])
@pytest.mark.parametrize("coordinates", COORDINATES)
def test_cfg_plus_plus_takes_the_steps_of_its_algorithm_under_euler(coordinates, sampler):
    ours = sampled(coordinates, (CFGPlusPlus(share=0.6),), sampler, euler)
    assert same(ours, sampled(coordinates, (), sampler, cfg_plus_plus), 1e-9)


SHAPES = {name: cls for name, cls in rules().items() if issubclass(cls, Shape)}


@pytest.mark.parametrize("cls", SHAPES.values(), ids=SHAPES)
def test_half_an_amount_is_half_way(cls):
    given = case(cls())
    guides = [given.guide(replace(cls(), amount=amount)) for amount in (0.0, 0.5, 1.0)]
    assert same(guides[1], (guides[0] + guides[2]) / 2, 1e-11)


@pytest.mark.parametrize("cls", SHAPES.values(), ids=SHAPES)
def test_the_negative_prompt_is_asked_for_where_cfg_asks_for_it(cls):
    """At cfg 1 no shape wants the negative prompt but CFG++, which needs it by its nature."""
    level, off = levels(*SIGMAS), torch.ones(3, dtype=torch.float64)
    rule = cls()
    asked = rule.needs(0, False) if rule.acts(rule.strength(level), off) else frozenset()
    assert (NEGATIVE in asked) == (cls is CFGPlusPlus)


def test_autoguidance_is_added_beside_a_shape():
    given = case(Autoguidance(2.0))
    auto, shape = Autoguidance(2.0), TCFG()
    both, alone = given.guide(Guidance((auto, shape))), given.guide(Guidance((shape,)))
    assert same(both - alone, given.guide(Guidance((auto,))) - given.guide(Guidance()), 1e-11)
    assert CFG_WEIGHT != 1.0
