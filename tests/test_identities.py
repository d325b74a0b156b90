"""Settings that must be the same guidance, as groups: every member gives what the first one gives."""

import math
from dataclasses import dataclass

import pytest
import torch
from oracle import GUIDE, exact_branches, points

from guidance_pack.guidance.branch import NEGATIVE, POSITIVE
from guidance_pack.guidance.compose import Guidance, Memory, split
from guidance_pack.guidance.noise_level import NoiseLevel
from guidance_pack.guidance.rules.apg import APG
from guidance_pack.guidance.rules.autoguidance import Autoguidance
from guidance_pack.guidance.rules.cfg import CFG
from guidance_pack.guidance.rules.rescale import Rescale
from guidance_pack.guidance.schedule import ALWAYS, Constant, Curve, Interval, Product, ramp

SIGMAS = (8.0, 2.0, 0.7, 0.1)
EVERYWHERE = Interval(math.inf, 0.0, "sigma_ve")
NOISY, CLEAN = Interval(math.inf, 1.0, "sigma_ve"), Interval(1.0, 0.0, "sigma_ve")


@dataclass(frozen=True)
class Setting:
    """Rules, the sampler's cfg, and whether the guide is the negative branch itself."""

    rules: tuple
    sampler: float = 1.0
    guide_is_negative: bool = False

    def run(self) -> torch.Tensor:
        """The estimates at all noise levels of a run, [steps, B, N], a batch of mixed levels at the end."""
        memory, found = Memory(), []
        for position, sigma in enumerate(SIGMAS):
            memory.move_to(position)
            found.append(self._denoise(*points(4, sigma, seed=position), memory))
        x, _ = points(4, 1.0, seed=9)
        found.append(self._denoise(x, torch.tensor(SIGMAS, dtype=torch.float64), Memory()))
        return torch.stack(found)

    def _denoise(self, x, sigma, memory):
        exact = exact_branches(x, sigma)

        def evaluate(branch):
            return exact(NEGATIVE if self.guide_is_negative and branch == GUIDE else branch)

        return Guidance(self.rules).denoise(evaluate, x, NoiseLevel.variance_exploding(sigma), self.sampler, memory)


def mixed(total, mix):
    cfg, auto = split(total, mix)
    return CFG(cfg), Autoguidance(auto)


