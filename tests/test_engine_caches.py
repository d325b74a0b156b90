"""The host's EasyCache beside evaluations that its run does not know of: a guide's, and those of a gradient."""

import steering
import torch
from engine_probe import guided
from host_models import sample
from test_engine_gradients import SD15
from test_gradient_refusals import to_target

STEPS = 12
main = steering.main


def cached(model, threshold=0.2):
    """The MODEL as the node EasyCache gives it; a high threshold skips many steps."""
    from comfy_extras.nodes_easycache import EasyCacheNode

    with torch.inference_mode():
        return EasyCacheNode.execute(model, threshold, 0.15, 0.95, False).args[0]


def run(model, cfg=1.0, steps=STEPS):
    return sample(model, SD15.conditioning(1), SD15.conditioning(2), SD15.latent(1), steps=steps, cfg=cfg)


def test_a_gradient_passes_beside_a_step_cache_and_does_not_move_it(main):
    """A push of almost nothing leaves every estimate, so the cache skips the steps that it skips without us."""
    target = torch.rand(1, 64, 64, 3, generator=torch.Generator().manual_seed(0))
    model = to_target(cached(main, 3.0), "mse", images=target, at="through denoiser", scale=1e-9)
    calls = []
    handle = main.model.diffusion_model.out.register_forward_hook(lambda *_: calls.append(1))
    try:
        plain, alone = run(cached(main, 3.0)), len(calls)
        steered = run(model)
    finally:
        handle.remove()
    assert alone < STEPS and len(calls) - alone == alone + STEPS
    torch.testing.assert_close(steered, plain, rtol=1e-3, atol=1e-3)


def test_a_guide_with_a_step_cache_is_evaluated_plainly_and_keeps_nothing(main):
    weak = steering.as_nodes_do(SD15.build, 7)
    guide = cached(weak)
    out = run(guided(main, guide, cfg=False), steps=6)
    assert torch.equal(out, run(guided(main, weak, cfg=False), steps=6))
    holder = guide.model_options["transformer_options"]["easycache"]
    assert not holder.uuid_cache_diffs and holder.x_prev_subsampled is None and holder.first_cond_uuid is None


def test_the_report_says_what_the_hosts_caches_skip(main):
    from comfy_extras.nodes_easycache import LazyCacheNode

    from guidance_pack.host.report.report import report, sigmas_of

    sigmas = sigmas_of(main, "normal", 3)
    assert "Cache" not in report(main, sigmas, 1.0).text
    assert "EasyCache on this MODEL skips evaluations of the main network" in report(cached(main), sigmas, 1.0).text
    lazy = LazyCacheNode.execute(main, 0.2, 0.15, 0.95, False).args[0]
    assert report(lazy, sigmas, 1.0).text.endswith("of guides too if it comes before the components.")
