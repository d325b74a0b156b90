"""ADM, EDM2 and GLIDE as MODELs among the host's own nodes: compiled, and with every component of the pack at once."""


import adm_files
import edm2_formulas as formulas
import pytest
import steering
import torch
from host_models import sample
from safetensors.torch import save_file

from guidance_pack.guidance.networks.adm.tokens import bits_of
from guidance_pack.guidance.networks.edm2.config import EDM2Config
from guidance_pack.guidance.networks.edm2.unet import EDM2
from guidance_pack.guidance.rules.gradient import GradientGuidance

SMALL_EDM2 = EDM2Config(
    img_resolution=16, img_channels=3, label_dim=5, model_channels=32, channel_mult=(1, 2), num_blocks=1,
    attn_resolutions=(8,), channels_per_head=16,
)  # fmt: skip


@pytest.fixture(scope="module", params=["adm", "edm2", "glide"])
def models(request, comfy, tmp_path_factory):
    """Two small MODELs of one family that differ in their weights, and two classes or texts as CONDITIONING."""
    from guidance_pack.host.common.labels import class_conditioning
    from guidance_pack.host.models import adm, edm2, glide

    folder = tmp_path_factory.mktemp(request.param)
    found = []
    for seed in (0, 1):
        path = folder / f"{seed}.safetensors"
        if request.param == "adm":
            adm_files.write(adm_files.unet(seed, classes=5), path)
        elif request.param == "glide":
            adm_files.write(adm_files.glide(seed), path, schedule="cosine")
        else:
            with torch.device("meta"):
                shapes = {key: tuple(value.shape) for key, value in EDM2(SMALL_EDM2).state_dict().items()}
            save_file(formulas.random_tensors(shapes, seed), path)
        family = {"adm": adm, "edm2": edm2, "glide": glide}[request.param]
        with torch.inference_mode():
            found.append(family.load(str(path), path.name)[0])
    if request.param == "glide":
        return found, [[[bits_of(tokens), {}]] for tokens in ([5, 9, 50256], [7])]
    return found, [class_conditioning(found[0], label) for label in "31"]


def run(model, asked, **more):
    latent = {"samples": torch.zeros(2, 3, 16, 16)}
    return sample(model, asked, asked, latent, seed=3, steps=3, scheduler="karras", **more)


@pytest.mark.slow
def test_a_compiled_network_samples_the_same(models):
    from comfy_extras.nodes_torch_compile import TorchCompileModel

    (main, _), (asked, _) = models
    torch._dynamo.reset()
    compiled = TorchCompileModel.execute(main, "eager").args[0]
    plain, found = run(main, asked), run(compiled, asked)
    assert float((found - plain).abs().max()) < 1e-4 * float(plain.abs().max())


@pytest.mark.slow
def test_every_component_works_on_it_at_once(models):
    from guidance_pack.guidance.rules.apg import APG
    from guidance_pack.guidance.rules.autoguidance import Autoguidance
    from guidance_pack.guidance.rules.cfg import CFG
    from guidance_pack.guidance.rules.rescale import Rescale
    from guidance_pack.host.engine.install import with_autoguidance, with_rule
    from guidance_pack.host.engine.steer import steer_to_class

    (main, weak), (asked, other) = models
    gradient = GradientGuidance(50.0)
    with torch.inference_mode():
        out = with_autoguidance(main, weak, Autoguidance(1.5))
        for rule in (CFG(2.0), APG(), Rescale(0.5)):
            out = with_rule(out, rule)
        out = steer_to_class(out, steering.loaded(2), "dog", gradient, at="denoised", decoder="vae", vae=None)
    latent = {"samples": torch.zeros(2, 3, 16, 16)}
    guided = sample(out, asked, other, latent, seed=3, steps=3, scheduler="karras")
    plain = run(main, asked)
    assert torch.isfinite(guided).all() and not torch.equal(guided, plain)
    assert torch.equal(run(main, asked), plain), "something stayed behind"
