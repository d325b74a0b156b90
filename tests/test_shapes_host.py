"""The shapes of CFG inside the host: beside the host's own nodes, over its families and ranks, in batches."""

from dataclasses import replace

import engine_probe as probe
import pytest
import torch
from host_models import MODELS, count_forwards, tensors
from test_engine_families import as_family, picked

CFG = 5.0
SD15 = MODELS["sd15"]
FLOW, EPS = "flow", "eps"


@pytest.fixture(scope="module")
def families(comfy):
    return {family: as_family(family, 0) for family in ("eps", "v", "edm", "flow")}


def shapes():
    """Every rule of Shape CFG that needs no prompt of its own, at its defaults, at half their amount."""
    from guidance_pack.guidance.branch import EMPTY
    from guidance_pack.host.schema.shapes import CHOICES

    return [kind(amount=0.5) for kinds in CHOICES.values() for kind in kinds if EMPTY not in kind.uses]


def shaped(model, *rules):
    from guidance_pack.host.engine.install import with_rule

    for rule in rules:
        model = with_rule(model, rule)
    return model


def guider(model, spec=SD15, cfg=CFG):
    return probe.cfg_guider(model, spec.conditioning(1), spec.conditioning(2), cfg)


def beside(main, ours, theirs, spec=SD15):
    """What our rule gives in a run, what a node of the host gives at the same inputs, and those inputs."""
    setting = probe.setting_of(main, spec, steps=3, latent_seed=3)
    model, calls = probe.recorded(shaped(main, ours))
    setting.run(guider(model, spec))
    return [call.denoised for call in calls], probe.replay(guider(theirs, spec), setting, calls), calls, setting


def host_node(module, name, model, *values):
    import importlib

    return getattr(importlib.import_module(f"comfy_extras.{module}"), name).execute(model, *values).result[0]


@pytest.mark.parametrize("family", [EPS, FLOW])
def test_the_host_s_tcfg_and_cfgnorm_are_ours(family, families):
    from guidance_pack.guidance.rules.cfg_norm import CFGNorm
    from guidance_pack.guidance.rules.tcfg import TCFG

    main = families[family]
    for ours, theirs in (
        (TCFG(), host_node("nodes_tcfg", "TCFG", main)), (CFGNorm(), host_node("nodes_cfg", "CFGNorm", main, 1.0)),
    ):  # fmt: skip
        found, expected, _, _ = beside(main, ours, theirs)
        assert all(probe.far_apart(a, b) < 1e-4 for a, b in zip(found, expected, strict=True)), ours.name


@pytest.mark.parametrize("family", [EPS, FLOW])
def test_the_host_s_renormcfg_is_ours_for_one_picture(family, families):
    """In a batch the host's compares all pictures with all limits at once and fails."""
    from guidance_pack.guidance.rules.renorm import Renorm

    main = families[family]
    theirs = host_node("nodes_lumina2", "RenormCFG", main, 100.0, 1.0)
    found, expected, _, _ = beside(main, Renorm(), theirs)
    assert all(probe.far_apart(a, b) < 1e-4 for a, b in zip(found, expected, strict=True))
    pair = probe.setting_of(main, SD15, steps=1, batch=2, latent_seed=3)
    with pytest.raises(RuntimeError, match="ambiguous"):
        pair.run(guider(theirs))


@pytest.mark.parametrize("family", [EPS, FLOW])
def test_the_host_s_cfg_zero_star_misses_the_noisy_picture(family, families):
    """It scales the denoised estimate by the factor of the velocities: (w - 1)(s - 1) x less than the paper."""
    from guidance_pack.guidance.rules.cfg_zero import CFGZero

    main = families[family]
    found, theirs, calls, setting = beside(main, CFGZero(), host_node("nodes_cfg", "CFGZeroStar", main))
    c = probe.alone(main, SD15.conditioning(1), setting, calls)
    u = probe.alone(main, SD15.conditioning(2), setting, calls)
    for ours, other, call, positive, negative in zip(found, theirs, calls, c, u, strict=True):
        moved, still = call.x - positive, call.x - negative
        fit = (moved * still).sum() / still.square().sum()
        missing = (CFG - 1) * (fit - 1) * call.x
        assert probe.far_apart(ours - other, missing) < 2e-2


