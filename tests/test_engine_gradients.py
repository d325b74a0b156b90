"""Gradients on the real host: the update is the law with the gradient worked out by hand, in every place and family."""

import comfy_kitchen
import pytest
import steering
import torch
from engine_probe import alone, cfg_guider, far_apart, recorded, setting_of
from host_families import BUILT
from host_models import MODELS, sample, tensors

from guidance_pack.guidance.rules.gradient import GradientGuidance

SD15, RADIANCE = MODELS["sd15"], MODELS["chroma_radiance"]


@pytest.fixture(scope="module")
def pack(comfy):
    from guidance_pack.host.engine import steer as objectives

    return objectives


def steer(model, guide, label="dog", *, scale=500.0, at="auto", decoder="vae", vae=None, schedule=None, **more):
    """Classifier Guidance as its node does it."""
    from guidance_pack.guidance.schedule import ALWAYS
    from guidance_pack.host.engine.steer import steer_to_class

    rule = GradientGuidance(scale, schedule=schedule or ALWAYS, **more)
    with torch.inference_mode():
        return steer_to_class(model, guide, label, rule, at=at, decoder=decoder, vae=vae)


def ab(model, sigma: torch.Tensor) -> tuple[float, float]:
    """The coefficients of x = a x0 + b n at the model's own sigma."""
    from comfy.model_sampling import CONST

    s = float(sigma.flatten()[0])
    return (1 - s, s) if isinstance(model.get_model_object("model_sampling"), CONST) else (1.0, s)


def pushes(model, guided, spec, batch=1, steps=3, seed=11):
    """(call, host's own D) at every evaluation of a guided run at cfg 1."""
    setting = setting_of(model, spec, steps=steps, batch=batch)
    probe, calls = recorded(guided)
    setting.run(cfg_guider(probe, spec.conditioning(1), spec.conditioning(2), 1.0))
    return list(zip(calls, alone(model, spec.conditioning(1), setting, calls), strict=True))


def check(found, model, gradient, held: bool, scale=500.0, tolerance=1e-4):
    """D' - D = s r g at every call, and it is no rounding error."""
    seen = 0
    for call, own in found:
        a, b = ab(model, call.sigma)
        if a == 0.0:
            assert torch.equal(call.denoised, own), "a level without any signal is not guided"
            continue
        r = b**2 / (a**2 + b**2) if held else b**2 / a
        push = scale * r * gradient(call, own, a, b)
        size = max(float(t.abs().max()) for t in (own, push))
        assert float((call.denoised - own - push).abs().max()) <= tolerance * size, f"at sigma {call.level:g}"
        seen += float(push.abs().max()) > 100 * tolerance * size
    assert seen, "the push is too small to tell anything"


def dog(network, picture, timestep=None):
    return steering.log_probability(network, picture, 1, timestep)


@pytest.mark.parametrize("sees", ["clean", "noisy", "timestep"])
def test_the_noisy_input_of_a_pixel_model_is_looked_at_in_vp_coordinates(pack, sees):
    """A flow model of the host that works on pictures: D' = D + s t^2/(1-t) grad log p(y | x / sqrt((1-t)^2 + t^2))."""
    from guidance_pack.guidance.noise_schedule import noise_schedule

    model = steering.as_nodes_do(MODELS["chroma_radiance"].build, 0)
    guide = steering.loaded(3, sees=sees)
    truth = steering.ordinary_copy(guide.patchers[0].model)

    def gradient(call, own, a, b):
        time = None
        if sees == "timestep":
            time = noise_schedule("linear").timestep(torch.tensor([b / a], dtype=torch.float64)).repeat(len(call.x))
        return steering.gradient_of(lambda x: dog(truth, x / (a**2 + b**2) ** 0.5, time), call.x)

    found = pushes(model, steer(model, guide, at="noisy input"), RADIANCE, batch=2)
    check(found, model, gradient, held=False)


FAMILIES = ["sd15", "sd20_v", "sdxl_edm", "sd3", "flux", "wan"]


