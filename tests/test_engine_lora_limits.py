"""A guide over the main MODEL's network: nothing left behind, nothing kept twice, a copy where it must be one."""

import gc
import logging

import pytest
import torch
from engine_probe import TOLERANCE, alone, far_apart, recorded, setting_of
from host_models import MODELS, sample, tensors
from live_memory import LiveMemory
from lora_files import loaded, lora_file

SD15 = MODELS["sd15"]


@pytest.fixture
def base(comfy):
    return SD15.build(0)


def run(model, cfg=1.0, spec=SD15):
    return tensors(sample(model, spec.conditioning(1), spec.conditioning(2), spec.latent(), steps=3, cfg=cfg))[0]


def network_size(model) -> int:
    return sum(parameter.nbytes for parameter in model.model.parameters())


def changed_layers(model) -> list[str]:
    """The layers whose forward is not that of their class."""
    found = []
    for name, layer in model.model.named_modules():
        own = layer.__dict__.get("forward")
        if own is not None and getattr(own, "__func__", None) is not type(layer).forward:
            found.append(name)
    return found


# --- nothing is left behind -----------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("bypass", [False, True], ids=["merged", "bypassed"])
def test_after_a_run_both_models_are_as_before(install, auto, base, bypass):
    main = loaded(base, lora_file(base, 1), bypass=bypass)
    before = run(main), run(base)
    for _ in range(2):
        run(install.with_autoguidance(main, base, auto), cfg=3.0)
        assert torch.equal(run(main), before[0])
        assert torch.equal(run(base), before[1])
    assert changed_layers(base) == []
    assert base.model.current_patcher is None


def failures():
    import comfy.model_management as management

    return [RuntimeError("broken kernel"), management.InterruptProcessingException(), torch.OutOfMemoryError("none")]


@pytest.mark.slow
@pytest.mark.parametrize("kind", [0, 1, 2], ids=["exception", "interrupt", "out of memory"])
@pytest.mark.parametrize("at", [0, 1, 2])
@pytest.mark.parametrize("bypass", [False, True], ids=["merged", "bypassed"])
def test_a_failure_deep_in_either_network_leaves_nothing_behind(install, auto, base, kind, at, bypass):
    """Beside a bypassed LoRA calls 0 and 2 of the middle of the network are the main model's and 1 is the guide's;
    otherwise both are rows of every call."""
    main, guide = loaded(base, lora_file(base, 1), bypass=bypass), loaded(base, lora_file(base, 2))
    plain, error, calls = [run(main), run(guide), run(base)], failures()[kind], iter(range(100))

    def broken(*_):
        if next(calls) == at:
            raise error

    handle = base.model.diffusion_model.middle_block[0].register_forward_pre_hook(broken)
    try:
        with pytest.raises(type(error)):
            run(install.with_autoguidance(main, guide, auto))
    finally:
        handle.remove()
    assert next(calls) == at + 1
    for model, expected in zip((main, guide, base), plain, strict=True):
        assert torch.equal(run(model), expected)
    assert changed_layers(base) == []


def test_a_failure_while_switching_leaves_nothing_behind(install, auto, base, monkeypatch):
    from guidance_pack.host.lora import adapter_switch as toggled

    main = loaded(base, lora_file(base, 1))
    expected, enter, calls = run(main), toggled.ChangedLayer.enter, iter(range(10_000))

    def broken(self, *rows):
        if next(calls) == 20:
            raise RuntimeError("broken switch")
        enter(self, *rows)

    monkeypatch.setattr(toggled.ChangedLayer, "enter", broken)
    with pytest.raises(RuntimeError, match="broken switch"):
        run(install.with_autoguidance(main, base, auto))
    assert changed_layers(base) == []
    assert torch.equal(run(main), expected)


@pytest.mark.parametrize("whose", ["main's again", "guide's"])
def test_a_bypass_lora_that_cannot_be_injected_again_leaves_nothing_half_way(install, auto, base, monkeypatch, whose):
    """It moves tensors, so memory may be out or an interrupt come in the middle of it."""
    from comfy.weight_adapter.bypass import BypassForwardHook

    bypassed = loaded(base, lora_file(base, 1), bypass=True)
    main, guide = (bypassed, base) if whose == "main's again" else (base, bypassed)
    plain, inject, evaluated = [run(guide), run(main)][::-1], BypassForwardHook.inject, []
    model = install.with_autoguidance(main, guide, auto)
    handle = base.model.diffusion_model.register_forward_hook(lambda *_: evaluated.append(1))

    def broken(self):
        if evaluated and len(changed_layers(base)) == 5:
            raise torch.OutOfMemoryError("none")
        inject(self)

    monkeypatch.setattr(BypassForwardHook, "inject", broken)
    try:
        with pytest.raises(torch.OutOfMemoryError):
            run(model)
    finally:
        handle.remove()
        monkeypatch.undo()
    assert changed_layers(base) == [] and len(evaluated) == (2 if whose == "main's again" else 1)
    for one, expected in zip((main, guide), plain, strict=True):
        assert torch.equal(run(one), expected)


