"""Other packs' hooks, nodes and conditioning: each runs once per step, and the guide's term is added to its result."""

from contextlib import contextmanager
from dataclasses import replace

import engine_probe as probe
import host_scenes as scenes
import pytest
import torch
from host_models import MODELS, count_forwards, unet

CFG, WEIGHT, STEPS = 3.0, 2.0, 3
SD15 = MODELS["sd15"]


def check(main, guide, scene, before: bool, weight: float = WEIGHT):
    """Run the scene guided and compare every step with the plain host's own step plus the guide's term."""
    patch, inner = scene.patch, scene.network
    patched = probe.guided(inner(patch(main)), guide, weight=weight) if before else (
        inner(patch(probe.guided(main, guide, weight=weight)))
    )
    model, calls = probe.recorded(patched)
    setting = probe.setting_of(main, SD15, steps=STEPS, **scene.setting())
    positive, negative = scene.conds()
    setting.run(probe.cfg_guider(model, positive, negative, CFG))
    host = probe.replay(probe.cfg_guider(inner(patch(main)), positive, negative, CFG), setting, calls)
    bare = probe.replay(probe.cfg_guider(inner(main), positive, negative, 1.0), setting, calls)
    weak = probe.replay(probe.cfg_guider(guide, positive, negative, 1.0), setting, calls)
    probe.assert_law(calls, host, bare, weak, lambda sigma: weight)


@pytest.mark.many
@pytest.mark.parametrize("before", [True, False], ids=["before", "after"])
@pytest.mark.parametrize("name", scenes.SCENES)
def test_the_guides_term_is_added_to_the_hosts_own_step(name, before, main, guide):
    check(main, guide, scenes.SCENES[name], before)


@pytest.mark.many
@pytest.mark.parametrize("name", scenes.SCENES)
def test_off_is_bit_identical(name, main, guide):
    scene = scenes.SCENES[name]
    setting = probe.setting_of(main, SD15, steps=2, **scene.setting())
    positive, negative = scene.conds()
    plain = setting.run(probe.cfg_guider(scene.network(scene.patch(main)), positive, negative, CFG))
    off = probe.guided(scene.network(scene.patch(main)), guide, weight=1.0)
    with count_forwards(guide) as guides:
        assert torch.equal(setting.run(probe.cfg_guider(off, positive, negative, CFG)), plain)
    assert guides.forwards == 0
    assert not torch.equal(plain, bare_run(main, setting)), "the scene does nothing"


def bare_run(main, setting):
    plain = probe.Setting(setting.sigmas, setting.latent, setting.noise)
    return plain.run(probe.cfg_guider(main, SD15.conditioning(1), SD15.conditioning(2), CFG))


@pytest.mark.many
@pytest.mark.parametrize("before", [True, False], ids=["before", "after"])
@pytest.mark.parametrize(
    "hook", [scenes.pre_cfg, scenes.post_cfg, scenes.cfg_function, scenes.legacy_cfg_function, scenes.function_wrapper],
    ids=lambda hook: hook.__name__,
)  # fmt: skip
def test_other_peoples_hooks_run_once_per_step(hook, before, main, guide):
    counts = []

    def counted(model):
        counts.append(0)
        at = len(counts) - 1

        def note():
            counts[at] += 1

        return hook(model, note)

    setting = probe.setting_of(main, SD15, steps=STEPS)
    models = [counted(main), probe.guided(counted(main), guide) if before else counted(probe.guided(main, guide))]
    for model in models:
        setting.run(probe.cfg_guider(model, SD15.conditioning(1), SD15.conditioning(2), CFG))
    assert counts == [STEPS, STEPS]


def test_the_guides_own_wrapper_runs_on_the_guide_and_its_cfg_hooks_do_not(main, guide):
    counts = {"wrapper": 0, "post-CFG": 0}

    def note(name):
        counts[name] += 1

    weak = scenes.function_wrapper(scenes.post_cfg(guide, lambda: note("post-CFG")), lambda: note("wrapper"))
    model, calls = probe.recorded(probe.guided(main, weak, weight=WEIGHT))
    setting = probe.setting_of(main, SD15, steps=STEPS)
    setting.run(probe.cfg_guider(model, SD15.conditioning(1), SD15.conditioning(2), CFG))
    assert counts == {"wrapper": STEPS, "post-CFG": 0}
    host = probe.replay(probe.cfg_guider(main, SD15.conditioning(1), SD15.conditioning(2), CFG), setting, calls)
    bare = [
        probe.alone(network, SD15.conditioning(1), setting, calls)
        for network in (main, scenes.function_wrapper(guide))
    ]
    probe.assert_law(calls, host, *bare, lambda sigma: WEIGHT)


@pytest.mark.slow
def test_the_guides_copy_of_a_controlnet_leaves_the_main_models_alone(main):
    """The guide has another schedule of timesteps: a shared ControlNet would end with the wrong one."""
    from comfy_extras.nodes_model_advanced import ModelSamplingDiscrete

    (guide,) = ModelSamplingDiscrete().patch(SD15.build(7), "v_prediction", True)
    check(main, guide, scenes.SCENES["ControlNet"], before=True)
    positive, negative = scenes.controlled()
    probe.setting_of(main, SD15).run(
        probe.cfg_guider(probe.guided(main, guide), positive, negative, CFG)
    )
    control = positive[0][1]["control"]
    assert control.model_sampling_current is None and control.cond_hint is None and control.timestep_range is None


