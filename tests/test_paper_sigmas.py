"""The papers' own runs on the real host: their steps, their start, their clamp, held to second implementations."""

import adm_files
import adm_formulas as formulas
import edm2_formulas
import guide_folder
import pytest
import torch
from host_models import MODELS, count_forwards
from safetensors.torch import save_file

from guidance_pack.guidance.networks.edm2.config import EDM2Config
from guidance_pack.guidance.networks.edm2.unet import EDM2
from guidance_pack.guidance.rules.clamp import Clamp
from guidance_pack.guidance.rules.gradient import GradientGuidance

SIDE, BATCH = 16, 2
KEPT = {"linear": formulas.linear_alpha_bars, "cosine": formulas.cosine_alpha_bars}
SCALE, WANTED = 30.0, [2, 6]
T25 = list(range(960, -1, -40))
T10 = list(range(900, -1, -100))
TOLERANCE = 5e-4  # float32 against float64 at sigma 60; a wrong order, start or level is off by 1e-3 and more


@pytest.fixture(scope="module")
def networks():
    return {"linear": adm_files.unet(0), "cosine": adm_files.unet(3, order="new")}


@pytest.fixture(scope="module")
def models(comfy, networks, tmp_path_factory):
    from guidance_pack.host.models import adm

    root = tmp_path_factory.mktemp("adm")
    orders = {"linear": "legacy", "cosine": "new"}
    with torch.inference_mode():
        return {
            name: adm.load(str(adm_files.write(network, root / f"{name}.safetensors", schedule=name,
                                               order=orders[name])), name)[0]
            for name, network in networks.items()
        }  # fmt: skip


@pytest.fixture(scope="module")
def edm2(comfy, tmp_path_factory):
    """A small EDM2 of pictures as a MODEL, and its tensors."""
    from guidance_pack.host.models import edm2 as edm2_model

    config = EDM2Config(img_resolution=SIDE, label_dim=0, model_channels=32, channel_mult=(1, 2), num_blocks=1,
                        attn_resolutions=(8,), img_channels=3)  # fmt: skip
    shapes = {key: tuple(value.shape) for key, value in EDM2(config, device="meta").state_dict().items()}
    tensors = edm2_formulas.random_tensors(shapes, 1)
    path = tmp_path_factory.mktemp("edm2") / "small.safetensors"
    save_file(tensors, path)
    with torch.inference_mode():
        return edm2_model.load(str(path), "small.safetensors")[0], tensors


def noise():
    return torch.randn(BATCH, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(3))


def on_paper(model, respacing):
    from guidance_pack.nodes.denoisers import GuidancePaperSigmas

    with torch.inference_mode():
        return GuidancePaperSigmas.execute(model, respacing).args


def clamped(model, limit=1.0, quantile=0.0):
    from guidance_pack.host.engine.install import with_rule

    return with_rule(model, Clamp(limit, quantile))


def sampled(model, sigmas, sampler="euler", latent=None, mask=None, **options):
    """SamplerCustom from the noise as it is."""
    import comfy.sample
    import comfy.samplers

    from guidance_pack.host.common.labels import class_conditioning

    with torch.inference_mode():
        nothing = class_conditioning(model, "")
        return comfy.sample.sample_custom(
            model, noise(), 1.0, comfy.samplers.ksampler(sampler, options), sigmas, nothing, nothing,
            torch.zeros_like(noise()) if latent is None else latent, noise_mask=mask, seed=1, disable_pbar=True,
        ).double()


def exact(network):
    state = {key: value.double() for key, value in network.state_dict().items()}
    config = network.config
    return lambda x, t: torch.stack([
        formulas.unet(state, one, t, res_blocks=1, heads=config.heads_of, order=config.order)[:3] for one in x
    ])


def difference(found, wanted):
    return float((found - wanted).abs().max() / wanted.abs().max())


@pytest.mark.parametrize(("name", "limit"), [("linear", 0.0), ("linear", 1.0), ("cosine", 1.0)])
def test_ddim_from_the_papers_noise(models, networks, name, limit):
    model, sigmas = on_paper(clamped(models[name], limit), "ddim10")
    wanted = formulas.ddim(exact(networks[name]), noise().double(), KEPT[name](), T10, limit=limit or float("inf"))
    assert difference(sampled(model, sigmas), wanted) < TOLERANCE
    if limit:
        unclamped = sampled(on_paper(models[name], "ddim10")[0], sigmas)
        assert difference(unclamped, wanted) > 0.1, "the clamp does nothing here"