def test_changes_of_one_layer_are_undone_in_reverse(base):
    """A layer may stand at two places of a network (tied weights)."""
    from guidance_pack.guidance.networks.layer_changes import LayerChange
    from guidance_pack.host.lora.adapter_switch import AdapterSwitch, ChangedLayer

    layer = base.model.diffusion_model.out[-1]
    switch = AdapterSwitch(base, base)
    switch.layers = [ChangedLayer(layer, LayerChange((), None, None)) for _ in range(2)]
    before = changed_layers(base)
    with switch.on():
        assert layer.__dict__["forward"] is switch.layers[1]
    assert changed_layers(base) == before and "forward" not in layer.__dict__


def test_the_main_model_alone_is_what_is_loaded_after_a_run(install, auto, base):
    """No second merge per run: the weights in the network are the main model's before, during and after."""
    main = loaded(base, lora_file(base, 1))
    run(main)
    weights = {id(parameter) for parameter in base.model.parameters()}
    model = install.with_autoguidance(main, base, auto)
    run(model)
    assert {id(parameter) for parameter in base.model.parameters()} == weights
    assert base.model.current_weight_patches_uuid == main.patches_uuid


# --- memory ---------------------------------------------------------------------------------------------------------


def measured(install, auto, kind: str) -> tuple[int, int, int]:
    """Bytes at the peak of a plain run and of a guided run, and those of the LoRA file."""
    peaks = []
    for guided in (False, True):
        base = SD15.build(0)
        file = lora_file(base, 1, kind)
        with LiveMemory(base.model) as live:
            main = loaded(base, file)
            run(install.with_autoguidance(main, base, auto) if guided else main)
        peaks.append(live.peak)
        del base, main
        gc.collect()
    return *peaks, sum(tensor.nbytes for tensor in file.values())


@pytest.mark.slow
def test_one_base_and_the_loras_are_all_that_is_resident(install, auto):
    plain, guided, file = measured(install, auto, "lora")
    size = network_size(SD15.build(0))
    assert guided - plain <= file, f"{(guided - plain) / 2**10:.0f} KB more than without a guide"
    assert file < size / 4
    plain, copied, _ = measured(install, auto, "dora")
    assert copied - plain > 0.9 * size, "a second network would have been seen"


@pytest.mark.slow
def test_what_the_guide_needed_is_let_go_after_the_run(install, auto, base):
    from guidance_pack.host.lora.adapter_switch import AdapterSwitch, ChangedLayer

    run(install.with_autoguidance(loaded(base, lora_file(base, 1)), base, auto))
    gc.collect()
    assert not [thing for thing in gc.get_objects() if isinstance(thing, ChangedLayer | AdapterSwitch)]