@pytest.mark.many
@pytest.mark.parametrize("name", FAMILIES)
def test_the_denoised_estimate_through_the_linear_colours(pack, name):
    from guidance_pack.host.common.decoders import Decoder

    model = steering.as_nodes_do(MODELS[name].build, 0)
    guide = steering.loaded(3)
    truth = steering.ordinary_copy(guide.patchers[0].model)
    latents = model.get_model_object("latent_format")
    linear = Decoder("linear rgb")

    def score(denoised):
        picture = linear.picture(denoised, latents, None)
        if picture.ndim == 5:
            return torch.stack([dog(truth, frame) for frame in picture.unbind(2)]).mean(0)
        return dog(truth, picture)

    found = pushes(model, steer(model, guide, at="denoised", decoder="linear rgb"), MODELS[name])
    check(found, model, lambda call, own, a, b: steering.gradient_of(score, own), held=True)


@pytest.mark.many
@pytest.mark.parametrize("kind", ["autoencoder", "tiny_autoencoder"])
@pytest.mark.parametrize("name", ["sd15", "sd20_v"])
def test_the_denoised_estimate_through_a_vae(pack, kind, name):
    model = steering.as_nodes_do(MODELS[name].build, 0)
    guide, vae = steering.loaded(3), getattr(steering, kind)()
    exact = torch.float64 if kind == "autoencoder" else torch.float32  # ReLU's kinks lie elsewhere in float64
    truth, decoder = (steering.ordinary_copy(n, exact) for n in (guide.patchers[0].model, vae.first_stage_model))
    factor = model.get_model_object("latent_format").scale_factor

    def gradient(call, own, a, b):
        return steering.gradient_of(lambda d: dog(truth, decoder.decode(d / factor)), own, exact)

    found = pushes(model, steer(model, guide, at="denoised", vae=vae), MODELS[name])
    check(found, model, gradient, held=True)


@pytest.mark.many
@pytest.mark.parametrize("name", ["sd15", "sd20_v", "sd3", "flux", "wan", "chroma_radiance"])
def test_through_the_denoiser_is_the_slope_of_the_score(pack, name):
    """Along the gradient's own direction, finite differences of log p(decode(D(x))) by the host's own evaluation."""
    spec = MODELS[name]
    check_slopes(steering.as_nodes_do(spec.build, 0), spec)


@pytest.mark.many
@pytest.mark.parametrize("name", ["sd15", "flux", "wan", "chroma_radiance"])
def test_short_of_memory_the_blocks_are_evaluated_again_and_the_gradient_is_the_same(pack, name, monkeypatch):
    from guidance_pack.host.engine import recompute, wrappers

    spec, blocks = MODELS[name], []
    model = steering.as_nodes_do(spec.build, 0)
    guided = steer(model, steering.loaded(3), at="through denoiser", decoder="linear rgb", scale=100.0)

    def drawn(short):
        monkeypatch.setattr(wrappers, "is_short", lambda *_: short)
        (out,) = tensors(sample(guided, spec.conditioning(1), spec.conditioning(2), spec.latent(2), steps=2))
        return out

    whole = drawn(False)
    evaluate = recompute._evaluate
    monkeypatch.setattr(recompute, "_evaluate", lambda *args, **named: (blocks.append(1), evaluate(*args, **named))[1])
    assert far_apart(drawn(True), whole) < 1e-5 and blocks, "sums in another order"
    held = [vars(module) for module in model.model.diffusion_model.modules()]
    assert not any("forward" in own for own in held)


def test_an_attention_that_a_node_put_on_the_model_stays_when_a_gradient_passes(pack):
    """Its estimate is another one, and so is its slope."""

    def doubled(function, q, k, v, *args, **kwargs):
        return function(q * 2, k, v * 3, *args, **kwargs)

    model = steering.as_nodes_do(SD15.build, 0)
    model.model_options["transformer_options"]["optimized_attention_override"] = doubled
    check_slopes(model, SD15)