def test_the_start_is_part_of_it(models, networks):
    """The host alone scales noise below the largest sigma by sigma: on the cosine schedule that shows."""
    _, sigmas = on_paper(models["cosine"], "ddim10")
    wanted = formulas.ddim(exact(networks["cosine"]), noise().double(), KEPT["cosine"](), T10)
    assert difference(sampled(on_paper(models["cosine"], "ddim10")[0], sigmas), wanted) < TOLERANCE
    assert difference(sampled(models["cosine"], sigmas), wanted) > 1e-3


def classifier_and_gradient(monkeypatch, folder):
    """A small noisy classifier as a guide, and its gradient by the second implementation."""
    from guidance_pack.host.models.guides import load_guide

    network = adm_files.classifier(5)
    adm_files.write(network, folder / "small.safetensors")
    guide_folder.lend(monkeypatch, folder)
    state = {key: value.double() for key, value in network.state_dict().items()}

    def gradient(x, t):
        leaf = x.detach().clone().requires_grad_()
        scores = [formulas.classifier(state, one, t, res_blocks=1, heads=network.config.heads_of) for one in leaf]
        chosen = sum(score.log_softmax(0)[label] for score, label in zip(scores, WANTED, strict=True))
        return torch.autograd.grad(chosen, leaf)[0]

    with torch.inference_mode():
        return load_guide("small.safetensors"), gradient


def steered(model, guide, **more):
    from guidance_pack.host.engine.steer import steer_to_class

    rule = GradientGuidance(SCALE, **more)
    with torch.inference_mode():
        return steer_to_class(model, guide, "2, 6", rule, at="noisy input", decoder="vae", vae=None)


def test_the_estimate_is_clamped_before_the_classifier_pushes_it(models, networks, tmp_path, monkeypatch):
    """condition_score: wherever Clamp stands in the chain, the push is added to the clamped estimate."""
    guide, gradient = classifier_and_gradient(monkeypatch, tmp_path)
    plain = models["linear"]
    setting = exact(networks["linear"]), noise().double(), KEPT["linear"](), T10[:4], gradient, SCALE
    wanted = formulas.ddim(*setting, limit=1.0)
    sigmas = torch.cat([on_paper(plain, "ddim10")[1][:4], torch.zeros(1)])
    for model in (clamped(steered(plain, guide)), steered(clamped(plain), guide)):
        assert difference(sampled(on_paper(model, "ddim10")[0], sigmas), wanted) < TOLERANCE
    assert float(wanted.abs().max()) > 1.1, "the push leads out of the range, and is not clamped again"


@pytest.mark.slow
def test_ddpm_with_the_mean_shift(models, networks, tmp_path, monkeypatch):
    """condition_mean, with the posterior variance, on a respacing of the whole range."""
    guide, gradient = classifier_and_gradient(monkeypatch, tmp_path)
    model, sigmas = on_paper(steered(clamped(models["linear"]), guide, mean_shift=True), "4")
    draws = [torch.randn(noise().shape, generator=torch.Generator().manual_seed(i)) for i in range(4)]
    given = iter(draws)
    found = sampled(model, sigmas, "ddpm", noise_sampler=lambda sigma, following: next(given))
    steps = [999, 666, 333, 0]
    start, kept = noise().double(), KEPT["linear"]()
    wanted = formulas.ddpm(exact(networks["linear"]), start, kept, steps, draws, gradient, SCALE, limit=1.0)
    assert difference(found, wanted) < TOLERANCE
    assert difference(formulas.ddpm(
        exact(networks["linear"]), start, kept, steps, draws, gradient, 0.0, limit=1.0
    ), wanted) > 1e-3  # fmt: skip


def test_edm2_starts_from_noise_times_80(edm2):
    model, tensors = edm2
    on_80, sigmas = on_paper(model, "6")

    def denoise(x, sigma):
        return edm2_formulas.denoiser(tensors, x, torch.full((len(x),), sigma), None)

    wanted = edm2_formulas.heun(denoise, noise() * 80.0, 6).double()
    found, hosts = sampled(on_80, sigmas, "heun"), sampled(model, sigmas, "heun")
    assert difference(found, wanted) < 1e-5 < difference(hosts, wanted)


