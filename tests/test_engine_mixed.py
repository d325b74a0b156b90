"""A batch whose samples sit at different noise levels: every sample is guided as if it were alone."""

import comfy_calls
import pytest
import torch
from host_models import MODELS, count_forwards

SD15 = MODELS["sd15"]
SIGMAS = torch.tensor([9.0, 1.0])


@pytest.fixture(scope="module")
def model(comfy):
    """CFG in the noisy half only, autoguidance in the clean half only, and a rescale."""
    from guidance_pack.guidance.rules.autoguidance import Autoguidance
    from guidance_pack.guidance.rules.cfg import CFG
    from guidance_pack.guidance.rules.rescale import Rescale
    from guidance_pack.guidance.schedule import Interval
    from guidance_pack.host.engine.install import with_autoguidance, with_rule

    out = with_rule(SD15.build(0), CFG(5.0, Interval(100.0, 3.0, "sigma")))
    out = with_autoguidance(out, SD15.build(7), Autoguidance(2.5, Interval(3.0, 0.0, "sigma")))
    return with_rule(out, Rescale(0.5))


def test_mixed_levels_are_separate_calls(model):
    x = SIGMAS[:, None, None, None] * torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    together = comfy_calls.denoised(model, SD15, x, SIGMAS)
    for i in range(2):
        alone = comfy_calls.denoised(model, SD15, x[i : i + 1], SIGMAS[i : i + 1])
        torch.testing.assert_close(together[i : i + 1], alone, rtol=1e-4, atol=1e-4)


def test_one_level_for_all_costs_no_more(model):
    x = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    with count_forwards(model, batch=2) as count:
        comfy_calls.denoised(model, SD15, x, torch.tensor([1.0, 1.0]))
    assert count.evaluations == 1
