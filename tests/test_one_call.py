"""A Degraded Model as a guide of its own MODEL is one more entry of the host's call: same numbers, half the calls."""

import engine_probe as probe
import pytest
import test_degrade
import torch
from host_families import BUILT
from host_models import MODELS, count_forwards, sample, tensors
from host_scenes import SCENES
from lora_files import loaded, lora_file
from test_degrade import ATTENTION, BLOCKS, assert_same, degraded, kinds_of

scene = test_degrade.scene
SD15 = MODELS["sd15"]
BESIDE = [
    *((name, "skipped layers") for name in BLOCKS), *kinds_of("sd15", "flux"),
    *((name, "pooled attention") for name in ATTENTION if name not in ("sd15", "flux")),
]  # fmt: skip


def steered(model, weak, spec, cfg=3.0, steps=2, conds=None, batch=2):
    """The latents of a sampled pair, how often the network was called, and with how many rows."""
    guided = probe.guided(model, weak, weight=2.0, cfg=False)
    positive, negative = conds or (spec.conditioning(1), spec.conditioning(2))
    with count_forwards(model) as count:
        found = sample(guided, positive, negative, spec.latent(batch), steps=steps, cfg=cfg)
    return found, count.forwards, count.rows


def divided_apart(model, spec, monkeypatch):
    """How far the host alone is from itself when it divides its call: what rounding makes of another batch."""
    from comfy.model_patcher import ModelPatcher

    def plain():
        return sample(model, spec.conditioning(1), spec.conditioning(2), spec.latent(2), steps=2, cfg=3.0)

    whole = plain()
    with monkeypatch.context() as short:
        short.setattr(ModelPatcher, "get_free_memory", lambda *_: 0)
        return probe.far_apart(plain(), whole)


@pytest.fixture
def by_itself(monkeypatch):
    """Guides are evaluated in calls of their own."""
    from guidance_pack.host.engine import observer

    def run(*args, **more):
        with monkeypatch.context() as patch:
            patch.setattr(observer, "may_ride", lambda *_: False)
            return steered(*args, **more)

    return run


@pytest.mark.many
@pytest.mark.parametrize(("name", "kind"), dict.fromkeys(BESIDE))
def test_one_call_gives_what_two_give(scene, by_itself, monkeypatch, name, kind):
    model, spec = scene(name)[0], MODELS[name]
    weak = degraded(model, kind, 0.5 if "attention" in kind else None)
    together, calls, rows = steered(model, weak, spec)
    apart, more_calls, same_rows = by_itself(model, weak, spec)
    tolerance = probe.TOLERANCE
    if name == "sdxl_zsnr":  # v, with its rounding, times the sigma of its first step, 4,518
        tolerance += 4 * divided_apart(model, spec, monkeypatch)
    for one, other in zip(tensors(together), tensors(apart), strict=True):
        assert_same(one, other, tolerance)
    assert rows == same_rows
    assert more_calls - calls == (0 if kind == "input noise" else 2)


@pytest.mark.parametrize(("name", "kind", "saved"), [case for case in (
    ("svd", "identity attention", 2), ("svd", "random blocks", 2), ("minimax_h3", "skipped layers", 0),
) if case[0] in BUILT])  # fmt: skip
def test_frames_and_places_as_rows_and_a_network_of_one_latent(comfy, by_itself, name, kind, saved):
    """SVD's attention over time has a row for every place of the picture; MiniMax H3 takes no batch."""
    spec = BUILT[name]
    model = spec.build(0)
    weak = degraded(model, kind)
    together, calls, _ = steered(model, weak, spec, batch=1 if name == "minimax_h3" else 2)
    apart, more_calls, _ = by_itself(model, weak, spec, batch=1 if name == "minimax_h3" else 2)
    for one, other in zip(tensors(together), tensors(apart), strict=True):
        assert_same(one, other, 1e-4)
    assert more_calls - calls == saved