def test_an_attention_without_a_gradient_is_refused_in_words(pack):
    def sage(function, q, *args, **kwargs):
        return function(q, *args, **kwargs).detach()

    model = steering.as_nodes_do(SD15.build, 0)
    model.model_options["transformer_options"]["optimized_attention_override"] = sage
    guided = steer(model, steering.loaded(3), at="through denoiser", decoder="linear rgb")
    with pytest.raises(ValueError, match="attention of its own.*gives no gradient.*at = denoised"):
        pushes(model, guided, SD15, steps=1)


KERNELS = [  # older ComfyUIs have not all of them
    name for name in ("apply_rope", "apply_rope_split_half", "rms_rope", "rms_rope_split_half")
    if hasattr(comfy_kitchen, name)
]  # fmt: skip


@pytest.mark.parametrize("name", KERNELS)
def test_kernels_that_networks_call_in_training_too_have_a_backward(pack, name):
    """ComfyUI's kernels for rotary embeddings have none, and several networks call them whatever `in_training` says."""
    from guidance_pack.host.common.autograd import Aliases, scope

    q, k = (torch.randn(1, 4, 2, 8, generator=torch.Generator().manual_seed(seed)) for seed in (0, 1))
    turns = torch.randn(1, 4, 1, 4, 2, 2, generator=torch.Generator().manual_seed(2))
    gains = (torch.linspace(0.5, 2, 8), torch.linspace(2, 1, 8)) if name.startswith("rms") else ()

    def score(q):
        return sum(out.sin().sum() for out in getattr(comfy_kitchen, name)(q, k, turns, *gains))

    with torch.inference_mode(), scope(Aliases()):
        leaf = q.clone().requires_grad_()
        (found,) = torch.autograd.grad(score(leaf), leaf)
    direction = found / found.norm()
    assert steering.slope(score, q, direction, 1e-2) == pytest.approx(float(found.norm()), rel=1e-2)


@pytest.mark.parametrize("name", [name for name in ("joy_image", "ernie", "cosmos_predict2") if name in BUILT])
def test_networks_that_call_these_kernels_give_a_gradient(pack, name):
    spec = BUILT[name]
    model = steering.as_nodes_do(spec.build, 0)
    guided = steer(model, steering.loaded(3), at="through denoiser", decoder="linear rgb", scale=100.0)
    assert any(far_apart(call.denoised, own) > 1e-3 for call, own in pushes(model, guided, spec, steps=2))


def check_slopes(model, spec):
    """The push of a gradient through the denoiser against the slope of the score."""
    from guidance_pack.host.common.decoders import Decoder, is_pixels

    guide = steering.loaded(3)
    truth = steering.ordinary_copy(guide.patchers[0].model)
    latents = model.get_model_object("latent_format")
    seen = Decoder("pixels" if is_pixels(latents) else "linear rgb")
    guided = steer(model, guide, at="through denoiser", decoder="linear rgb", scale=100.0)
    found = pushes(model, guided, spec)
    setting = setting_of(model, spec, steps=3)

    def score(x, call):
        moved = type(call)(x.float(), call.sigma, call.denoised)
        (own,) = alone(model, spec.conditioning(1), setting, [moved])
        picture = seen.picture(own.clone().double(), latents, None)
        frames = picture.unbind(2) if picture.ndim == 5 else [picture]
        return torch.stack([dog(truth, frame) for frame in frames]).mean(0)

    checked = 0
    for call, own in found:
        a, b = ab(model, call.sigma)
        if a < 0.05 or far_apart(call.denoised, own) < 1e-4:  # no signal yet, or a push lost in float32
            continue
        g = (call.denoised - own) * (a / b**2 / 100.0)
        direction = g / g.norm()
        steps = [0.2, 0.1]
        slopes = [steering.slope(lambda x, c=call: score(x, c), call.x, direction, step) for step in steps]
        assert slopes[1] == pytest.approx(float(g.norm()), rel=2e-2), (slopes, call.level)
        checked += 1
    assert checked
