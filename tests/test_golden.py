"""The exact mixture, its published golden values, and the identities between guidance in different coordinates."""

import pytest
import torch
from oracle import FIVE, GUIDE, exact_branches, points

from guidance_pack.guidance.branch import NEGATIVE, POSITIVE
from guidance_pack.guidance.compose import Guidance, split
from guidance_pack.guidance.noise_level import NoiseLevel, change_coordinates, expand
from guidance_pack.guidance.rules.autoguidance import Autoguidance
from guidance_pack.guidance.rules.cfg import CFG

EXACT = {"rtol": 0.0, "atol": 1e-12}
SIGMAS = (0.01, 0.7, 20.0)


def gradient(log_density, x):
    """By autograd, so that closed forms are tested against something else."""
    x = x.clone().requires_grad_()
    return torch.autograd.grad(log_density(x).sum(), x)[0]


def golden_point():
    return torch.tensor([[1.0, -0.5]], dtype=torch.float64), torch.tensor([0.7], dtype=torch.float64)


@pytest.mark.parametrize(
    ("mixture", "expected"),
    [
        (FIVE, (0.5459734701, -0.4383426629)),
        (FIVE.only(0), (0.6847513816, -0.4293636166)),
        (FIVE.only(1), (-0.4452640537, -0.5024765553)),
    ],
    ids=["all", "class 0", "class 1"],
)
def test_golden_denoised(mixture, expected):
    assert mixture.denoised(*golden_point())[0].tolist() == pytest.approx(expected, abs=5e-11)


def test_golden_posterior_and_gradient():
    x, sigma = golden_point()
    assert float(FIVE.log_posterior(x, sigma, 0)) == pytest.approx(-0.1310323847, abs=5e-11)
    found = gradient(lambda at: FIVE.log_posterior(at, sigma, 0), x)[0]
    assert found.tolist() == pytest.approx((0.2832202276, 0.0183245843), abs=5e-11)


def test_golden_cfg():
    x, sigma = golden_point()
    guided = Guidance((CFG(3.0),)).denoise(exact_branches(x, sigma), x, NoiseLevel.variance_exploding(sigma))
    assert guided[0].tolist() == pytest.approx((0.9623072046, -0.4114055240), abs=2e-10)