def test_a_run_that_begins_elsewhere_is_the_hosts(models):
    """The second half of a run, pictures that are noised a little, and inpainting between the steps."""
    plain = models["cosine"]
    model, sigmas = on_paper(plain, "ddim25")
    latent, mask = noise().flip(0).clamp(-1, 1), torch.zeros(BATCH, 1, SIDE, SIDE)
    mask[..., : SIDE // 2] = 1
    late = sigmas[20:]
    for more in ({}, {"latent": latent}, {"latent": latent, "mask": mask}):
        assert torch.equal(sampled(model, late, **more), sampled(plain, late, **more))
    inpainted = sampled(model, sigmas, latent=latent, mask=mask)
    torch.testing.assert_close(inpainted[..., SIDE // 2 :], latent[..., SIDE // 2 :].double())


@pytest.mark.slow
def test_another_respacing_replaces_the_first(models):
    twice, sigmas = on_paper(on_paper(models["cosine"], "ddim250")[0], "ddim25")
    assert torch.equal(sampled(twice, sigmas), sampled(on_paper(models["cosine"], "ddim25")[0], sigmas))
    _, fast = on_paper(models["cosine"], "fast27")
    assert float(fast[0]) == float(models["cosine"].get_model_object("model_sampling").sigmas[997]) and len(fast) == 28
    assert torch.equal(sampled(models["cosine"], sigmas), sampled(models["cosine"].clone(), sigmas))


def test_stable_diffusion_has_timesteps_too(comfy):
    model = MODELS["sd15"].build(0)
    _, sigmas = on_paper(model, " ddim25 ")
    table = model.get_model_object("model_sampling").sigmas
    assert torch.equal(sigmas[:-1], table[T25]) and float(sigmas[-1]) == 0.0


@pytest.mark.parametrize("family", ["flux", "sd3"])
def test_other_families_in_words(comfy, family):
    with pytest.raises(ValueError, match="counts noise in another way than the papers' models.* Use KSampler"):
        on_paper(MODELS[family].build(0), "ddim25")


def test_mistakes_in_words(models, edm2):
    from guidance_pack.nodes.denoisers import GuidancePaperSigmas

    assert GuidancePaperSigmas.validate_inputs(respacing="250") is True
    assert GuidancePaperSigmas.validate_inputs(respacing=None) is True
    assert "can be ddim25" in str(GuidancePaperSigmas.validate_inputs(respacing="ddim"))
    with pytest.raises(ValueError, match="No whole stride through 1000 timesteps gives 300 steps"):
        on_paper(models["linear"], "ddim300")
    with pytest.raises(ValueError, match="'ddim25', and this MODEL has no timesteps.* number of its steps.* 32, with"):
        on_paper(edm2[0], "ddim25")


# Clamp as a node


def test_latents_have_no_range(comfy):
    from guidance_pack.nodes.cfg import GuidanceClamp

    model = MODELS["sd15"].build(0)
    with pytest.raises(ValueError, match="works on latents.* no range as pictures do.* models of pictures .ADM"):
        GuidanceClamp.execute(model, 1.0, 0.0, "percent", 0.0, 1.0)
    GuidanceClamp.execute(model, 0.0, 0.0, "percent", 0.0, 1.0)  # off asks for nothing


def test_a_clamped_model_of_pictures(models):
    """The node's MODEL gives estimates in range alone; off it is the plain one, bit for bit."""
    from guidance_pack.nodes.cfg import GuidanceClamp

    sigmas = on_paper(models["linear"], "ddim10")[1]
    with torch.inference_mode():
        on, off = (GuidanceClamp.execute(models["linear"], limit, 0.0, "percent", 0.0, 1.0).args[0]
                   for limit in (0.5, 0.0))  # fmt: skip
    forwards, results = [], []
    for model in (models["linear"], off, on):
        with count_forwards(models["linear"]) as count:
            results.append(sampled(model, sigmas))
        forwards.append(count.forwards)
    plain, without, clamped_result = results
    assert torch.equal(without, plain) and float(plain.abs().max()) > 0.5
    assert float(clamped_result.abs().max()) <= 0.5
    assert forwards == [10, 10, 10], "neither on nor off does it cost an evaluation"
