"""Nodes of other packs that keep a state while they sample, or copy the options of a call."""

import copy
import pickle

import engine_probe as probe
import pytest
import torch
from host_models import MODELS, count_forwards

SD15 = MODELS["sd15"]
CFG, WEIGHT, STEPS = 3.0, 2.5, 3


def in_windows(model):
    """Two windows over the batch, with a state of the run and one of the step, as sliding contexts keep them."""
    import comfy.samplers
    from comfy.patcher_extension import WrappersMP

    def begin(executor, *args, **kwargs):
        executor.class_obj.model_options["transformer_options"]["state of the run"] = 2
        return executor(*args, **kwargs)

    def step(args):
        options = args["model_options"]
        transformer = {**options["transformer_options"], "state of the step": len(args["input"])}
        options = {**options, "transformer_options": transformer}
        return comfy.samplers.calc_cond_batch(args["model"], args["conds"], args["input"], args["sigma"], options)

    def window(executor, network, conds, x, timestep, model_options):
        states = model_options["transformer_options"]
        size = states["state of the step"] // states["state of the run"]
        copies = [cond and [dict(one) for one in cond] for cond in conds]
        parts = zip(x.split(size), timestep.split(size), strict=True)
        found = [executor(network, copies, *part, model_options) for part in parts]
        return [torch.cat(outs) for outs in zip(*found, strict=True)]

    out = model.clone()
    out.add_wrapper_with_key(WrappersMP.OUTER_SAMPLE, "windows", begin)
    out.add_wrapper_with_key(WrappersMP.CALC_COND_BATCH, "windows", window)
    out.set_model_sampler_calc_cond_batch_function(step)
    return out


def copying(model):
    """A pre-CFG node that deep-copies the options before its own evaluation, with identity for the middle attention."""
    import comfy.model_patcher
    import comfy.samplers

    def perturb(args):
        options = comfy.model_patcher.set_model_options_patch_replace(
            copy.deepcopy(args["model_options"]), lambda q, k, v, extra, mask=None: v, "attn1", "middle", 0
        )
        positive = args["conds_out"][0]
        (weak,) = comfy.samplers.calc_cond_batch(
            args["model"], args["conds"][:1], args["input"], args["sigma"], options
        )
        return [positive + 0.5 * (positive - weak), *args["conds_out"][1:]]

    out = model.clone()
    out.set_model_sampler_pre_cfg_function(perturb)
    return out


def cached(model):
    """A node that keeps the residual of a prediction on the network, and gives it again in the same step."""
    network = model.model.diffusion_model

    def wrap(apply_model, args):
        kept = vars(network).setdefault("kept_state", {})
        sigma = float(args["timestep"][0])
        if kept.get("sigma") != sigma:
            kept.update(sigma=sigma, out=apply_model(args["input"], args["timestep"], **args["c"]))
        return kept["out"][: len(args["input"])]

    out = model.clone()
    out.set_model_unet_function_wrapper(wrap)
    return out


def check(main, guide, node, before):
    """The law, with another pack's node on the MODEL before or after our component."""
    model = probe.guided(node(main), guide, weight=WEIGHT) if before else node(probe.guided(main, guide, weight=WEIGHT))
    model, calls = probe.recorded(model)
    setting = probe.setting_of(main, SD15, steps=STEPS, batch=4)
    prompts = SD15.conditioning(1), SD15.conditioning(2)
    setting.run(probe.cfg_guider(model, *prompts, CFG))
    host = probe.replay(probe.cfg_guider(node(main), *prompts, CFG), setting, calls)
    bare = [probe.alone(network, prompts[0], setting, calls) for network in (main, guide)]
    probe.assert_law(calls, host, *bare, lambda sigma: WEIGHT)


@pytest.mark.parametrize("before", [True, False], ids=["before", "after"])
@pytest.mark.parametrize("node", [in_windows, copying], ids=["windows with a state", "deep copies"])
def test_a_component_acts_beside_the_node(node, before, main, guide):
    check(main, guide, node, before)