SAME = {
    "nothing": [
        Setting(()),
        Setting((CFG(1.0),), sampler=7.0),
        Setting((CFG(5.0, Constant(0.0)),)),
        Setting((Autoguidance(1.0),)),
        Setting((Autoguidance(3.0, Interval(1e9, 1e8, "sigma_ve")),)),
        Setting((Rescale(0.0),)),
        Setting((APG(),)),
        Setting(mixed(1.0, 0.5)),
    ],
    "cfg 3": [
        Setting((), sampler=3.0),
        Setting((CFG(3.0),)),
        Setting((CFG(3.0),), sampler=11.0),
        Setting((CFG(None),), sampler=3.0),
        Setting((CFG(3.0, EVERYWHERE),)),
        Setting((CFG(5.0, Constant(0.5)),)),
        Setting((CFG(3.0, NOISY), CFG(3.0, CLEAN))),
        Setting((CFG(2.0), CFG(2.0))),
        Setting((Autoguidance(3.0),), guide_is_negative=True),
        Setting((CFG(2.0), Autoguidance(2.0)), guide_is_negative=True),
        Setting(mixed(3.0, 0.0)),
        Setting(mixed(3.0, 0.7), guide_is_negative=True),
        Setting((APG(eta=1.0, norm_threshold=0.0, momentum=0.0),), sampler=3.0),
        Setting((APG(eta=1.0, norm_threshold=1e4, momentum=0.0), CFG(3.0))),
        Setting((CFG(3.0), Rescale(0.0))),
        Setting((CFG(3.0), Autoguidance(1.0))),
    ],
    "autoguidance 2.5": [
        Setting((Autoguidance(2.5),)),
        Setting((Autoguidance(2.5, ALWAYS),)),
        Setting((Autoguidance(2.5, Product((ALWAYS, EVERYWHERE))),)),
        Setting((Autoguidance(2.0), Autoguidance(1.5))),
        Setting((Autoguidance(1.5), Autoguidance(2.0))),
        Setting((Autoguidance(2.5, NOISY), Autoguidance(2.5, CLEAN))),
        Setting((Autoguidance(4.0, Constant(0.5)),)),
        Setting((CFG(1.0), Autoguidance(2.5)), sampler=4.0),
        Setting(mixed(2.5, 1.0)),
    ],
    "cfg and autoguidance": [
        Setting(mixed(4.0, 0.25)),
        Setting(tuple(reversed(mixed(4.0, 0.25)))),
        Setting((Autoguidance(1.75),), sampler=3.25),
        Setting((CFG(3.25), Autoguidance(1.5), Autoguidance(1.25))),
    ],
    "rescaled cfg": [
        Setting((CFG(3.0), Rescale(0.7))),
        Setting((Rescale(0.7), CFG(3.0))),
        Setting((Rescale(1.0, Constant(0.7)), CFG(3.0))),
        Setting((Rescale(0.7),), sampler=3.0),
    ],
    "rescale of the unguided": [Setting(()), Setting((Rescale(1.0),)), Setting((Rescale(0.3), Rescale(0.9)))],
    "rescale fully, then again": [
        Setting((CFG(3.0), Rescale(1.0))), Setting((CFG(3.0), Rescale(1.0), Rescale(0.4))),
        Setting((CFG(3.0), Rescale(0.4), Rescale(1.0))),
    ],
    "a falling weight": [
        Setting((CFG(3.0, Curve(((4.0, 1.0), (0.4, 0.0)), "sigma_ve")),)),
        Setting((CFG(3.0, ramp(1.0, 0.0, 4.0, 0.4, "sigma_ve")),)),
        Setting((CFG(5.0, ramp(0.5, 0.0, 4.0, 0.4, "sigma_ve")),)),
        Setting((Autoguidance(3.0, ramp(1.0, 0.0, 4.0, 0.4, "sigma_ve")),), guide_is_negative=True),
    ],
    "apg": [
        Setting((CFG(3.0), APG(0.2, 0.5, -0.5))),
        Setting((APG(0.2, 0.5, -0.5), CFG(3.0))),
        Setting((APG(0.2, 0.5, -0.5),), sampler=3.0),
        Setting((APG(0.2, 0.5, -0.5, EVERYWHERE),), sampler=3.0),
        Setting((APG(0.2, 0.5, -0.5), APG(1.0, 0.0, 0.0)), sampler=3.0),
    ],
}
PAIRS = [(group, i) for group, settings in SAME.items() for i in range(1, len(settings))]


@pytest.mark.parametrize(("group", "index"), PAIRS, ids=[f"{group}-{i}" for group, i in PAIRS])
def test_the_same_guidance(group, index):
    torch.testing.assert_close(SAME[group][index].run(), SAME[group][0].run(), rtol=0, atol=1e-12)


def test_the_groups_are_different_guidance():
    runs = [settings[0].run() for group, settings in SAME.items() if group != "rescale of the unguided"]
    for i, first in enumerate(runs):
        assert all(float((first - other).abs().max()) > 1e-3 for other in runs[i + 1 :])


def test_rescale_fully_gives_the_spread_of_the_unguided():
    unguided, rescaled = Setting(()).run(), Setting((CFG(3.0), Rescale(1.0))).run()
    torch.testing.assert_close(rescaled.std(2, correction=0), unguided.std(2, correction=0), rtol=0, atol=1e-12)


def test_apg_projects_limits_and_remembers():
    """2410.02416 Algorithm 1, written out for a run of two noise levels."""
    eta, limit, momentum, weight = 0.3, 0.2, -0.5, 4.0
    memory, average = Memory(), 0.0
    guidance = Guidance((APG(eta, limit, momentum),))
    for position, sigma in enumerate((2.0, 0.7)):
        x, sigmas = points(8, sigma)
        evaluate = exact_branches(x, sigmas)
        positive, negative = evaluate(POSITIVE), evaluate(NEGATIVE)
        average = positive - negative + momentum * average
        shortened = average * (limit / average.norm(dim=1, keepdim=True)).clamp(max=1.0)
        unit = positive / positive.norm(dim=1, keepdim=True)
        along = (shortened * unit).sum(1, keepdim=True) * unit
        expected = positive + (weight - 1) * (shortened - along + eta * along)
        memory.move_to(position)
        found = guidance.denoise(evaluate, x, NoiseLevel.variance_exploding(sigmas), weight, memory)
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)