@pytest.mark.parametrize("sigma", SIGMAS)
def test_closed_forms_of_the_oracle_agree(sigma):
    x, sigma = points(sigma=sigma)
    score = gradient(lambda at: FIVE.log_density(at, sigma), x)
    torch.testing.assert_close(FIVE.score(x, sigma), score, rtol=1e-10, atol=1e-10)
    tweedie = x + sigma[:, None] ** 2 * score  # D = x + sigma^2 grad log p
    torch.testing.assert_close(FIVE.denoised(x, sigma), tweedie, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("weight", [0.0, 0.5, 1.0, 3.0, 7.5])
def test_cfg_on_the_conditional_is_classifier_guidance(weight):
    """CFG w = the unconditional with the classifier at scale w = the conditional with it at scale w - 1."""
    x, sigma = points()
    level = NoiseLevel.variance_exploding(sigma)
    pull = sigma[:, None] ** 2 * gradient(lambda at: FIVE.log_posterior(at, sigma, 0), x)
    guided = Guidance((CFG(weight),)).denoise(exact_branches(x, sigma), x, level)
    torch.testing.assert_close(guided, FIVE.denoised(x, sigma) + weight * pull, **EXACT)
    torch.testing.assert_close(guided, FIVE.only(0).denoised(x, sigma) + (weight - 1) * pull, **EXACT)


@pytest.mark.parametrize("weight", [0.5, 2.0, 4.0])
def test_autoguidance_has_the_score_of_the_density_ratio(weight):
    """D_w = x + sigma^2 grad log [p_guide (p_main / p_guide)^w]      2406.02507 Eq. 3"""
    x, sigma = points()
    evaluate = exact_branches(x, sigma)
    main, weak = FIVE.only(0), FIVE.only(0).blurred(0.2)

    def log_density(at):
        return (1 - weight) * weak.log_density(at, sigma) + weight * main.log_density(at, sigma)

    guided = Guidance((Autoguidance(weight),)).denoise(evaluate, x, NoiseLevel.variance_exploding(sigma))
    torch.testing.assert_close(guided, x + sigma[:, None] ** 2 * gradient(log_density, x), **EXACT)


def predictions(kind, level, denoised, x):
    """What a network of this kind would have predicted: affine in the denoised at a fixed noisy input."""
    a, b = expand(level.a, x), expand(level.b, x)
    noise = (x - a * denoised) / b
    return {"x0": denoised, "eps": noise, "v": a * noise - b * denoised, "flow": noise - denoised}[kind]


@pytest.mark.parametrize("weight", [0.0, 2.0, 4.5])
@pytest.mark.parametrize("kind", ["x0", "eps", "v", "flow"])
def test_guidance_is_the_same_in_every_parametrisation(kind, weight):
    """Combining predictions and combining what is denoised are one thing, as the weights sum to 1."""
    x, sigma = points()
    ve = NoiseLevel.variance_exploding(sigma)
    own_levels = {"v": NoiseLevel.variance_preserving(ve.alpha_bar), "flow": NoiseLevel.flow(sigma / (1 + sigma))}
    level = own_levels.get(kind, ve)
    evaluate = exact_branches(x, sigma)
    own = change_coordinates(x, ve, level)
    main, guide = (predictions(kind, level, evaluate(branch), own) for branch in (POSITIVE, GUIDE))
    guided = Guidance((Autoguidance(weight),)).denoise(evaluate, own, level)
    torch.testing.assert_close(
        predictions(kind, level, guided, own), guide + weight * (main - guide), rtol=0, atol=1e-11
    )


@pytest.mark.parametrize("mix", [0.0, 0.3, 0.5, 1.0])
@pytest.mark.parametrize("total", [1.0, 2.5, 6.0])
def test_both_forms_of_cfg_with_autoguidance(total, mix):
    """D + (w - 1)[(1 - m)(D - D_n) + m (D - D_g)] = w D + (1 - w)[(1 - m) D_n + m D_g]      2406.02507 Eq. 6"""
    x, sigma = points()
    evaluate = exact_branches(x, sigma)
    main, negative, guide = (evaluate(branch) for branch in (POSITIVE, NEGATIVE, GUIDE))
    cfg, auto = split(total, mix)
    rules = (CFG(cfg), Autoguidance(auto))
    guided = Guidance(rules).denoise(evaluate, x, NoiseLevel.variance_exploding(sigma))
    torch.testing.assert_close(guided, total * main + (1 - total) * ((1 - mix) * negative + mix * guide), **EXACT)


@pytest.mark.parametrize("mix", [-0.1, 1.1, float("nan")])
def test_a_mix_out_of_range_is_refused(mix):
    with pytest.raises(ValueError, match="mix is .*0 .*1"):
        split(2.0, mix)


@pytest.mark.parametrize("sigma", SIGMAS)
def test_coordinates_of_all_families_agree(sigma):
    """One picture and its noise, written in VE, VP and flow, is carried from each to each."""
    clean, sigma = points(sigma=sigma)
    noise = torch.randn(clean.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    ve = NoiseLevel.variance_exploding(sigma)
    levels = (ve, NoiseLevel.variance_preserving(ve.alpha_bar), NoiseLevel.flow(sigma / (1 + sigma)))
    noisy = [expand(level.a, clean) * clean + expand(level.b, clean) * noise for level in levels]
    for source, x in zip(levels, noisy, strict=True):
        torch.testing.assert_close(source.sigma, sigma, rtol=1e-10, atol=0)
        torch.testing.assert_close(source.snr, sigma**-2, rtol=1e-10, atol=0)
        torch.testing.assert_close(source.alpha_bar, 1 / (1 + sigma**2), rtol=1e-10, atol=0)
        for target, expected in zip(levels, noisy, strict=True):
            torch.testing.assert_close(change_coordinates(x, source, target), expected, rtol=1e-9, atol=1e-9)


def test_golden_flow_time():
    """sigma .7 is t = .4117647059 in flow coordinates."""
    level = NoiseLevel.flow(torch.tensor([0.4117647059], dtype=torch.float64))
    assert float(level.sigma) == pytest.approx(0.7, abs=1e-9)


def test_the_noise_scale_of_a_flow():
    level = NoiseLevel.flow(torch.tensor([0.25, 0.5]), noise_scale=2.0)
    assert level.sigma.tolist() == pytest.approx([2 / 3, 2.0])


def test_pure_noise_has_infinite_sigma_and_no_signal():
    level = NoiseLevel.flow(torch.tensor([1.0]))
    assert (level.sigma.tolist(), level.snr.tolist(), level.alpha_bar.tolist()) == ([float("inf")], [0.0], [0.0])


def test_coefficients_are_exact_and_stay_on_the_cpu():
    level = NoiseLevel.variance_exploding(torch.tensor([0.5, 14.614643], dtype=torch.float32))
    assert (level.b.dtype, level.b.device.type, level.b.shape) == (torch.float64, "cpu", (2,))


@pytest.mark.parametrize(("a", "b"), [((2,), (3,)), ((), ()), ((2, 1), (2, 1))])
def test_a_level_wants_one_pair_per_sample(a, b):
    with pytest.raises(ValueError, match=r"one \(a, b\) pair per sample"):
        NoiseLevel(torch.ones(a), torch.ones(b))
