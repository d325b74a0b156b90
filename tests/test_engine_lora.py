"""A guide that differs from the main MODEL by LoRAs: over one resident network, equal to two separate checkpoints."""

import pytest
import torch
from engine_probe import TOLERANCE, far_apart
from host_families import EVERY
from host_models import MODELS, count_forwards, sample, tensors
from lora_files import loaded, lora_file, norms

SD15 = MODELS["sd15"]


@pytest.fixture
def base(comfy):
    return SD15.build(0)


def run(model, spec=SD15, cfg=1.0, batch=1, **more):
    return tensors(
        sample(model, spec.conditioning(1), spec.conditioning(2), spec.latent(batch), steps=3, cfg=cfg,
               scheduler=spec.scheduler, **more)
    )[0]


def shares(install, model) -> bool:
    from guidance_pack.host.engine.plan import guides_of

    return all(patcher.model is model.model for patcher in guides_of(model).values())


def assert_as_apart(install, auto, pair, spec=SD15, **more):
    """The pair over one network equals the pair of two networks, built and patched separately; the guidance acts."""
    base = spec.build(0)
    main, guide = pair(base, base)
    together = install.with_autoguidance(main, guide, auto)
    assert shares(install, together)
    apart = install.with_autoguidance(*pair(spec.build(0), spec.build(0)), auto)
    expected = run(apart, spec, **more)
    assert far_apart(run(together, spec, **more), expected) < TOLERANCE
    assert far_apart(run(main, spec, **more), expected) > 100 * TOLERANCE, "the guidance is as good as zero"


# HiDream-O1 keeps what its first layers make of the prompt, whatever weights it has by then.
@pytest.mark.many
@pytest.mark.parametrize("family", ["sd15", "sdxl", "sd3", "flux", "wan", "qwen_image", "hidream_o1"])
@pytest.mark.parametrize("case", ["the base guides", "an earlier epoch guides"])
def test_one_network_equals_two_checkpoints(install, auto, family, case):
    spec = EVERY[family]
    late, early = (lora_file(spec.build(0), seed) for seed in (1, 2))
    pairs = {
        "the base guides": lambda first, second: (loaded(first, late), second),
        "an earlier epoch guides": lambda first, second: (loaded(first, late, 0.8), loaded(second, early, 0.6)),
    }
    assert_as_apart(install, auto, pairs[case], spec)


PAIRS = {
    "the guide has the LoRA": lambda a, b, one, two: (a, loaded(b, one)),
    "the same file at another strength": lambda a, b, one, two: (loaded(a, one), loaded(b, one, 0.3)),
    "a LoRA that both have": lambda a, b, one, two: (loaded(loaded(a, two), one), loaded(b, two)),
    "two LoRAs against one": lambda a, b, one, two: (loaded(loaded(a, one), two, -0.5), loaded(b, two, 0.7)),
    "main bypassed": lambda a, b, one, two: (loaded(a, one, bypass=True), b),
    "guide bypassed": lambda a, b, one, two: (a, loaded(b, one, bypass=True)),
    "both bypassed": lambda a, b, one, two: (loaded(a, one, bypass=True), loaded(b, two, bypass=True)),
    "main merged, guide bypassed": lambda a, b, one, two: (loaded(a, one), loaded(b, two, bypass=True)),
    "main bypassed, guide merged": lambda a, b, one, two: (loaded(a, one, bypass=True), loaded(b, two)),
}


@pytest.mark.slow
@pytest.mark.parametrize("case", PAIRS)
def test_every_way_to_wire_it(install, auto, base, case):
    one, two = lora_file(base, 1), lora_file(base, 2)
    assert_as_apart(install, auto, lambda first, second: PAIRS[case](first, second, one, two), cfg=3.0)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["tucker", "loha", "lokr", "diff"])
def test_every_kind_that_adds_to_weights(install, auto, base, kind):
    file = lora_file(base, 1, kind)
    assert_as_apart(install, auto, lambda first, second: (loaded(first, file), second))


@pytest.mark.slow
def test_changes_of_norms_and_biases(install, auto, base):
    file, draw = lora_file(base, 1), torch.Generator().manual_seed(3)
    for name, layer in norms(base).items():
        file[f"{name}.diff"] = 0.2 * torch.randn(layer.weight.shape, generator=draw)
        file[f"{name}.diff_b"] = 0.2 * torch.randn(layer.bias.shape, generator=draw)
    convolution = "diffusion_model.input_blocks.0.0"
    file[f"{convolution}.diff_b"] = torch.randn(32, generator=draw)
    assert_as_apart(install, auto, lambda first, second: (loaded(first, file), second))


def test_a_lora_on_a_part_of_a_joint_layer(install, auto):
    """Diffusers' names: to_q, to_k and to_v of Flux are rows of one layer."""
    spec, draw = MODELS["flux"], torch.Generator().manual_seed(1)
    file = {}
    for part in ("to_q", "to_v", "add_k_proj"):
        name = f"transformer.transformer_blocks.0.attn.{part}"
        file[f"{name}.lora_A.weight"] = torch.randn(4, 64, generator=draw) / 8
        file[f"{name}.lora_B.weight"] = torch.randn(64, 4, generator=draw)
    model = spec.build(0)
    offsets = [patch[3] for found in loaded(model, file).patches.values() for patch in found]
    assert len(offsets) == 3 and offsets[0] is not None
    assert_as_apart(install, auto, lambda first, second: (loaded(first, file), second), spec)


