"""The small networks stand in for real models: finite, dependent on all they are told, and counted right."""

import host_models
import pytest
import torch
from host_models import MODELS, count_forwards, sample, tensors


@pytest.fixture(params=MODELS)
def spec(request, comfy):
    return MODELS[request.param]


@pytest.fixture
def model(spec):
    return spec.build(seed=0)


def run(spec, model, *, positive=1, batch=1, latent=0, cfg=4.0, **more):
    arguments = {"seed": 7, "steps": 2, "scheduler": spec.scheduler, **more}
    given = spec.latent(batch, latent)
    return tensors(sample(model, spec.conditioning(positive), spec.conditioning(2), given, cfg=cfg, **arguments))


def change(one, other):
    """Mean change relative to the size of `one`, over all parts of the latents."""
    return min(((a - b).norm() / a.norm()).item() for a, b in zip(one, other, strict=True))


def test_is_the_hosts_own_class_with_the_prediction_that_the_table_says(spec, model):
    import comfy.model_base
    import comfy.model_sampling

    assert isinstance(model.model, comfy.model_base.BaseModel)
    assert isinstance(model.get_model_object("model_sampling"), getattr(comfy.model_sampling, spec.prediction))


def test_samples_finite_latents_of_the_given_shapes(spec, model):
    out = run(spec, model, batch=2)
    assert [t.shape for t in out] == [t.shape for t in tensors(spec.latent(2)["samples"])]
    assert all(torch.isfinite(t).all() and t.std() > 0 for t in out)


def test_depends_on_prompt_noise_latent_and_weights(spec, model):
    out = run(spec, model)
    assert change(out, run(spec, model)) == 0
    assert change(out, run(spec, model, positive=3)) > 1e-2
    assert change(out, run(spec, model, seed=8)) > 1e-2
    assert change(out, run(spec, spec.build(seed=1))) > 1e-2
    assert change(run(spec, model, denoise=0.5), run(spec, model, denoise=0.5, latent=1)) > 1e-2


@pytest.mark.parametrize("cfg, per_step", [(1.0, 1), (4.0, 2)])
@pytest.mark.parametrize("batch", [1, 2])
def test_counts_the_evaluations_of_a_step(spec, model, cfg, per_step, batch):
    with count_forwards(model, batch) as count:
        counted = run(spec, model, batch=batch, cfg=cfg)
    assert count.evaluations == 2 * per_step
    assert 2 <= count.forwards <= 2 * per_step
    assert change(counted, run(spec, model, batch=batch, cfg=cfg)) == 0
    assert count.evaluations == 2 * per_step, "counting must end with the block"


def test_the_networks_raw_output_follows_x_sigma_and_prompt_at_size_one(spec, model):
    base = predict(spec, model)
    assert all(0.05 < t.std() < 20 for t in base)
    assert change(base, predict(spec, model, x=5)) > 0.05
    assert change(base, predict(spec, model, percent=0.2)) > 0.01
    assert change(base, predict(spec, model, prompt=3)) > 0.01


def predict(spec, model, x=4, percent=0.6, prompt=1):
    """The output of the diffusion model itself at one noise level."""
    import comfy.samplers

    seen = []
    sampling = model.get_model_object("model_sampling")
    sigmas = torch.tensor([sampling.percent_to_sigma(percent), 0.0])
    hook = model.model.diffusion_model.register_forward_hook(lambda *a: seen.append(a[2]))
    try:
        custom_sample(spec, model, x, sigmas, prompt)
    finally:
        hook.remove()
    (out,) = seen
    return [t.float() for t in (out if isinstance(out, list | tuple) else [out])]


def custom_sample(spec, model, x, sigmas, prompt):
    import comfy.sample
    import comfy.samplers

    latent = spec.latent(1, None)["samples"]
    noise = comfy.sample.prepare_noise(latent, x)
    positive = spec.conditioning(prompt)
    with torch.inference_mode():
        comfy.sample.sample_custom(
            model, noise, 1.0, comfy.samplers.sampler_object("euler"), sigmas, positive, positive, latent, seed=x
        )


def test_the_recorded_factory_rebuilds_an_equal_independent_model(spec, model):
    factory, arguments = model.cached_patcher_init
    again = factory(*arguments, disable_dynamic=True)
    ours, theirs = model.model.state_dict(), again.model.state_dict()
    assert ours.keys() == theirs.keys() and all(torch.equal(ours[key], theirs[key]) for key in ours)
    assert again.model is not model.model
    assert all(torch.isfinite(value).all() for value in ours.values() if value.is_floating_point())


def test_families_have_short_names(comfy):
    assert host_models.sd15(seed=3).model.model_config.__class__.__name__ == "SD15"
