"""Inpainting with every component, on pictures and on video, as ComfyUI does it and with its next call of a mask."""

import pytest
import steering
import torch
from engine_probe import cfg_guider, far_apart, guided, setting_of
from host_models import MODELS
from test_engine_gradients import steer

FAMILIES = ["sd15", "wan"]
KINDS = ["autoguidance", "apg and rescale", "gradient", "through"]


@pytest.fixture(scope="module", params=FAMILIES)
def scene(comfy, request):
    """A family, a MODEL of it, another, and a run that changes its right half alone."""
    spec = MODELS[request.param]
    main, other = (steering.as_nodes_do(spec.build, seed) for seed in (0, 7))
    setting = setting_of(main, spec, steps=3, latent_seed=4)
    setting.mask = torch.zeros(1, 1, *setting.latent.shape[2:])
    setting.mask[..., 4:] = 1.0
    return spec, main, other, setting


def component(kind, main, other):
    from guidance_pack.guidance.rules.apg import APG
    from guidance_pack.guidance.rules.rescale import Rescale
    from guidance_pack.host.engine.install import with_rule

    if kind == "autoguidance":
        return guided(main, other, weight=3.0)
    if kind == "apg and rescale":
        return with_rule(with_rule(main, APG(0.0, 2.0, -0.5)), Rescale(0.7))
    at = "through denoiser" if kind == "through" else "denoised"
    return steer(main, steering.loaded(3), at=at, decoder="linear rgb", scale=300.0)


def run(model, spec, setting):
    return setting.run(cfg_guider(model, spec.conditioning(1), spec.conditioning(2), 3.0))


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_masked_stays_and_the_rest_is_guided(scene, kind):
    spec, main, other, setting = scene
    out, plain = run(component(kind, main, other), spec, setting), run(main, spec, setting)
    torch.testing.assert_close(out[..., :4].cpu(), setting.latent[..., :4], rtol=0, atol=1e-4)
    assert far_apart(out[..., 4:], plain[..., 4:]) > 1e-3
    assert far_apart(out[..., 4:].cpu(), setting.latent[..., 4:]) > 0.1


@pytest.mark.parametrize("kind", KINDS)
def test_a_model_that_takes_the_mask_gets_it(scene, kind, monkeypatch):
    """ComfyUI from 0.33 on (comfy/samplers.py, KSamplerX0Inpaint) hands a model the mask too, and nothing else new."""
    import comfy.samplers

    def told(scale, given):
        assert given.keys() == {"x", "sigma", "noise", "latent_image", "denoise_mask"}
        return scale(**given)

    class WithMask(comfy.samplers.KSamplerX0Inpaint):
        def __call__(self, x, sigma, denoise_mask, **options):
            network = self.inner_model.inner_model
            scale = network.scale_latent_inpaint
            handed = {"denoise_mask": denoise_mask}
            with monkeypatch.context() as step:
                step.setattr(network, "scale_latent_inpaint", lambda **given: told(scale, given | handed))
                return super().__call__(x, sigma, denoise_mask, **options)

    spec, main, other, setting = scene
    model = component(kind, main, other)
    expected = run(model, spec, setting)
    monkeypatch.setattr(comfy.samplers, "KSamplerX0Inpaint", WithMask)
    assert torch.equal(run(model, spec, setting), expected)


@pytest.mark.parametrize("name", ["adm", "edm2", "tiny"])
def test_the_packs_own_networks_take_the_mask_too(comfy, name):
    from importlib import import_module
    from inspect import Parameter, signature

    from comfy.model_base import BaseModel

    module = import_module(f"guidance_pack.host.models.{name}")
    own = [kind for kind in vars(module).values() if isinstance(kind, type) and issubclass(kind, BaseModel)]
    assert own
    for kind in own:
        taken = signature(kind.scale_latent_inpaint).parameters
        assert "denoise_mask" in taken or any(p.kind is Parameter.VAR_KEYWORD for p in taken.values())


def test_a_guide_is_told_the_shapes_of_the_latents_as_the_host_tells_the_model(scene, monkeypatch):
    """Models that pack several streams into one latent read them there, from 0.33 on."""
    spec, main, other, setting = scene
    monkeypatch.setattr(other.model, "latent_shapes", None, raising=False)
    run(guided(main, other, cfg=False), spec, setting)
    assert [tuple(shape) for shape in other.model.latent_shapes] == [tuple(setting.latent.shape)]