@pytest.mark.slow
def test_several_guides_over_one_network(install, auto, base):
    from guidance_pack.host.engine.plan import guides_of

    one, two = lora_file(base, 1), lora_file(base, 2)

    def chained(first, second, third):
        model = install.with_autoguidance(loaded(first, one), second, auto)
        return install.with_autoguidance(model, loaded(third, two), auto)

    together = chained(base, base, base)
    assert len(guides_of(together)) == 2 and shares(install, together)
    expected = run(chained(*(SD15.build(0) for _ in range(3))))
    assert far_apart(run(together), expected) < TOLERANCE


@pytest.mark.slow
def test_two_guides_over_a_network_that_is_not_the_main_one(install, auto, base):
    from guidance_pack.host.engine.plan import guides_of

    other, file = SD15.build(7), lora_file(base, 1)

    def chained(first, second):
        return install.with_autoguidance(install.with_autoguidance(base, first, auto), loaded(second, file), auto)

    together = chained(other, other)
    assert {id(patcher.model) for patcher in guides_of(together).values()} == {id(other.model)}
    assert far_apart(run(together), run(chained(SD15.build(7), SD15.build(7)))) < TOLERANCE


def test_a_lora_after_autoguidance_changes_the_main_model_alone(install, auto, base):
    file = lora_file(base, 1)
    after = loaded(install.with_autoguidance(base, base.clone(), auto, SD15.conditioning(3)), file)
    before = install.with_autoguidance(loaded(SD15.build(0), file), SD15.build(0), auto, SD15.conditioning(3))
    assert far_apart(run(after), run(before)) < TOLERANCE


@pytest.mark.slow
@pytest.mark.parametrize("family, node", [("sd3", "ModelSamplingSD3"), ("sd15", "ModelSamplingDiscrete")])
def test_a_sampling_patch_of_one_of_the_two_is_switched_too(install, auto, family, node):
    from comfy_extras import nodes_model_advanced

    spec = MODELS[family]
    file = lora_file(spec.build(0), 1)
    arguments = {"ModelSamplingSD3": (5.0,), "ModelSamplingDiscrete": ("v_prediction", True)}[node]
    patch = getattr(nodes_model_advanced, node)().patch
    assert_as_apart(install, auto, lambda first, second: (patch(loaded(first, file), *arguments)[0], second), spec)
    assert_as_apart(install, auto, lambda first, second: (loaded(first, file), patch(second, *arguments)[0]), spec)


@pytest.mark.slow
def test_sampler_custom_advanced(install, auto, base):
    from engine_probe import cfg_guider, setting_of

    file = lora_file(base, 1)
    setting = setting_of(base, SD15, steps=3, sampler="heun", latent_seed=4)
    results = []
    for first, second in ((base, base), (SD15.build(0), SD15.build(0))):
        model = install.with_autoguidance(loaded(first, file), second, auto)
        results.append(setting.run(cfg_guider(model, SD15.conditioning(1), SD15.conditioning(2), 3.0)))
    assert far_apart(*results) < TOLERANCE


def test_weight_one_is_the_main_model_and_evaluates_nothing_more(install, base):
    from guidance_pack.guidance.rules.autoguidance import Autoguidance

    main = loaded(base, lora_file(base, 1))
    plain = run(main)
    model = install.with_autoguidance(main, base, Autoguidance(1.0))
    with count_forwards(main) as count:
        assert torch.equal(run(model), plain)
    assert count.evaluations == 3


@pytest.mark.slow
def test_outside_its_interval_every_step_is_the_main_models_own(install, base):
    """The main branch is never unmerged: until the guide acts, the trajectory is bit-identical."""
    from engine_probe import cfg_guider, recorded, setting_of

    from guidance_pack.guidance.rules.autoguidance import Autoguidance
    from guidance_pack.guidance.schedule import Interval

    main = loaded(base, lora_file(base, 1))
    guided = install.with_autoguidance(main, base, Autoguidance(2.0, Interval(0.6, 1.0)))
    steps = []
    for model in (main, guided):
        model, calls = recorded(model)
        setting_of(base, SD15, steps=6).run(cfg_guider(model, SD15.conditioning(1), SD15.conditioning(2), 1.0))
        steps.append([call.denoised for call in calls])
    equal = [torch.equal(*pair) for pair in zip(*steps, strict=True)]
    assert equal[:3] == [True] * 3 and not equal[-1]


@pytest.mark.slow
def test_the_order_of_components_makes_no_difference(install, auto, base):
    from guidance_pack.guidance.rules.cfg import CFG

    main = loaded(base, lora_file(base, 1))
    first = install.with_rule(install.with_autoguidance(main, base, auto), CFG(4.0))
    second = install.with_autoguidance(install.with_rule(main, CFG(4.0)), base, auto)
    assert torch.equal(run(first), run(second))


@pytest.mark.slow
@pytest.mark.parametrize("before", [True, False], ids=["compiled before the LoRA", "compiled after it"])
def test_a_compiled_main_model_and_its_base(install, auto, base, before):
    """The compiled network of the main model never answers for the guide."""
    from comfy_api.torch_helpers import set_torch_compile_wrapper

    file = lora_file(base, 1)
    expected = run(install.with_autoguidance(loaded(SD15.build(0), file), SD15.build(0), auto))
    first = base.clone()
    if before:
        set_torch_compile_wrapper(first, backend="eager")
    main = loaded(first, file)
    if not before:
        set_torch_compile_wrapper(main, backend="eager")
    guided = install.with_autoguidance(main, first, auto)
    assert far_apart(run(guided), expected) < TOLERANCE
    assert far_apart(run(guided), expected) < TOLERANCE
