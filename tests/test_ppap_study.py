"""The parts of the PPAP study, and the embedded banks that it made."""

import itertools
import sys
from dataclasses import replace

import pytest
import torch
from conftest import ROOT
from torch import nn

sys.path.append(str(ROOT / "benchmarks"))

from ppap import BANKS, MAIN, best
from ppap_measure import Cell, Wanted, map_error
from ppap_train import ASSETS, Base, base, calibrations, copies, facts, recipe_key
from ppap_transformer import shares
from ppap_variants import ITERATIONS, VARIANTS, again
from sampling import ancestral, noise_levels
from steered import Steered
from world import LABELS, render

from guidance_pack.guidance.experts.bank import Adapter, ExpertBank
from guidance_pack.guidance.experts.file import read_bank
from guidance_pack.guidance.experts.guide import bank_guide
from guidance_pack.guidance.guide import Guide, GuideSpec
from guidance_pack.guidance.losses.cross_entropy import CrossEntropy
from guidance_pack.guidance.objective import Objective
from guidance_pack.guidance.routing import Experts
from guidance_pack.guidance.rules.gradient import GradientGuidance


def cell(scale, accuracy, frechet, error=None):
    return Cell("any", "ode", scale, 0, 100, accuracy, frechet, 0.5, 0.5, error, 1.0)


def draws(count, seed=0):
    return torch.randn(count, 1, 1, 1, generator=torch.Generator().manual_seed(seed))


def test_ancestral_sampling_stays_at_the_level_it_is_at():
    """Around one known picture x = x0 + s n at every level: the variance of what is left of the noise is s^2."""
    generator, seen = torch.Generator().manual_seed(1), []

    def known(x, sigma, y):
        seen.append((x.std() / sigma).item())
        return torch.full_like(x, 0.3)

    made = ancestral(known, draws(20_000), torch.zeros(20_000), [8.0, 3.0, 2.9, 0.5, 0.01, 0.0], generator)
    assert seen == pytest.approx([1.0] * 5, abs=0.03) and torch.equal(made, torch.full_like(made, 0.3))


def test_ancestral_sampling_of_a_gaussian_in_closed_form():
    spread, levels = 0.5, noise_levels("edm", 64)

    def denoise(x, sigma, y):
        return x * spread**2 / (spread**2 + sigma**2)

    made = ancestral(denoise, draws(20_000), torch.zeros(20_000), levels, torch.Generator().manual_seed(1))
    variance = levels[0] ** 2
    for sigma, following in itertools.pairwise(levels):
        wiener, kept = spread**2 / (spread**2 + sigma**2), (following / sigma) ** 2
        variance = (wiener + kept * (1 - wiener)) ** 2 * variance + following**2 * (1 - kept)
    assert made.std().item() == pytest.approx(variance**0.5, rel=0.02)
    assert variance**0.5 == pytest.approx(spread, rel=0.1)  # each step draws around the mean alone


def test_a_bank_steers_as_its_experts_would_one_by_one():
    torch.manual_seed(0)

    def network():
        return nn.Sequential(nn.Flatten(), nn.Linear(12, 3))

    class WithTimestep(nn.Module):
        def __init__(self, inner):
            super().__init__()
            self.inner = inner

        def forward(self, input, timestep=None):
            return self.inner(input)

    plain, others = WithTimestep(network()), [WithTimestep(network()) for _ in range(2)]
    bank = ExpertBank(
        plain, [Adapter(whole=copies(dict(other.named_parameters()))) for other in others],
        copies({name: tensor.detach() for name, tensor in plain.named_parameters()}),
    )  # fmt: skip
    spec = GuideSpec("three", "classification", sees="noisy", labels=("a", "b", "c"))

    def steered(held, members, experts, x, sigma):
        guide = Guide((spec,) * members, experts)
        rule = GradientGuidance(2.0, objective=Objective(CrossEntropy(), "noisy input", guide))
        return Steered(lambda x, s, y: 0.1 * x, rule, held, torch.eye(3), 3)(x, sigma, torch.tensor([0, 2]))

    x = torch.randn(2, 3, 2, 2)
    for sigma, alone in ((0.5, others[0]), (1.0, others[1]), (4.0, others[1])):
        together = steered(bank, 2, Experts((1.0,)), x, sigma)
        assert torch.equal(together, steered(alone, 1, Experts(), x, sigma))