def test_the_other_rows_are_those_of_a_run_without_the_guide(scene):
    """Bit for bit: the perturbation touches no row but the guide's. The call is as large in both runs."""
    from guidance_pack.host.degrade.degrade import perturbations_in
    from guidance_pack.host.engine.entries import ChangedEntries

    model = scene("sd15")[0]
    x, t, text = probe.noise_like((6, 4, 8, 8)), torch.full((6,), 2.0), torch.ones(6, 8, 768)
    for _, kind in kinds_of("sd15"):
        if kind == "input noise":
            continue
        weak = degraded(model, kind)
        wrapper = ChangedEntries({2: perturbations_in(weak.model_options)})
        found = {}
        for name, around in (("plain", {}), ("perturbed", {"apply_model": {"ours": [wrapper]}})):
            options = {"cond_or_uncond": [1, 2, 0], "sigmas": t[:1], "wrappers": around}
            with torch.inference_mode():
                found[name] = model.model.apply_model(x, t, c_crossattn=text, transformer_options=options)
        kept = [0, 1, 4, 5]
        assert torch.equal(found["plain"][kept], found["perturbed"][kept]), kind
        assert not torch.equal(found["plain"][2:4], found["perturbed"][2:4]), kind


def test_patches_of_others_see_a_positive_prompt_in_the_guides_rows(scene):
    """IPAdapter and its like give every entry the picture that belongs to its prompt."""
    seen = []
    model = scene("sd15")[0].clone()
    model.set_model_attn2_output_patch(lambda h, options: (seen.append(tuple(options["cond_or_uncond"])), h)[1])
    _, calls, _ = steered(model, degraded(model, "skipped layers"), SD15)
    assert calls == 2 and {tuple(sorted(entries)) for entries in seen} == {(0, 0, 1)}


def lora_guide(name, case):
    """A MODEL and a guide over its network with other LoRAs."""
    spec = BUILT.get(name) or MODELS[name]
    base = spec.build(0)
    late, early = loaded(base, lora_file(base, 1)), loaded(base, lora_file(base, 2), 0.6)
    return {
        "the base guides": (late, base), "an earlier epoch guides": (late, early),
        "it is degraded too": (base, degraded(early, "skipped layers")),
        "bypassed": (base, loaded(base, lora_file(base, 2), bypass=True)),
    }[case], spec


@pytest.mark.many
@pytest.mark.parametrize(("name", "case", "saved"), [
    ("sd15", "an earlier epoch guides", 2), ("flux", "the base guides", 2), ("sd3", "the base guides", 2),
    ("wan", "an earlier epoch guides", 2), ("sd15", "it is degraded too", 2), ("sd15", "bypassed", 0),
    ("svd", "the base guides", 0),  # its time embedding has one row for all frames
])  # fmt: skip
def test_a_guide_of_other_loras_is_some_rows_of_the_call(comfy, by_itself, name, case, saved):
    (model, weak), spec = lora_guide(name, case)
    together, calls, rows = steered(model, weak, spec)
    apart, more_calls, same_rows = by_itself(model, weak, spec)
    assert_same(together, apart, 1e-5)
    assert (more_calls - calls, rows) == (saved, same_rows)


def test_loras_are_off_again_after_every_call(comfy):
    (model, weak), spec = lora_guide("sd15", "an earlier epoch guides")
    plain = sample(model, spec.conditioning(1), spec.conditioning(2), spec.latent(2), steps=2, cfg=3.0)
    steered(model, weak, spec)
    again = sample(model, spec.conditioning(1), spec.conditioning(2), spec.latent(2), steps=2, cfg=3.0)
    assert torch.equal(plain, again)