# --- how the network is loaded --------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_partly_loaded_network(install, auto, base, monkeypatch):
    """Weights that stay offloaded are patched as they are used (the host's low memory mode)."""
    from comfy.model_patcher import ModelPatcher

    file = lora_file(base, 1)
    expected = run(install.with_autoguidance(loaded(SD15.build(0), file), SD15.build(0), auto))
    load, whole = ModelPatcher.partially_load, network_size(base)

    def partly(self, device, extra_memory=0, **more):
        return load(self, device, whole // 3 - self.model.model_loaded_weight_memory, **more)

    monkeypatch.setattr(ModelPatcher, "partially_load", partly)
    found = run(install.with_autoguidance(loaded(base, file), base, auto))
    assert base.model.model_lowvram and base.model.lowvram_patch_counter > 10
    assert far_apart(found, expected) < TOLERANCE


@pytest.mark.slow
def test_the_guide_takes_the_lora_off_the_rounded_weights(install, auto, monkeypatch):
    """In float8 the guide is the main network's rounded weights minus the LoRA, so the rounding is in both alike."""
    base = SD15.build(0)
    file = lora_file(base, 1)
    for layer in base.model.modules():
        if isinstance(layer, torch.nn.Linear | torch.nn.Conv2d):
            layer.weight = torch.nn.Parameter(layer.weight.to(torch.float8_e4m3fn), requires_grad=False)
            layer.comfy_cast_weights = True
    main = loaded(base, file)
    guided, calls = recorded(install.with_autoguidance(main, base, auto))
    setting = setting_of(base, SD15)
    from engine_probe import cfg_guider

    setting.run(cfg_guider(guided, SD15.conditioning(1), SD15.conditioning(1), 1.0))
    own = alone(main, SD15.conditioning(1), setting, calls)
    guide = loaded(SD15.build(0), file, -1.0)
    rounded = {name: weight.detach().float() for name, weight in main.model.named_parameters()}
    guide.model.load_state_dict({**guide.model.state_dict(), **rounded})
    for call, first, second in zip(calls, own, alone(guide, SD15.conditioning(1), setting, calls), strict=True):
        assert far_apart(call.denoised, first + 1.5 * (first - second)) < TOLERANCE


# --- copies, words --------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("kind, named", [("dora", "DoRA"), ("set", "'set'")])
def test_what_does_not_add_to_weights_gets_a_copy_and_says_so(install, auto, base, kind, named, caplog):
    from guidance_pack.host.engine.plan import guides_of

    file = lora_file(base, 1, kind)
    with caplog.at_level(logging.INFO):
        model = install.with_autoguidance(loaded(base, file), base, auto)
    (patcher,) = guides_of(model).values()
    assert patcher.model is not base.model
    assert named in caplog.text and "independent copy" in caplog.text
    apart = install.with_autoguidance(loaded(SD15.build(0), file), SD15.build(0), auto)
    assert torch.equal(run(model), run(apart))


@pytest.mark.slow
def test_what_both_have_needs_no_copy_whatever_it_is(install, auto, base):
    """A DoRA below, a LoRA on top of it in the main model alone."""
    from guidance_pack.host.engine.plan import guides_of

    below = loaded(base, lora_file(base, 1, "dora"))
    model = install.with_autoguidance(loaded(below, lora_file(base, 2)), below, auto)
    assert next(iter(guides_of(model).values())).model is base.model
    other = SD15.build(0)
    apart = loaded(other, lora_file(other, 1, "dora"))
    third = SD15.build(0)
    main = loaded(loaded(third, lora_file(third, 1, "dora")), lora_file(third, 2))
    assert far_apart(run(model), run(install.with_autoguidance(main, apart, auto))) < TOLERANCE


def test_without_a_way_to_load_it_again_the_error_names_the_cause_and_the_ways_out(install, auto, base):
    base.cached_patcher_init = None
    install.with_autoguidance(loaded(base, lora_file(base, 1)), base, auto)
    with pytest.raises(ValueError, match="differ in a DoRA.*Load the guide with another loader node"):
        install.with_autoguidance(loaded(base, lora_file(base, 1, "dora")), base, auto)
    bypassed = loaded(base, lora_file(base, 2), bypass=True)
    with pytest.raises(ValueError, match="carries a bypass LoRA, which cannot move to a copy"):
        install.with_autoguidance(loaded(base, lora_file(base, 1, "dora")), bypassed, auto)


def test_a_dora_after_autoguidance_is_refused_before_sampling(install, auto, base):
    model = install.with_autoguidance(base, base.clone(), auto, SD15.conditioning(3))
    late = loaded(model, lora_file(base, 1, "dora"))
    with pytest.raises(ValueError, match="differ in a DoRA.*Move the LoRA or patch before Autoguidance"):
        run(late)
    assert torch.equal(run(base), run(SD15.build(0)))


def test_the_same_lora_in_another_order_is_the_same_model(install, auto, base):
    one, two = (loaded(base, lora_file(base, seed)).patches for seed in (1, 2))

    def stacked(*all_patches):
        out = base.clone()
        for patches in all_patches:
            out.add_patches({key: found[0][1] for key, found in patches.items()}, 0.5)
        return out

    with pytest.raises(ValueError, match="one and the same model"):
        install.with_autoguidance(stacked(one, two), stacked(two, one), auto)


@pytest.mark.slow
def test_the_log_and_the_report_say_how_the_guide_gets_its_weights(install, auto, base, caplog):
    from guidance_pack.host.report.report import report, sigmas_of

    file = lora_file(base, 1)
    with caplog.at_level(logging.INFO):
        model = install.with_autoguidance(loaded(base, file), base, auto)
    assert "share one network, which stays loaded once" in caplog.text
    text = report(model, sigmas_of(model, "normal", 4), 1.0).text
    size = sum(tensor.nbytes for name, tensor in file.items() if not name.endswith("alpha")) / 2**20
    assert f"not loaded twice; switched: LoRA weights of {len(file) // 3} layers, {size:.1f} MB" in text
    model = install.with_autoguidance(loaded(base, lora_file(base, 1, "dora")), base, auto)
    assert "an independent copy because it differs in a DoRA" in report(model, sigmas_of(model, "normal", 4), 1.0).text
