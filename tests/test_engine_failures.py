"""After a failure nothing stays behind: the next plain run is that of a fresh MODEL, bit for bit."""

import gc
import weakref

import pytest
import torch
from host_models import MODELS, sample, tensors

SD15 = MODELS["sd15"]


@pytest.fixture(scope="module")
def guided(comfy):
    """main, guide and the MODEL that both make."""
    from guidance_pack.guidance.rules.apg import APG
    from guidance_pack.guidance.rules.autoguidance import Autoguidance
    from guidance_pack.host.engine import install

    main, guide = SD15.build(0), SD15.build(7)
    return main, guide, install.with_rule(install.with_autoguidance(main, guide, Autoguidance(2.0)), APG())


def run(model, cfg=4.0, **more):
    (out,) = tensors(
        sample(model, SD15.conditioning(1), SD15.conditioning(2), SD15.latent(), steps=3, cfg=cfg, **more)
    )
    return out


def failures():
    import comfy.model_management as management

    interrupt, memory = management.InterruptProcessingException(), torch.OutOfMemoryError("no memory")
    return [RuntimeError("broken kernel"), interrupt, memory]


def broken(network, error, at):
    """A forward hook that raises at its at-th call."""
    calls = iter(range(1000))

    def hook(*_):
        if next(calls) == at:
            raise error

    return network.register_forward_pre_hook(hook)


@pytest.mark.many
@pytest.mark.parametrize("kind", [0, 1, 2], ids=["exception", "interrupt", "out of memory"])
@pytest.mark.parametrize("which", ["guide", "main"])
@pytest.mark.parametrize("at", [0, 2])
def test_a_failure_in_mid_run_leaves_nothing_behind(guided, kind, which, at):
    main, guide, model = guided
    fresh_main, fresh_guide = SD15.build(0), SD15.build(7)
    error = failures()[kind]
    handle = broken((guide if which == "guide" else main).model.diffusion_model, error, at)
    try:
        with pytest.raises(type(error)):
            run(model)
    finally:
        handle.remove()
    assert main.model.current_patcher is None and guide.model.current_patcher is None
    assert torch.equal(run(main), run(fresh_main))
    assert torch.equal(run(guide), run(fresh_guide))


def test_cleanup_callbacks_fire_once_on_success_and_on_failure(guided):
    from comfy.patcher_extension import CallbacksMP

    main, guide, model = guided
    watched = model.clone()
    (name,) = [key for key in watched.additional_models if key.startswith("guidance-components/")]
    patcher = watched.get_additional_models_with_key(name)[0]
    seen = []
    patcher.add_callback_with_key(CallbacksMP.ON_PRE_RUN, "test", lambda p: seen.append("open"))
    patcher.add_callback_with_key(CallbacksMP.ON_CLEANUP, "test", lambda p: seen.append("close"))
    run(watched)
    assert seen == ["open", "close"]
    handle = broken(guide.model.diffusion_model, RuntimeError("broken"), 1)
    try:
        with pytest.raises(RuntimeError):
            run(watched)
    finally:
        handle.remove()
    assert seen == ["open", "close"] * 2


def test_the_guiders_weight_is_restored_after_a_failure(guided):
    import comfy.samplers

    from guidance_pack.guidance.rules.cfg import CFG
    from guidance_pack.host.engine import install

    main, _, _ = guided
    guider = comfy.samplers.CFGGuider(install.with_rule(main, CFG(6.0)))
    guider.set_conds(SD15.conditioning(1), SD15.conditioning(2))
    guider.set_cfg(1.0)
    latent = SD15.latent()["samples"]
    handle = broken(main.model.diffusion_model, RuntimeError("broken"), 1)
    try:
        with torch.inference_mode(), pytest.raises(RuntimeError):
            guider.sample(
                torch.randn_like(latent), latent, comfy.samplers.sampler_object("euler"),
                torch.tensor([5.0, 1.0, 0.0]), disable_pbar=True, seed=0,
            )
    finally:
        handle.remove()
    assert guider.cfg == 1.0
    assert "guidance-components" not in guider.model_options


def test_no_tensor_of_a_run_outlives_it(guided):
    """Runs are kept nowhere: neither by the MODEL, whose output ComfyUI caches, nor by the engine."""
    from guidance_pack.host.engine import wrappers as engine

    _, _, model = guided
    alive = []
    original = engine.open_run

    def watch(*args):
        run_ = original(*args)
        alive.append(weakref.ref(run_))
        return run_

    engine.open_run = watch
    try:
        run(model)
    finally:
        engine.open_run = original
    gc.collect()
    assert [ref() for ref in alive] == [None]


def test_two_runs_of_one_model_are_identical(guided):
    """The momentum of the first run is not seen by the second."""
    _, _, model = guided
    assert torch.equal(run(model), run(model))
