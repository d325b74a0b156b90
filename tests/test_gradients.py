"""Classifier and loss guidance on a mixture of Gaussians, where classifier, denoiser and posterior are known exactly.

Everything goes through `Guidance.denoise` with a gradient context, as in the host. Formulas: 2105.05233,
Algorithms 1 and 2.
"""

import math
from dataclasses import dataclass, replace
from typing import ClassVar

import pytest
import torch
from cases import asked
from gradient_context import Lent
from oracle import FIVE, points

from guidance_pack.guidance.branch import POSITIVE
from guidance_pack.guidance.compose import Guidance
from guidance_pack.guidance.cutouts import Cutouts
from guidance_pack.guidance.guide import Guide, GuideSpec
from guidance_pack.guidance.loss import Loss
from guidance_pack.guidance.losses.cross_entropy import CrossEntropy
from guidance_pack.guidance.losses.embedding import Embedding
from guidance_pack.guidance.losses.mse import MeanSquared
from guidance_pack.guidance.noise_level import NoiseLevel, change_coordinates, expand, mean_shift
from guidance_pack.guidance.noise_schedule import noise_schedule
from guidance_pack.guidance.objective import Objective, gradient, scores
from guidance_pack.guidance.preprocessing import Preprocessing
from guidance_pack.guidance.routing import Experts
from guidance_pack.guidance.rules.gradient import GradientGuidance
from guidance_pack.guidance.schedule import Constant, Interval
from guidance_pack.guidance.seeds import generator_of

EXACT = {"rtol": 0.0, "atol": 1e-11}
COORDINATES = {
    "ve": NoiseLevel.variance_exploding,
    "vp": lambda sigma: NoiseLevel.variance_preserving(1 / (1 + sigma**2)),
    "flow": lambda sigma: NoiseLevel.flow(sigma / (1 + sigma)),
}
LINEAR = noise_schedule("linear")
CLASS_0 = torch.tensor([[1.0, 0.0]], dtype=torch.float64)
IN_VE = COORDINATES["ve"]


def classify(x_vp, timestep):
    """The mixture's own noise-aware classifier: logits [B, 2] of pictures in VP coordinates."""
    sigma = torch.tensor([LINEAR.sigma(float(t)) for t in timestep], dtype=torch.float64)
    x = x_vp * (1 + sigma**2).sqrt()[:, None]
    return torch.stack([FIVE.log_posterior(x, sigma, label) for label in (0, 1)], 1)


AWARE = GuideSpec("the exact classifier", "classification", "latent", "timestep", schedule=LINEAR)
CLASSIFY = Objective(CrossEntropy(), "noisy input", Guide((AWARE,)), words="class 0")


@dataclass(frozen=True)
class Pull(Loss):
    """L = - <w, x>: the same pull everywhere."""

    name: ClassVar[str] = "pull"
    title: ClassVar[str] = "pull"
    reads: ClassVar[frozenset] = frozenset({"picture"})

    def compare(self, output, target):
        return -(output * target).flatten(1).sum(1)


def rule(objective=CLASSIFY, scale=1.0, **settings):
    return GradientGuidance(scale, objective=objective, **settings)


def lent(**settings):
    return Lent(**{"networks": [classify], "wanted": CLASS_0, **settings})


def guide(x, level, guidance, context, **place):
    """D and D', with the mixture as the denoiser. x: in the coordinates of the level."""
    ve = NoiseLevel.variance_exploding(level.sigma)
    denoised = FIVE.denoised(change_coordinates(x, level, ve), level.sigma)
    rules = guidance if isinstance(guidance, tuple) else (guidance,)
    return denoised, Guidance(rules).denoise(lambda branch: denoised, x, level, gradient_context=context, **place)


def posterior_slope(x, sigma, label=0):
    """g_ve: the gradient of log p(label | x) in VE coordinates."""
    x = x.clone().requires_grad_()
    return torch.autograd.grad(FIVE.log_posterior(x, sigma, label).sum(), x)[0]