def test_all_guides_of_a_kind_share_one_budget():
    for variant in VARIANTS.values():
        if variant.recipe is not None:
            assert variant.recipe.iterations == ITERATIONS[variant.base] and variant.recipe.batch == 32
            assert variant.rendered == (variant.recipe.learn_from == "labels")
    sigmas = [edge**-0.5 for edge in VARIANTS["ppap-5"].recipe.edges]
    assert sigmas == pytest.approx([0.337, 0.739, 1.393, 3.112], abs=2e-3)
    assert set(MAIN) | set(BANKS) <= set(VARIANTS)


def small(kind):
    clean = base("shapes-classifier")
    recipe = replace(VARIANTS["ppap-2"].recipe, iterations=4, batch=2)
    return kind(clean.network, clean.spec, recipe)


def whole(training, steps):
    """The same training after some more steps, on the same few pictures."""
    images = render(4, 5).images
    for _, _ in zip(range(steps), training.steps(lambda rows: (images[rows], None), 4), strict=False):
        pass
    return training


def test_other_trainings_have_other_names_in_the_cache():
    names = ("multi-5", "multi-5-cold", "ppap-5-tenth", "ppap-2")
    kinds = [*(VARIANTS[name] for name in names), again(VARIANTS["ppap-5"], 1)]
    assert len({recipe_key(variant) for variant in kinds}) == 5


def test_the_best_scale_is_near_the_most_accurate_and_not_the_most_distorted():
    cells = [cell(1, 0.5, 10.0), cell(2, 0.76, 20.0), cell(4, 0.80, 30.0)]
    assert best(cells).scale == 2
    assert best([cell(1, 0.5, 9.0, 0.3), cell(2, 0.5, 20.0, 0.2), cell(4, 0.5, 9.0, 0.4)]).scale == 2


def test_shares_of_a_patch():
    map = torch.zeros(1, 8, 8, dtype=torch.int64)
    map[0, 0, 0], map[0, :4, 4:] = 1, len(LABELS)
    found = shares(map)[0]
    assert found.shape == (4, len(LABELS) + 1) and torch.equal(found.sum(1), torch.ones(4))
    assert found[0, 1] == 1 / 16 and found[1, -1] == 1 and found[2, 0] == found[3, 0] == 1


def test_the_error_of_maps_is_of_the_clean_networks_reading():
    spec = GuideSpec("red", "depth")
    clean = Base(lambda picture, timestep: picture[:, :1], spec, "")
    world = Wanted.of("depth", 4)
    same = world.targets.expand(-1, 3, -1, -1)
    assert map_error(clean, same, world.targets) == pytest.approx(0, abs=1e-4)
    assert map_error(clean, -same, world.targets) == pytest.approx(2, abs=1e-4)
    halves = Base(lambda picture, timestep: torch.stack([picture[:, 0] - 0.5, 0.5 - picture[:, 0]], 1),
                  GuideSpec("sign", "segmentation"), "")  # fmt: skip
    picture = torch.ones(1, 3, 2, 2)
    picture[..., 0] = -1
    assert map_error(halves, picture, torch.zeros(1, 1, 2, 2)) == 0.5


@pytest.mark.parametrize("variant, name", BANKS.items())
def test_embedded_banks_are_those_of_the_study_and_fit_their_bases(variant, name):
    file = read_bank(ASSETS / f"{name}.safetensors")
    wanted = facts(VARIANTS[variant])
    assert {key: file.training.get(key) for key in wanted} == wanted
    clean = base(VARIANTS[variant].base)
    bank, guide = bank_guide(file, clean.network, clean.spec, clean.sha256, copies)
    assert guide.sees_noise and guide.experts.count == 5 and file.header.base == VARIANTS[variant].base
    assert bank.use(0)(render(2, 7).images).isfinite().all()


@pytest.mark.slow
def test_embedded_experts_read_noise_that_the_clean_classifier_cannot():
    clean = base("shapes-classifier")
    alone = calibrations(clean.network, Guide((clean.spec,)))
    file = read_bank(ASSETS / "shapes-experts.safetensors")
    team = calibrations(*bank_guide(file, clean.network, clean.spec, clean.sha256, copies))
    assert team[0] > 0.95 and team[3] > alone[3] + 0.2 and sum(team) > sum(alone)