@pytest.mark.parametrize("family", ["eps", "v", "edm", "flow"])
def test_every_rule_is_what_the_law_makes_of_the_host_s_branches(family, families):
    """Each step of a run again: the bare branches of the host through the law, at the host's noise levels."""
    from guidance_pack.guidance.branch import NEGATIVE, POSITIVE
    from guidance_pack.guidance.compose import Guidance, Memory
    from guidance_pack.host.common.noise_levels import level_of

    main, memory = families[family], Memory()
    setting = probe.setting_of(main, SD15, steps=3, latent_seed=3)
    model, calls = probe.recorded(shaped(main, *shapes()))
    setting.run(guider(model))
    bare = [probe.alone(main, SD15.conditioning(i), setting, calls) for i in (1, 2)]
    sampling = main.get_model_object("model_sampling")
    levels = [level_of(sampling, torch.full((1,), float(sigma))) for sigma in setting.sigmas]
    for position, (call, positive, negative) in enumerate(zip(calls, *bare, strict=True), 1):
        memory.move_to(position)
        expected = Guidance(tuple(shapes())).denoise(
            {POSITIVE: positive, NEGATIVE: negative}.__getitem__, call.x, levels[position - 1], CFG, memory,
            position=position, following=levels[position],
        )  # fmt: skip
        assert probe.far_apart(call.denoised, expected) < 1e-3, position


@pytest.mark.many
@pytest.mark.parametrize("name", ["sd15", "stable_audio", "wan", "sd3"])  # ranks 4, 3 and 5, and a flow
def test_a_batch_of_3_is_three_batches_of_1_on_every_rank(name, comfy):
    spec = MODELS[name]
    main = spec.build(0)
    model = shaped(main, *shapes())
    whole = probe.setting_of(main, spec, steps=2, batch=3, latent_seed=3)
    with count_forwards(main, batch=3) as count:
        (together,) = tensors(whole.run(guider(model, spec)))
    assert count.evaluations == 4 and torch.isfinite(together).all(), "no rule costs an evaluation"
    for index in range(3):
        part = replace(whole, latent=picked(whole.latent, index), noise=picked(whole.noise, index))
        (single,) = tensors(part.run(guider(model, spec)))
        assert probe.far_apart(single, together[index : index + 1]) < 1e-3


def test_a_pack_of_video_and_sound_is_refused_by_rules_that_see_places(comfy):
    from guidance_pack.guidance.rules.cfg_zero import CFGZero
    from guidance_pack.guidance.rules.fdg import FDG

    spec = MODELS["ltxav"]
    main = spec.build(0)
    setting = probe.setting_of(main, spec, steps=1, latent_seed=3)
    with count_forwards(main) as count, pytest.raises(ValueError, match="FDG finds no channels and places in it"):
        setting.run(guider(shaped(main, FDG()), spec))
    assert count.forwards == 0
    off, other = shaped(main, FDG(amount=0.0)), shaped(main, CFGZero())
    assert all(torch.isfinite(t).all() for model in (off, other) for t in tensors(setting.run(guider(model, spec))))


def test_cfg_plus_plus_is_the_host_s_sampler_of_that_name(families):
    """Euler with CFG++ as a rule gives what sampler euler_cfg_pp gives at the same share, on an eps model."""
    from guidance_pack.guidance.rules.cfg_pp import CFGPlusPlus

    main = families[EPS]
    setting = probe.setting_of(main, SD15, steps=4, latent_seed=3)
    ours = setting.run(guider(shaped(main, CFGPlusPlus(share=0.6)), cfg=1.0))
    theirs = replace(setting, sampler="euler_cfg_pp").run(guider(main, cfg=0.6))
    assert probe.far_apart(ours, theirs) < 1e-3