def test_what_shapes_the_step_sees_whole_windows(main):
    from guidance_pack.guidance.rules.apg import APG
    from guidance_pack.guidance.rules.rescale import Rescale
    from guidance_pack.host.engine.install import with_rule

    prompts, setting = (SD15.conditioning(1), SD15.conditioning(2)), probe.setting_of(main, SD15, steps=1, batch=4)
    for rule in (APG(), Rescale(0.7)):
        plain = setting.run(probe.cfg_guider(with_rule(main, rule), *prompts, CFG))
        inside = setting.run(probe.cfg_guider(with_rule(in_windows(main), rule), *prompts, CFG))
        assert probe.far_apart(inside, plain) < probe.TOLERANCE


def test_a_guide_that_would_need_the_beginning_of_sampling_is_refused(main, guide):
    prompts, setting = (SD15.conditioning(1), SD15.conditioning(2)), probe.setting_of(main, SD15, steps=2, batch=4)
    words = "guide_model .* carries nodes of another pack .windows. that keep 'state of the step' from the beginning"
    with count_forwards(guide) as guides, pytest.raises(ValueError, match=words):
        setting.run(probe.cfg_guider(probe.guided(main, in_windows(guide)), *prompts, CFG))
    assert guides.forwards == 0 and guide.model.current_patcher is None


def test_what_lies_in_the_options_of_a_call_is_itself_in_a_copy_and_no_pickle(main, guide):
    found = []

    def look(args):
        found.extend(held_by_us(args["model_options"]))
        return args["conds_out"]

    model = probe.guided(main, guide)
    model.set_model_sampler_pre_cfg_function(look)
    probe.setting_of(main, SD15, steps=1).run(probe.cfg_guider(model, SD15.conditioning(1), SD15.conditioning(2), CFG))
    assert {type(one).__name__ for one in found} == {"Run", "Observer"}
    for one in found:
        assert copy.copy(one) is one and copy.deepcopy({"a": [one]})["a"][0] is one
        with pytest.raises(TypeError, match="cannot be pickled .* Remove the components"):
            pickle.dumps(one)


def held_by_us(options):
    """The objects of the pack that an options dictionary holds, or whose bound methods it holds."""
    if isinstance(options, dict):
        return [one for value in options.values() for one in held_by_us(value)]
    if isinstance(options, (list, tuple)):
        return [one for value in options for one in held_by_us(value)]
    owner = getattr(options, "__self__", options)
    return [owner] if type(owner).__module__.startswith("guidance_pack") else []


def test_a_guide_behind_a_cache_on_its_network_is_refused_and_one_before_it_is_itself(main):
    from guidance_pack.host.degrade.degrade import degrade

    behind, setting = cached(main), probe.setting_of(main, SD15, steps=2)
    prompts = SD15.conditioning(1), SD15.conditioning(2)
    try:
        with pytest.raises(ValueError, match="one network, on which another pack's node keeps kept_state .* before"):
            setting.run(probe.cfg_guider(probe.guided(behind, degrade(behind, "skipped layers", 1.0)), *prompts, 1.0))
        weak = degrade(main, "skipped layers", 1.0)
        model, calls = probe.recorded(probe.guided(behind, weak, weight=WEIGHT))
        setting.run(probe.cfg_guider(model, *prompts, 1.0))
        bare = [probe.alone(network, prompts[0], setting, calls) for network in (main, weak)]
        probe.assert_law(calls, bare[0], *bare, lambda sigma: WEIGHT)
    finally:
        vars(main.model.diffusion_model).pop("kept_state", None)


def test_attention_that_a_replaced_forward_hides_is_refused_in_words(comfy):
    from guidance_pack.host.degrade.attention import DegradedAttention
    from guidance_pack.host.degrade.layers import Layout

    options = {"patches_replace": {}}
    DegradedAttention("identity attention", 1.0, (("double", 0),), 1.0, 2, (1, 4, 4)).put_on(options, Layout())
    block = options["patches_replace"]["dit"][("double_block", 0)]
    with pytest.raises(ValueError, match="identity attention reaches .*TeaCache.* before that node, or use kind"):
        block({"img": torch.zeros(1, 16, 8)}, {"original_block": lambda args: args, "transformer_options": {}})