def test_short_of_memory_the_host_divides_the_call(scene, monkeypatch):
    from comfy.model_patcher import ModelPatcher

    model = scene("sd15")[0]
    weak = degraded(model, "dropout")
    together, calls, _ = steered(model, weak, SD15)
    monkeypatch.setattr(ModelPatcher, "get_free_memory", lambda *_: 0)
    divided, more_calls, _ = steered(model, weak, SD15)
    assert (calls, more_calls) == (2, 6)
    assert_same(together, divided)


@pytest.mark.parametrize("conds", ["ControlNet", "areas", "masks", "prompts in turns", "area in the negative prompt"])
def test_prompts_of_every_kind(scene, by_itself, conds):
    model = scene("sd15")[0]
    weak, prompts = degraded(model, "blurred attention"), SCENES[conds].conds()
    together, calls, _ = steered(model, weak, SD15, conds=prompts)
    apart, more_calls, _ = by_itself(model, weak, SD15, conds=prompts)
    assert_same(together, apart)
    assert calls < more_calls


@pytest.mark.parametrize("kinds", [("identity attention", "skipped layers"), ("dropout", "blurred attention")])
def test_all_of_several_perturbations_ride_along(scene, by_itself, kinds):
    model = scene("sd15")[0]
    weak = degraded(degraded(model, kinds[0]), kinds[1])
    together, calls, _ = steered(model, weak, SD15)
    apart, more_calls, _ = by_itself(model, weak, SD15)
    assert_same(together, apart)
    assert (calls, more_calls) == (2, 4)
    assert probe.far_apart(together, steered(model, degraded(model, kinds[0]), SD15)[0]) > 1e-4


def test_at_cfg_1_the_guide_rides_with_the_positive_prompt_alone(scene, by_itself):
    model = scene("sd15")[0]
    weak = degraded(model, "identity attention")
    together, calls, rows = steered(model, weak, SD15, cfg=1.0)
    apart, more_calls, _ = by_itself(model, weak, SD15, cfg=1.0)
    assert_same(together, apart)
    assert (calls, rows, more_calls) == (2, 8, 4)


@pytest.mark.parametrize("kind", ["identity attention", None])
def test_a_guides_own_prompt_rides_too(scene, by_itself, kind):
    model = scene("sd15")[0]
    weak = degraded(model, kind) if kind else model
    guided = probe.guided(model, weak, weight=2.0, cfg=False, positive=SD15.conditioning(5))
    with count_forwards(model) as count:
        together = sample(guided, SD15.conditioning(1), SD15.conditioning(2), SD15.latent(2), steps=2, cfg=3.0)
    with count_forwards(model) as others:
        from guidance_pack.host.engine import observer

        before, observer.may_ride = observer.may_ride, lambda *_: False
        try:
            apart = sample(guided, SD15.conditioning(1), SD15.conditioning(2), SD15.latent(2), steps=2, cfg=3.0)
        finally:
            observer.may_ride = before
    assert_same(together, apart)
    assert (count.forwards, others.forwards) == (2, 4)


@pytest.mark.parametrize("what", ["wrapper", "patch", "function", "cache"])
def test_a_guide_that_differs_in_more_is_evaluated_by_itself(scene, what):
    """Something on the MODEL behind the Degraded Model, or around its network."""
    from comfy.patcher_extension import WrappersMP

    plain = scene("sd15")[0]
    weak, model = degraded(plain, "skipped layers"), plain.clone()
    if what == "wrapper":
        model.add_wrapper(WrappersMP.DIFFUSION_MODEL, lambda executor, *args, **more: executor(*args, **more))
    elif what == "patch":
        model.set_model_input_block_patch(lambda h, options: h)
    elif what == "function":
        model.set_model_unet_function_wrapper(lambda apply, c: apply(c["input"], c["timestep"], **c["c"]))
    else:
        from comfy_extras.nodes_easycache import EasyCacheNode

        model = EasyCacheNode.execute(plain, 0.0, 0.0, 1.0, False).args[0]
    _, calls, _ = steered(model, weak, SD15)
    assert calls == 4