def scene(coordinates, sigma=0.7, count=64):
    """Points in some coordinates: x_ve, sigma, x, level."""
    x, sigma = points(count, sigma)
    level = COORDINATES[coordinates](sigma)
    return x, sigma, change_coordinates(x, NoiseLevel.variance_exploding(sigma), level), level


GOLDEN = {
    "ve": (0.2832202276, 0.0183245843),
    "vp": (0.3457143460, 0.0223680058),
    "flow": (0.4814743869, 0.0311517933),
}


@pytest.mark.parametrize("coordinates", COORDINATES)
def test_golden_values(coordinates):
    sigma = torch.tensor([0.7], dtype=torch.float64)
    level = COORDINATES[coordinates](sigma)
    x = expand(level.a, CLASS_0) * torch.tensor([[1.0, -0.5]], dtype=torch.float64)
    denoised, guided = guide(x, level, rule(scale=2.0), lent())
    found = gradient(CLASSIFY, x, denoised, level, 0, lent())
    assert found[0].tolist() == pytest.approx(GOLDEN[coordinates], abs=1e-10)
    assert guided[0].tolist() == pytest.approx((0.8235292932, -0.4203845703), abs=2e-10)


@pytest.mark.many
@pytest.mark.parametrize("sigma", [0.05, 0.7, 20.0])
@pytest.mark.parametrize("coordinates", COORDINATES)
def test_the_score_is_shifted(coordinates, sigma):
    """D' = D + s sigma^2 g_ve in every family's coordinates; at s = 1 it is the denoiser of the class."""
    x_ve, sigma, x, level = scene(coordinates, sigma)
    pull = sigma[:, None] ** 2 * posterior_slope(x_ve, sigma)
    for scale in (1.0, 3.5, -2.0):
        denoised, guided = guide(x, level, rule(scale=scale), lent())
        torch.testing.assert_close(guided, denoised + scale * pull, rtol=1e-9, atol=1e-9)
    _, guided = guide(x, level, rule(), lent())
    torch.testing.assert_close(guided, FIVE.only(0).denoised(x_ve, sigma), rtol=1e-9, atol=1e-9)


def test_the_shift_in_eps_and_in_velocities():
    """eps' = eps - sqrt(1 - ab) s g_vp;  VP v' = v - sigma s g_vp;  flow v' = v - s t / (1 - t) g_t"""
    scale = 1.7
    x_ve, sigma, _, _ = scene("ve")
    g_ve = posterior_slope(x_ve, sigma)
    root = (1 + sigma**2).sqrt()[:, None]
    t = (sigma / (1 + sigma))[:, None]
    shifts = {
        "eps": sigma[:, None] / root * scale * g_ve * root,
        "v": sigma[:, None] * scale * g_ve * root,
        "flow": scale * t / (1 - t) * (g_ve / (1 - t)),
    }
    for kind, coordinates in (("eps", "vp"), ("v", "vp"), ("flow", "flow")):
        _, _, x, level = scene(coordinates)
        a, b = expand(level.a, x), expand(level.b, x)
        denoised, guided = guide(x, level, rule(scale=scale), lent())
        outputs = []
        for estimate in (denoised, guided):
            noise = (x - a * estimate) / b
            outputs.append({"eps": noise, "v": a * noise - b * estimate, "flow": noise - estimate}[kind])
        torch.testing.assert_close(outputs[1], outputs[0] - shifts[kind], rtol=0, atol=1e-10)


def through(sigma, level):
    """The mixture's denoiser as the host lends it, in the coordinates of the level."""
    ve = NoiseLevel.variance_exploding(sigma)
    return lambda x: FIVE.denoised(change_coordinates(x, level, ve), sigma)


def test_the_oracle_s_covariance_is_the_denoiser_s_slope():
    """dD/dx = Cov[x0 | x] / sigma^2 in VE coordinates."""
    x, sigma = points(8)
    slope = torch.autograd.functional.jacobian(lambda at: FIVE.denoised(at, sigma).sum(0), x).movedim(1, 0)
    torch.testing.assert_close(FIVE.covariance(x, sigma), slope * sigma[:, None, None] ** 2, **EXACT)