@pytest.mark.slow
def test_a_compiled_model_and_its_guide_stay_apart(comfy):
    """Compiled before the components and behind them; a network of one level, as compiling takes long."""
    from comfy_extras.nodes_torch_compile import TorchCompileModel

    spec = replace(SD15, unet=unet(
        32, 768, num_res_blocks=[1], channel_mult=(1,), transformer_depth=[1], transformer_depth_output=[1, 1]
    ))  # fmt: skip
    main, guide = spec.build(0), spec.build(7)

    def compiled(model):
        return TorchCompileModel.execute(model, "eager").args[0]

    torch._dynamo.reset()
    for before in (True, False):
        check(main, guide, scenes.Scene(network=compiled), before)


def observed(main, patch, setting, calls, positive, negative):
    """What the plain host predicts at the recorded inputs: its results, and its positive branch in the same calls."""
    from comfy.patcher_extension import WrappersMP

    seen, model = [], patch(main).clone()

    def see(executor, network, conds, *rest):
        out = executor(network, conds, *rest)
        seen.append(out[0].clone())
        return out

    model.add_wrapper_with_key(WrappersMP.CALC_COND_BATCH, "see", see)
    return probe.replay(probe.cfg_guider(model, positive, negative, CFG), setting, calls), seen


@contextmanager
def evaluated(model):
    """The batch sizes that reach the end of the network: EasyCache skips its inside, not its call."""
    rows = []
    handle = model.model.diffusion_model.out.register_forward_pre_hook(lambda _, args: rows.append(len(args[0])))
    try:
        yield rows
    finally:
        handle.remove()


@pytest.mark.slow
@pytest.mark.parametrize("before", [True, False], ids=["before", "after"])
def test_easycache_skips_the_same_evaluations_of_the_main_model(before, main, guide):
    from comfy_extras.nodes_easycache import EasyCacheNode

    def easy(model):
        return EasyCacheNode.execute(model, 3.0, 0.0, 1.0, False).args[0]

    positive, negative = scenes.Scene().conds()
    first, last = (easy, lambda m: m) if before else (lambda m: m, easy)
    model, calls = probe.recorded(last(probe.guided(first(main), guide, weight=WEIGHT)))
    setting = probe.setting_of(main, SD15, steps=8)
    with evaluated(main) as ours, evaluated(guide) as guides:
        setting.run(probe.cfg_guider(model, positive, negative, CFG))
    with evaluated(main) as plain:
        host, bare = observed(main, easy, setting, calls, positive, negative)
    assert ours == plain and 0 < len(ours) < 8 and len(guides) == 8
    weak = probe.alone(guide, positive, setting, calls)
    probe.assert_law(calls, host, bare, weak, lambda sigma: WEIGHT)


@pytest.mark.slow
@pytest.mark.parametrize("before", [True, False], ids=["before", "after"])
def test_lazycache_caches_what_lies_inside_it(before, main, guide):
    from comfy_extras.nodes_easycache import LazyCacheNode

    def lazy(model):
        return LazyCacheNode.execute(model, 3.0, 0.0, 1.0, False).args[0]

    positive, negative = scenes.Scene().conds()
    setting = probe.setting_of(main, SD15, steps=8)
    if before:  # it lies outside: a skipped step asks neither network
        with count_forwards(main) as ours, count_forwards(guide) as guides:
            out = setting.run(probe.cfg_guider(probe.guided(lazy(main), guide), positive, negative, CFG))
        assert torch.isfinite(out).all() and guides.forwards == ours.rows / 2 < 8
        return
    model, calls = probe.recorded(lazy(probe.guided(main, guide, weight=WEIGHT)))
    setting.run(probe.cfg_guider(model, positive, negative, CFG))
    host = probe.replay(probe.cfg_guider(lazy(main), positive, negative, CFG), setting, calls)
    bare = [probe.alone(network, positive, setting, calls) for network in (main, guide)]
    probe.assert_law(calls, host, *bare, lambda sigma: WEIGHT)


def test_context_windows_are_the_same_for_the_guide(comfy):
    from comfy_extras.nodes_context_windows import ContextWindowsManualNode

    spec = MODELS["wan"]

    def windows(model):
        return ContextWindowsManualNode.execute(
            model, 2, 1, "standard_static", 1, False, "pyramid", 2, False, "", False, "", False
        ).args[0]

    main, guide = spec.build(0), spec.build(7)
    positive, negative = spec.conditioning(1), spec.conditioning(2)
    model, calls = probe.recorded(probe.guided(windows(main), guide, weight=WEIGHT))
    setting = probe.setting_of(main, spec, steps=2)
    with count_forwards(main) as ours, count_forwards(guide) as guides:
        setting.run(probe.cfg_guider(model, positive, negative, CFG))
    assert ours.rows == 2 * 2 * 2 and guides.rows == 2 * 2, "two windows per evaluation"
    host = probe.replay(probe.cfg_guider(windows(main), positive, negative, CFG), setting, calls)
    bare = [probe.alone(windows(network), positive, setting, calls) for network in (main, guide)]
    probe.assert_law(calls, host, *bare, lambda sigma: WEIGHT)
