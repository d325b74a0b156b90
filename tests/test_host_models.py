"""The small networks stand in for real models: finite, dependent on all they are told, and counted right."""

import host_models
import pytest
import torch
from checkpoints import write_sd15_checkpoint
from host_models import MODELS, count_forwards, sample, tensors


@pytest.fixture(params=MODELS, scope="module")
def spec(request, comfy):
    return MODELS[request.param]


@pytest.fixture(scope="module")
def model(spec):
    return spec.build(seed=0)


def run(spec, model, *, positive=1, batch=1, latent=0, cfg=4.0, **more):
    arguments = {"seed": 7, "steps": 2, "scheduler": spec.scheduler, **more}
    given = spec.latent(batch, latent)
    return tensors(sample(model, spec.conditioning(positive), spec.conditioning(2), given, cfg=cfg, **arguments))


def change(one, other):
    """Mean change relative to the size of `one`, over all parts of the latents."""
    return min(((a - b).norm() / a.norm()).item() for a, b in zip(one, other, strict=True))


@pytest.mark.many
def test_is_the_hosts_own_class_with_the_prediction_that_the_table_says(spec, model):
    import comfy.model_base
    import comfy.model_sampling

    assert isinstance(model.model, comfy.model_base.BaseModel)
    assert isinstance(model.get_model_object("model_sampling"), getattr(comfy.model_sampling, spec.prediction))


@pytest.mark.many
def test_samples_finite_latents_of_the_given_shapes(spec, model):
    out = run(spec, model, batch=2)
    assert [t.shape for t in out] == [t.shape for t in tensors(spec.latent(2)["samples"])]
    assert all(torch.isfinite(t).all() and t.std() > 0 for t in out)


@pytest.mark.many
def test_depends_on_prompt_noise_latent_and_weights(spec, model):
    out = run(spec, model)
    assert change(out, run(spec, model)) == 0
    assert change(out, run(spec, model, positive=3)) > 1e-2
    assert change(out, run(spec, model, seed=8)) > 1e-2
    assert change(out, run(spec, spec.build(seed=1))) > 1e-2
    assert change(run(spec, model, denoise=0.5), run(spec, model, denoise=0.5, latent=1)) > 1e-2


@pytest.mark.many
@pytest.mark.parametrize("batch, cfg, per_step", [(1, 1.0, 1), (2, 1.0, 1), (2, 4.0, 2)])
def test_counts_the_evaluations_of_a_step(spec, model, batch, cfg, per_step):
    with count_forwards(model, batch) as count:
        run(spec, model, batch=batch, cfg=cfg)
    assert count.evaluations == 2 * per_step
    assert 2 <= count.forwards <= 2 * per_step


def test_counting_changes_nothing_and_ends_with_its_block(comfy):
    spec = MODELS["sd15"]
    model = spec.build()
    with count_forwards(model) as count:
        counted = run(spec, model)
    assert change(counted, run(spec, model)) == 0
    assert count.evaluations == 4


@pytest.mark.many
def test_the_networks_raw_output_follows_x_sigma_and_prompt_at_size_one(spec, model):
    base = predict(spec, model)
    assert all(0.05 < t.std() < 20 for t in base)
    assert change(base, predict(spec, model, x=5)) > 0.05
    assert change(base, predict(spec, model, percent=0.2)) > 0.01
    assert change(base, predict(spec, model, prompt=3)) > 0.01


def predict(spec, model, x=4, percent=0.6, prompt=1):
    """The output of the diffusion model itself at one noise level."""
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


@pytest.mark.many
def test_the_recorded_factory_rebuilds_an_equal_independent_model(spec, model):
    factory, arguments = model.cached_patcher_init
    again = factory(*arguments, disable_dynamic=True)
    ours, theirs = model.model.state_dict(), again.model.state_dict()
    assert ours.keys() == theirs.keys() and all(torch.equal(ours[key], theirs[key]) for key in ours)
    assert again.model is not model.model
    assert all(torch.isfinite(value).all() for value in ours.values() if value.is_floating_point())


def test_families_have_short_names(comfy):
    assert host_models.sd15(seed=3).model.model_config.__class__.__name__ == "SD15"


@pytest.mark.slow
def test_a_checkpoint_file_loads_whole_and_makes_a_picture(comfy, tmp_path, monkeypatch, caplog):
    import folder_paths

    import nodes

    file = write_sd15_checkpoint(tmp_path / "shallow.safetensors", full=False)
    monkeypatch.setitem(folder_paths.folder_names_and_paths, "checkpoints", ([str(tmp_path)], {".safetensors"}))
    with torch.inference_mode(), caplog.at_level("WARNING"):
        model, clip, vae = nodes.CheckpointLoaderSimple().load_checkpoint(file.name)
        positive, negative = (nodes.CLIPTextEncode().encode(clip, text)[0] for text in ("a red circle", ""))
        latent = {"samples": torch.zeros(1, 4, 8, 8)}
        samples = sample(model, positive, negative, latent, cfg=3.0)
        (picture,) = nodes.VAEDecode().decode(vae, {"samples": samples})
    assert type(model.model.model_config).__name__ == "SD15"
    assert not [record for record in caplog.records if "missing" in record.getMessage()]
    assert picture.shape == (1, 64, 64, 3) and torch.isfinite(picture).all() and picture.std() > 0.02