@pytest.mark.parametrize("coordinates", COORDINATES)
def test_through_the_denoiser_the_step_is_the_posterior_covariance(coordinates):
    """D' = D + s (b^2/a) J^T g = D + s Cov[x0 | x] g for a pull g at the denoised estimate."""
    x_ve, sigma, x, level = scene(coordinates)
    target = torch.tensor([[0.3, -1.2]], dtype=torch.float64)
    context = Lent(wanted=target, denoiser=through(sigma, level))
    denoised, guided = guide(x, level, rule(Objective(MeanSquared(), "through denoiser"), 1.5), context)
    pull = -(denoised - target)  # of - mean over 2 elements of (D - t)^2
    expected = denoised + 1.5 * torch.einsum("bij,bj->bi", FIVE.covariance(x_ve, sigma), pull)
    torch.testing.assert_close(guided, expected, **EXACT)


@pytest.mark.parametrize("coordinates", COORDINATES)
def test_at_the_denoised_estimate_the_step_is_that_of_unit_data(coordinates):
    """D' = D + s b^2 / (a^2 + b^2) g(D), which is sigma^2 / (1 + sigma^2) in every family."""
    _, sigma, x, level = scene(coordinates)
    target = torch.tensor([[0.3, -1.2]], dtype=torch.float64)
    denoised, guided = guide(x, level, rule(Objective(MeanSquared(), "denoised"), 1.5), Lent(wanted=target))
    share = (sigma**2 / (1 + sigma**2))[:, None]
    torch.testing.assert_close(guided, denoised - 1.5 * share * (denoised - target), **EXACT)


def test_a_clean_guide_sees_the_denoised_estimate_itself():
    x_ve, sigma, x, level = scene("flow")
    small = torch.full_like(sigma, 0.3)
    clean = GuideSpec("clean", "classification", "latent")

    def network(x0, timestep):
        return torch.stack([FIVE.log_posterior(x0, small[: len(x0)], label) for label in (0, 1)], 1)

    objective = Objective(CrossEntropy(), "denoised", Guide((clean,)))
    denoised, guided = guide(x, level, rule(objective, 2.0), lent(networks=[network]))
    pull = (sigma**2 / (1 + sigma**2))[:, None] * posterior_slope(denoised, small)
    torch.testing.assert_close(guided, denoised + 2.0 * pull, **EXACT)


def ddim_timesteps():
    return list(range(960, -1, -40))


def alpha_bar(timestep):
    return 1.0 if timestep < 0 else 1 / (1 + float(LINEAR.sigmas[timestep]) ** 2)


def test_euler_is_adm_s_guided_ddim():
    """25 guided DDIM steps written out in VP coordinates, against Euler in VE on the same noise levels; no clamp."""
    scale = 1.7
    noise = torch.randn(32, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    x_vp, x_ve = noise, noise * alpha_bar(960) ** -0.5
    for timestep in ddim_timesteps():
        kept, next_kept = alpha_bar(timestep), alpha_bar(timestep - 40)
        sigma, following = math.sqrt(1 / kept - 1), math.sqrt(1 / next_kept - 1)
        sigmas = torch.full((32,), sigma, dtype=torch.float64)
        # the reference, all in VP
        x0 = FIVE.denoised(x_vp / kept**0.5, sigmas)
        eps = (x_vp - kept**0.5 * x0) / (1 - kept) ** 0.5
        g_vp = posterior_slope(x_vp / kept**0.5, sigmas) / kept**0.5
        eps = eps - (1 - kept) ** 0.5 * scale * g_vp
        x0 = (x_vp - (1 - kept) ** 0.5 * eps) / kept**0.5
        x_vp = next_kept**0.5 * x0 + (1 - next_kept) ** 0.5 * eps
        # a k-diffusion sampler with the rule
        _, guided = guide(x_ve, IN_VE(sigmas), rule(scale=scale), lent())
        x_ve = x_ve + (following - sigma) * (x_ve - guided) / sigma
        torch.testing.assert_close(x_ve * next_kept**0.5, x_vp, rtol=1e-8, atol=1e-8)


def respaced(steps, index):
    """alpha_bar of a step of a respaced schedule and of the step after it."""
    timesteps = [round(i * 999 / (steps - 1)) for i in range(steps)]
    return alpha_bar(timesteps[index]), alpha_bar(timesteps[index - 1] if index else -1)


def vp_levels(kept, next_kept, count=1):
    return [NoiseLevel.variance_preserving(torch.full((count,), v, dtype=torch.float64)) for v in (kept, next_kept)]


@pytest.mark.slow
def test_the_mean_shift_s_share_of_the_score_shift():
    assert float(mean_shift(*vp_levels(*respaced(250, 120)))) == pytest.approx(0.97677, abs=5e-6)
    medians = {1000: 0.992, 250: 0.969, 100: 0.924, 25: 0.720}
    for steps, expected in medians.items():
        shares = [float(mean_shift(*vp_levels(*respaced(steps, i)))) for i in range(steps)]
        assert sorted(shares)[steps // 2] == pytest.approx(expected, abs=2e-3)


@pytest.mark.parametrize(("steps", "index"), [(250, 120), (25, 12), (25, 1), (25, 0)])
def test_an_ancestral_step_with_the_mean_shift_is_ddpm_s(steps, index):
    """mu + Sigma s grad with the posterior variance (2105.05233 Algorithm 1) against k-diffusion's ancestral step."""
    kept, next_kept = respaced(steps, index)
    beta = 1 - kept / next_kept
    variance = beta * (1 - next_kept) / (1 - kept)
    sigma, following = math.sqrt(1 / kept - 1), math.sqrt(1 / next_kept - 1)
    x, sigmas = points(32, sigma)
    # the reference, all in VP
    x0, x_vp = FIVE.denoised(x, sigmas), x * kept**0.5
    mean = beta * next_kept**0.5 / (1 - kept) * x0 + (1 - next_kept) * (1 - beta) ** 0.5 / (1 - kept) * x_vp
    mean = mean + variance * 2.5 * posterior_slope(x, sigmas) / kept**0.5
    # k-diffusion
    up = math.sqrt(following**2 * (sigma**2 - following**2) / sigma**2)
    down = math.sqrt(following**2 - up**2)
    after = IN_VE(torch.full_like(sigmas, following))
    _, guided = guide(x, IN_VE(sigmas), rule(scale=2.5, mean_shift=True), lent(), following=after)
    torch.testing.assert_close((guided + (x - guided) * down / sigma) * next_kept**0.5, mean, rtol=0, atol=1e-9)
    assert up * next_kept**0.5 == pytest.approx(math.sqrt(variance), abs=1e-9), "it adds other noise"


def test_the_mean_shift_without_a_following_level_is_the_score_shift():
    _, _, x, level = scene("flow")
    assert torch.equal(guide(x, level, rule(mean_shift=True), lent())[1], guide(x, level, rule(), lent())[1])


def test_several_classes_with_weights():
    x, sigma, _, level = scene("ve")
    context = lent(wanted=torch.tensor([[0.7, 0.3]], dtype=torch.float64))
    denoised, guided = guide(x, level, rule(), context)
    slope = 0.7 * posterior_slope(x, sigma, 0) + 0.3 * posterior_slope(x, sigma, 1)
    torch.testing.assert_close(guided, denoised + sigma[:, None] ** 2 * slope, rtol=0, atol=1e-10)


def test_several_targets_are_dealt_to_the_samples_in_turn():
    x, _ = points(5)
    sigma = torch.tensor([0.3, 2.0, 0.4, 0.5, 3.0], dtype=torch.float64)
    slopes = [posterior_slope(x, sigma, label) for label in (0, 1)]
    expected = torch.stack([slopes[i % 2][i] for i in range(5)]) * sigma[:, None] ** 2
    for objective in (CLASSIFY, TWO):
        context = lent(networks=[classify, classify], wanted=torch.eye(2, dtype=torch.float64))
        denoised, guided = guide(x, IN_VE(sigma), rule(objective), context)
        torch.testing.assert_close(guided, denoised + expected, rtol=1e-9, atol=1e-9)


TWO = replace(CLASSIFY, guide=Guide((AWARE, replace(AWARE, name="the other")), Experts((1.0,))))


def other(x_vp, timestep):
    """An expert of another opinion."""
    return 0.5 * classify(x_vp, timestep)


@pytest.mark.many
@pytest.mark.parametrize("at", ["noisy input", "denoised", "through denoiser"])
@pytest.mark.parametrize("settings", [{}, {"cap": 0.1}, {"normalise": True}, {"mean_shift": True}], ids=str)
@pytest.mark.parametrize("coordinates", COORDINATES)
def test_a_batch_of_three_is_three_of_one(at, settings, coordinates):
    """At three noise levels that belong to two experts."""
    x_ve, _ = points(3)
    sigma = torch.tensor([6.0, 0.99, 0.05], dtype=torch.float64)
    level, after = COORDINATES[coordinates](sigma), COORDINATES[coordinates](0.5 * sigma)
    x = change_coordinates(x_ve, NoiseLevel.variance_exploding(sigma), level)
    acting = rule(replace(TWO, at=at), 2.0, **settings)

    def run(rows):
        mine = level[rows]
        context = lent(networks=[classify, other], denoiser=through(mine.sigma, mine))
        return guide(x[rows], mine, acting, context, position=4, following=after[rows])[1]

    alone = torch.cat([run(torch.tensor([i])) for i in range(3)])
    torch.testing.assert_close(run(torch.arange(3)), alone, **EXACT)


def test_only_the_expert_in_charge_is_evaluated():
    x, _ = points(4)
    context = lent(networks=[classify, other])
    sigma = torch.tensor([6.0, 0.3, 1.0, 2.0], dtype=torch.float64)
    denoised, guided = guide(x, IN_VE(sigma), rule(TWO), context)
    assert context.asked == [(0, 1), (1, 3)]
    low = x.clone().requires_grad_()
    opinion = torch.tensor([[0.5], [1.0], [0.5], [0.5]], dtype=torch.float64)
    logits = opinion * torch.stack([FIVE.log_posterior(low, sigma, label) for label in (0, 1)], 1)
    values = logits.log_softmax(1)[:, 0]
    slope = torch.autograd.grad(values.sum(), low)[0]
    torch.testing.assert_close(guided, denoised + sigma[:, None] ** 2 * slope, rtol=1e-9, atol=1e-9)
    clean = lent(networks=[classify, other])
    guide(x, IN_VE(torch.full((4,), 0.2)), rule(TWO), clean)
    assert clean.asked == [(0, 4)], "the expert that is not in charge was evaluated"


@pytest.mark.slow
def test_a_smooth_hand_over_is_continuous_and_a_hard_one_is_not():
    x, _ = points(1)
    logs = torch.linspace(-0.5, 0.5, 401, dtype=torch.float64)

    def jump(handover):
        objective = replace(TWO, guide=replace(TWO.guide, experts=Experts((1.0,), handover)))
        pushes = []
        for log in logs:
            denoised, guided = guide(x, IN_VE(log.exp()[None]), rule(objective), lent(networks=[classify, other]))
            pushes.append(guided - denoised)
        return float(torch.cat(pushes).diff(dim=0).norm(dim=1).max())

    assert jump(0.6) < 0.05 * jump(0.0)


def test_during_a_hand_over_both_experts_share():
    x, sigma = points(8, 1.0)
    both = replace(TWO, guide=replace(TWO.guide, experts=Experts((1.0,), 0.6)))
    context = lent(networks=[classify, other])
    denoised, guided = guide(x, IN_VE(sigma), rule(both), context)
    single = [guide(x, IN_VE(sigma), rule(), lent(networks=[network]))[1] for network in (classify, other)]
    torch.testing.assert_close(guided, (single[0] + single[1]) / 2, **EXACT)
    assert context.asked == [(0, 8), (1, 8)]


RENOISED = replace(CLASSIFY, at="denoised", seed=11)


def test_a_noise_aware_guide_sees_the_denoised_estimate_with_noise():
    """g = sqrt(ab) g_vp at sqrt(ab) D + sqrt(1 - ab) n, one n for the whole batch."""
    _, sigma, x, level = scene("flow")
    denoised, guided = guide(x, level, rule(RENOISED, 1.3), lent(), position=5)
    noise = torch.randn(2, generator=generator_of(11, 5)).double()
    # sqrt(ab) D + sqrt(1 - ab) n in VE coordinates is D + sigma n
    slope = posterior_slope(denoised + sigma[:, None] * noise, sigma)
    share = (sigma**2 / (1 + sigma**2))[:, None]
    torch.testing.assert_close(guided, denoised + 1.3 * share * slope, **EXACT)


def test_the_added_noise_can_be_drawn_again():
    _, _, x, level = scene("ve")

    def run(objective, position):
        torch.manual_seed(position)
        return guide(x, level, rule(objective), lent(), position=position)[1]

    first = run(RENOISED, 3)
    torch.rand(7)
    assert torch.equal(run(RENOISED, 3), first)
    assert not torch.allclose(run(RENOISED, 4), first)
    assert not torch.allclose(run(replace(RENOISED, seed=12), 3), first)
    assert torch.isfinite(run(replace(RENOISED, seed=2**64 - 1), 3)).all(), "the host's largest seed"


def test_a_video_s_score_is_the_mean_of_its_frames():
    """Every frame is judged with the target of its own video."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(2, 3, 4, 5, 6, generator=generator, dtype=torch.float64)
    target = torch.randn(2, 3, 5, 6, generator=generator, dtype=torch.float64)
    level = IN_VE(torch.tensor([2.0, 0.5], dtype=torch.float64))
    objective, context = Objective(MeanSquared(), "denoised"), Lent(wanted=target)
    found = gradient(objective, x, x, level, 0, context)
    frames = [gradient(objective, x[:, :, i], x[:, :, i], level, 0, context) for i in range(4)]
    torch.testing.assert_close(found, torch.stack(frames, 2) / 4, **EXACT)
    score = torch.stack([scores(objective, x[:, :, i], level, 0, context) for i in range(4)]).mean(0)
    torch.testing.assert_close(scores(objective, x, level, 0, context), score, **EXACT)


def pictures(batch=2, size=10):
    return torch.randn(batch, 3, size, size, generator=torch.Generator().manual_seed(4), dtype=torch.float64)


def embed(picture, timestep):
    """A small network of pictures in [0, 1]: vectors [B, 4]."""
    weight = torch.randn(4, 3, 3, 3, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    hidden = torch.tanh(torch.nn.functional.conv2d(picture, weight))
    return torch.stack([hidden.mean((2, 3)), hidden.square().mean((2, 3))]).sum(0)


EMBEDDER = GuideSpec("embedder", "embedding", preprocessing=Preprocessing((8, 8), mean=(0.5,) * 3, std=(0.2,) * 3))
WORDS = torch.tensor([[1.0, -0.3, 0.2, 0.5]], dtype=torch.float64)


@pytest.mark.many
@pytest.mark.parametrize("cutouts", [None, Cutouts(3, seed=2, size=6)], ids=["whole", "cutouts"])
@pytest.mark.parametrize("at", ["noisy input", "denoised", "through denoiser"])
@pytest.mark.parametrize("sees", ["clean", "noisy"])
def test_the_gradient_equals_finite_differences(at, sees, cutouts):
    """Of the score itself, through preprocessing, cutouts, added noise, decoder and denoiser."""
    objective = Objective(Embedding(), at, Guide((replace(EMBEDDER, sees=sees),)), cutouts, seed=1)
    level = COORDINATES["flow"](torch.tensor([3.0, 0.4], dtype=torch.float64))
    x = pictures()
    denoise = lambda at: torch.tanh(at) * at.roll(1, -1)  # noqa: E731
    decode = lambda latent: 1.5 * latent + 0.1 * latent.roll(1, -2) ** 2  # noqa: E731
    context = Lent([embed], WORDS, denoise, decode)
    held = pictures().flip(0)
    found = gradient(objective, x, held, level, 2, context)
    assert not found.requires_grad

    def score(leaf):
        if at == "noisy input":
            return scores(objective, leaf, level, 2, context)
        return scores(objective, decode(denoise(leaf) if at == "through denoiser" else leaf), level, 2, context)

    start, step = held if at == "denoised" else x, 1e-5
    for where in ((0, 0, 3, 3), (1, 2, 5, 4), (1, 1, 4, 6)):
        moved = torch.zeros_like(x)
        moved[where] = step
        numeric = float((score(start + moved) - score(start - moved)).sum()) / (2 * step)
        assert float(found[where]) == pytest.approx(numeric, rel=1e-5, abs=1e-9)


def test_cutouts_are_averaged_and_shared_by_the_batch():
    """All crops of a picture are compared with the picture's own target."""
    cutouts = Cutouts(3, seed=2, size=6)
    objective = Objective(Embedding(), "denoised", Guide((EMBEDDER,)), cutouts)
    level = IN_VE(torch.tensor([1.0, 1.0]))
    words = torch.cat([WORDS, WORDS.flip(1)])
    context = Lent([embed], words)
    found = scores(objective, pictures(), level, 7, context)
    crops = EMBEDDER.prepare(cutouts(pictures(), 7))
    each = -Embedding()(embed(crops, None), words.repeat_interleave(3, 0)).view(2, 3)
    torch.testing.assert_close(found, each.mean(1), **EXACT)
    assert context.asked == [(0, 6)]
    alone = scores(objective, pictures()[1:], level[torch.tensor([1])], 7, Lent([embed], words[1:]))
    torch.testing.assert_close(alone, found[1:], **EXACT)


def test_a_decoder_in_half_precision_does_not_lose_the_gradient():
    """The mean over a picture's 800,000 numbers has slopes of 1e-7, which fp16 rounds to zero."""
    x = 0.3 * torch.randn(1, 3, 512, 512, generator=torch.Generator().manual_seed(0))
    level = IN_VE(torch.tensor([1.0]))
    found, exact = (
        gradient(Objective(MeanSquared(), "denoised"), x, x, level, 0, Lent((), torch.zeros_like(x), None, decoder))
        for decoder in (lambda latent: (0.2 * latent.half()).float(), lambda latent: 0.2 * latent)
    )
    assert float((found - exact).norm() / exact.norm()) < 0.01


def length(push):
    return push.flatten(1).norm(dim=1)


@pytest.mark.parametrize("coordinates", COORDINATES)
def test_the_cap_is_exact(coordinates):
    """At most cap sqrt(1 - ab) per element; shorter pushes are as they were, longer ones keep their direction."""
    _, sigma, x, level = scene(coordinates)
    denoised, free = guide(x, level, rule(scale=2.0), lent())
    limit = 0.1 * (sigma**2 / (1 + sigma**2)).sqrt() * math.sqrt(2)
    _, capped = guide(x, level, rule(scale=2.0, cap=0.1), lent())
    wanted, found = free - denoised, capped - denoised
    long = length(wanted) > limit
    assert 5 < int(long.sum()) < 60
    torch.testing.assert_close(found[~long], wanted[~long], **EXACT)
    torch.testing.assert_close(found[long], wanted[long] * (limit / length(wanted))[long, None], **EXACT)


@pytest.mark.parametrize("coordinates", COORDINATES)
def test_normalised_pushes_have_the_length_of_the_noise_left(coordinates):
    _, sigma, x, level = scene(coordinates)
    denoised, guided = guide(x, level, rule(scale=-0.3, normalise=True), lent())
    expected = 0.3 * (sigma**2 / (1 + sigma**2)).sqrt() * math.sqrt(2)
    torch.testing.assert_close(length(guided - denoised), expected, **EXACT)
    free = guide(x, level, rule(scale=-0.3), lent())[1] - denoised
    cosine = ((guided - denoised) * free).sum(1) / (length(free) * expected)
    torch.testing.assert_close(cosine, torch.ones_like(cosine), rtol=0, atol=1e-9)


@pytest.mark.parametrize("settings", [{}, {"normalise": True}, {"cap": 0.1}, {"normalise": True, "cap": 0.1}], ids=str)
def test_a_gradient_of_zero_moves_nothing(settings):
    _, _, x, level = scene("ve")
    context = Lent(wanted=torch.zeros(1, 2, dtype=torch.float64))
    denoised, guided = guide(x, level, rule(Objective(Pull(), "denoised"), 3.0, **settings), context)
    assert torch.equal(guided, denoised)


@pytest.mark.parametrize("value", [math.inf, math.nan])
def test_a_gradient_that_is_not_finite_stops_in_words(value):
    _, _, x, level = scene("ve")
    context = lent(networks=[lambda picture, timestep: classify(picture, timestep) * value])
    with pytest.raises(FloatingPointError, match="gradient of class 0 is not finite at noise level 0.7.*fp32"):
        guide(x, level, rule(), context)


@pytest.mark.parametrize(
    "quiet",
    [rule(scale=0.0), rule(schedule=Constant(0.0)), rule(schedule=Interval(0.6, 0.1, "sigma_ve"))],
    ids=["scale 0", "schedule 0", "outside its interval"],
)
def test_off_asks_for_nothing(quiet):
    _, _, x, level = scene("ve")
    context = lent()
    denoised, guided = guide(x, level, quiet, context)
    assert torch.equal(guided, denoised) and context.asked == []
    assert asked(quiet, level, torch.ones(64)) == frozenset()
    assert asked(rule(), level, torch.ones(64)) == {POSITIVE}


def test_where_no_signal_is_left_nothing_is_asked():
    """A flow starts at t = 1, where x is noise alone; some schedulers round that to a little less."""
    x = points(2)[0]
    context = lent()
    level = NoiseLevel.flow(torch.tensor([1.0, 1.0 - 2**-24]))
    guided = Guidance((rule(),)).denoise(lambda branch: x, x, level, gradient_context=context)
    assert torch.equal(guided, x) and context.asked == []


@pytest.mark.parametrize("settings", [{}, {"cap": 0.1}, {"normalise": True}, {"mean_shift": True}], ids=str)
def test_a_batch_in_which_one_sample_has_no_signal(settings):
    x = points(2)[0]
    level, after = NoiseLevel.flow(torch.tensor([1.0, 0.4])), NoiseLevel.flow(torch.tensor([0.9, 0.2]))
    guidance = Guidance((rule(**settings),))
    guided = guidance.denoise(lambda branch: x, x, level, gradient_context=lent(), following=after)
    one = torch.tensor([1])
    alone = guidance.denoise(lambda branch: x[1:], x[1:], level[one], gradient_context=lent(), following=after[one])
    assert torch.equal(guided[0], x[0])
    torch.testing.assert_close(guided[1:], alone, **EXACT)


def test_two_guides_add():
    _, _, x, level = scene("ve")
    denoised, first = guide(x, level, rule(scale=2.0), lent())
    _, second = guide(x, level, rule(RENOISED), lent())
    _, both = guide(x, level, (rule(scale=2.0), rule(RENOISED)), lent())
    torch.testing.assert_close(both, first + second - denoised, **EXACT)


def test_the_evaluations_that_each_place_costs():
    _, sigma, x, level = scene("ve")
    for at, denoised in (("noisy input", 0), ("denoised", 0), ("through denoiser", 1)):
        calls = []
        context = lent(denoiser=lambda at, calls=calls: calls.append(1) or through(sigma, level)(at))
        guide(x, level, rule(replace(CLASSIFY, at=at)), context)
        assert (context.asked, len(calls)) == ([(0, 64)], denoised)
