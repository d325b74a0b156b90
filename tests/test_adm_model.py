"""ADM as an ordinary MODEL on the real host: its schedule, ADM's own samplers, classes, patches, copies, memory."""

import adm_files
import adm_formulas as formulas
import engine_probe as probe
import guide_folder
import pytest
import torch
from adm_runs import SIDE, assert_same, euler, sigmas_at, start

from guidance_pack.guidance.rules.gradient import GradientGuidance

T25 = list(range(960, -1, -40))  # guided-diffusion's "ddim25"


@pytest.fixture(scope="module")
def adm(comfy):
    from guidance_pack.host.models import adm as adm_model

    return adm_model


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """name -> a file with a small network, written once."""
    root = tmp_path_factory.mktemp("adm")
    made = {
        "plain": adm_files.unet(0), "weak": adm_files.unet(1), "classes": adm_files.unet(2, classes=5),
        "cosine": adm_files.unet(3, order="new"), "upsampler": adm_files.unet(4, in_channels=6, classes=5),
    }
    header = {"cosine": {"schedule": "cosine", "order": "new"}}
    for name, network in made.items():
        adm_files.write(network, root / f"{name}.safetensors", **header.get(name, {}))
    return made, root


@pytest.fixture(scope="module")
def model(adm, files):
    """A MODEL by the name of its file, loaded once as a node does it."""
    loaded = {}

    def get(name):
        if name not in loaded:
            with torch.inference_mode():
                loaded[name] = adm.load(str(files[1] / f"{name}.safetensors"), f"{name}.safetensors")[0]
        return loaded[name]

    return get


def conditioning(model, label=""):
    from guidance_pack.host.common.labels import class_conditioning

    return class_conditioning(model, label)


def exact_noise(network, res_blocks=1):
    """The second implementation's prediction of a batch, in float64."""
    config = network.config
    state = {key: value.double() for key, value in network.state_dict().items()}

    def noise_of(x, t, labels=None):
        return torch.stack([
            formulas.unet(state, one, t, None if labels is None else labels[i], res_blocks=res_blocks,
                          heads=config.heads_of, order=config.order)[:3]
            for i, one in enumerate(x)
        ])

    return noise_of


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "alpha_bars", "ends"),
    [("plain", formulas.linear_alpha_bars, (0.01, 157.41)), ("cosine", formulas.cosine_alpha_bars, (0.00643, 20291))],
)
def test_the_schedule_is_adms(model, name, alpha_bars, ends):
    from guidance_pack.guidance.noise_schedule import noise_schedule

    sampling = model(name).get_model_object("model_sampling")
    kept = alpha_bars()
    wanted = ((1 - kept) / kept).sqrt()
    torch.testing.assert_close(sampling.sigmas.double().cpu(), wanted, rtol=3e-5, atol=0)
    torch.testing.assert_close(noise_schedule({"plain": "linear"}.get(name, name)).sigmas, wanted, rtol=1e-6, atol=0)
    assert [float(sampling.sigma_min), float(sampling.sigma_max)] == pytest.approx(ends, rel=1e-3)
    times = torch.arange(0, 1000, 37)
    assert torch.equal(sampling.timestep(sampling.sigmas[times]).cpu(), times)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["plain", "cosine"])
def test_ddim_25_is_euler_from_timestep_960(model, files, name):
    kept = {"plain": formulas.linear_alpha_bars, "cosine": formulas.cosine_alpha_bars}[name]()
    noise = start(2)
    found = euler(model(name), conditioning(model(name)), noise, sigmas_at(model(name), T25))
    assert_same(found, formulas.ddim(exact_noise(files[0][name]), noise.double(), kept, T25))


def test_the_hosts_ddim_uniform_scheduler_is_one_timestep_beside_ddim_25(model):
    import comfy.samplers

    sampling = model("plain").get_model_object("model_sampling")
    sigmas = comfy.samplers.calculate_sigmas(sampling, "ddim_uniform", 25)
    assert torch.equal(sigmas, sigmas_at(model("plain"), [t + 1 for t in T25]))


@pytest.mark.slow
@pytest.mark.parametrize("suffix", [".safetensors", ".pt"])
def test_classifier_guidance_is_condition_score(model, files, tmp_path, monkeypatch, suffix):
    from guidance_pack.host.engine.steer import steer_to_class
    from guidance_pack.host.models.guides import guide_names, load_guide

    network, scale, wanted = adm_files.classifier(5), 30.0, [2, 6]
    path = adm_files.write(network, tmp_path / "small.safetensors")
    if suffix == ".pt":
        path.unlink()
        torch.save(network.state_dict(), tmp_path / "small.pt")
    guide_folder.lend(monkeypatch, tmp_path)
    assert f"small{suffix}" in guide_names()
    rule = GradientGuidance(scale)
    with torch.inference_mode():
        guide = load_guide(f"small{suffix}")
        guided = steer_to_class(model("plain"), guide, "2, 6", rule, at="noisy input", decoder="vae", vae=None)
    state = {key: value.double() for key, value in network.state_dict().items()}
    heads = network.config.heads_of if suffix == ".safetensors" else lambda width: 1

    def gradient(x, t):
        leaf = x.detach().clone().requires_grad_()
        scores = [formulas.classifier(state, one, t, res_blocks=1, heads=heads) for one in leaf]
        chosen = sum(score.log_softmax(0)[label] for score, label in zip(scores, wanted, strict=True))
        return torch.autograd.grad(chosen, leaf)[0]

    noise, kept, steps = start(2), formulas.linear_alpha_bars(), T25[::4]
    found = euler(guided, conditioning(model("plain")), noise, sigmas_at(model("plain"), steps))
    exact = exact_noise(files[0]["plain"])
    assert_same(found, formulas.ddim(exact, noise.double(), kept, steps, gradient, scale))
    plain = formulas.ddim(exact, noise.double(), kept, steps)
    assert float((found - plain).abs().max()) > 1e-2 * float(plain.abs().max())


@pytest.mark.parametrize("at", ["denoised", "through denoiser"])
def test_a_clean_guide_steers_it_too(model, at):
    import steering

    from guidance_pack.host.engine.steer import steer_to_class

    rule = GradientGuidance(50.0)
    guide = steering.loaded(3)
    with torch.inference_mode():
        guided = steer_to_class(model("plain"), guide, "dog", rule, at=at, decoder="vae", vae=None)
    probed, calls = probe.recorded(guided)
    setting = probe.Setting(sigmas_at(model("plain"), [60, 30]), torch.zeros(1, 3, SIDE, SIDE), start(1))
    nothing = conditioning(model("plain"))
    setting.run(probe.cfg_guider(probed, nothing, nothing, 1.0))
    truth = steering.ordinary_copy(guide.patchers[0].model, torch.float32)
    for call, own in zip(calls, probe.alone(model("plain"), nothing, setting, calls), strict=True):
        before, after = (float(steering.log_probability(truth, one, 1)) for one in (own, call.denoised))
        assert after > before


def test_every_sample_has_its_own_class(model, files):
    noise, sigmas = start(3), sigmas_at(model("classes"), [700, 300])
    together = euler(model("classes"), conditioning(model("classes"), "4, 0, 2"), noise, sigmas)
    exact = exact_noise(files[0]["classes"])
    kept = formulas.linear_alpha_bars()
    wanted = formulas.ddim(lambda x, t: exact(x, t, [4, 0, 2]), noise.double(), kept, [700, 300])
    assert_same(together, wanted)
    for i, label in enumerate("402"):
        alone = euler(model("classes"), conditioning(model("classes"), label), noise[i : i + 1], sigmas)
        assert_same(alone, together[i : i + 1])
    other = euler(model("classes"), conditioning(model("classes"), "1"), noise, sigmas)
    assert float((together - other).abs().max()) > 0.01


def test_a_class_is_needed_where_it_is_used_and_only_there(model):
    conditional, unconditional = model("classes"), model("plain")
    noise, sigmas = start(1), sigmas_at(conditional, [700, 300])
    nothing = conditioning(conditional)
    euler(conditional, conditioning(conditional, "1"), noise, sigmas, negative=nothing)
    with pytest.raises(ValueError, match="never trained without a class, so it needs one here, 0 to 4 .* set cfg to 1"):
        euler(conditional, conditioning(conditional, "1"), noise, sigmas, negative=nothing, cfg=2.0)
    with pytest.raises(ValueError, match="never trained without a class"):
        euler(conditional, nothing, noise, sigmas)
    with pytest.raises(ValueError, match="unconditional: it has no classes, so not 'cat' either"):
        conditioning(unconditional, "cat")
    with pytest.raises(ValueError, match="There is no class 5; This MODEL has classes 0 to 4"):
        conditioning(conditional, "5")


@pytest.mark.parametrize("names", [("plain", "weak"), ("classes", "plain")])
def test_autoguidance_between_two_networks(model, names):
    main, guide = map(model, names)
    positive = conditioning(main, "3" if names[0] == "classes" else "")
    setting = probe.Setting(sigmas_at(main, [900, 500, 100]), torch.zeros(2, 3, SIDE, SIDE), start(2))
    guided, calls = probe.recorded(probe.guided(main, guide, weight=2.2, cfg=False))
    setting.run(probe.cfg_guider(guided, positive, positive, 1.0))
    own = probe.alone(main, positive, setting, calls)
    probe.assert_law(calls, own, own, probe.alone(guide, positive, setting, calls), lambda sigma: 2.2)


def test_cfg_between_two_classes(model):
    main = model("classes")
    first, second = conditioning(main, "3"), conditioning(main, "1")
    setting = probe.Setting(sigmas_at(main, [900, 500, 100]), torch.zeros(2, 3, SIDE, SIDE), start(2))
    from guidance_pack.guidance.rules.cfg import CFG
    from guidance_pack.guidance.schedule import ALWAYS
    from guidance_pack.host.engine.install import with_rule

    guided, calls = probe.recorded(with_rule(main, CFG(3.0, ALWAYS)))
    setting.run(probe.cfg_guider(guided, first, second, 1.0))
    positive, negative = (probe.alone(main, one, setting, calls) for one in (first, second))
    probe.assert_law(calls, positive, positive, negative, lambda sigma: 3.0)


def test_inpainting_keeps_what_is_outside_the_mask(model):
    main, latent = model("plain"), start(2, seed=8).clamp(-1, 1)
    mask = torch.zeros(2, 1, SIDE, SIDE)
    mask[..., : SIDE // 2] = 1
    out = euler(main, conditioning(main), start(2), sigmas_at(main, [500, 200]), mask=mask, latent=latent)
    torch.testing.assert_close(out[..., SIDE // 2 :], latent[..., SIDE // 2 :])
    assert float((out - latent)[..., : SIDE // 2].abs().max()) > 0.1


def test_ksampler_previews_and_the_vae(model, adm, files):
    import latent_preview

    import nodes

    main = model("plain")
    (latent,) = nodes.EmptyLatentImage().generate(SIDE * 2, SIDE, 2)
    with torch.inference_mode():
        nothing = conditioning(main)
        (out,) = nodes.common_ksampler(main, 1, 2, 1.0, "heun", "normal", nothing, nothing, latent)
        _, vae = adm.load(str(files[1] / "plain.safetensors"), "plain")
        pictures = vae.decode(out["samples"])
        preview = latent_preview.Latent2RGBPreviewer(main.model.latent_format.latent_rgb_factors)
        shown = preview.decode_latent_to_preview(out["samples"])
    assert out["samples"].shape == (2, 3, SIDE, SIDE * 2) and pictures.shape == (2, SIDE, SIDE * 2, 3)
    torch.testing.assert_close(pictures.cpu(), ((out["samples"].movedim(1, -1) + 1) / 2).clamp(0, 1), atol=1e-5, rtol=0)
    assert shown.size == (SIDE * 2, SIDE)


def test_a_size_that_does_not_fit_in_words(model):
    main = model("plain")
    with pytest.raises(ValueError, match="15x16 pixels; width and height must be multiples of 2"):
        euler(main, conditioning(main), start(1)[..., :15], sigmas_at(main, [500]))


def test_an_upsampler_sees_the_small_picture(model, adm, files):
    main = model("upsampler")
    image = torch.rand(1, 4, 8, 3, generator=torch.Generator().manual_seed(4))
    label = conditioning(main, "3")
    with torch.inference_mode():
        positive = adm.with_low_resolution(label, image)
    assert set(positive[0][1]) == {"class_labels", "low_res"} and set(label[0][1]) == {"class_labels"}
    noise = start(2)[..., :8, :]
    found = euler(main, positive, noise, sigmas_at(main, [800, 400]))
    rounded = (image.movedim(-1, 1).double() * 255).round() / 127.5 - 1
    large = torch.nn.functional.interpolate(rounded, (8, SIDE), mode="bilinear")
    exact = exact_noise(files[0]["upsampler"])
    wanted = formulas.ddim(lambda x, t: exact(torch.cat([x, large.expand_as(x)], 1), t, [3, 3]), noise.double(),
                           formulas.linear_alpha_bars(), [800, 400])
    assert_same(found, wanted)
    with pytest.raises(ValueError, match="no picture to enlarge was given. Connect Low Resolution"):
        euler(main, label, noise, sigmas_at(main, [800]))


# what the host does to a MODEL


def test_deep_clones_are_equal_and_independent(model):
    main = model("classes")
    with torch.inference_mode():
        for again in (main.clone(force_deepcopy=True), main.deepclone_multigpu(main.load_device),
                      main.clone(disable_dynamic=True)):
            ours, theirs = main.model.state_dict(), again.model.state_dict()
            assert ours.keys() == theirs.keys()
            assert all(torch.equal(ours[key].cpu(), theirs[key].cpu()) for key in ours)
            assert again.model.labels == main.model.labels


def test_other_packs_may_wrap_the_network(model):
    from comfy.patcher_extension import WrappersMP

    main, seen = model("classes").clone(), []

    def look(executor, x, timesteps, context, y, *rest, **more):
        seen.append((tuple(x.shape), timesteps.tolist(), y.tolist()))
        return executor(x, timesteps, context, y, *rest, **more)

    main.add_wrapper_with_key(WrappersMP.DIFFUSION_MODEL, "look", look)
    noise, sigmas = start(2), sigmas_at(main, [700, 300])
    found = euler(main, conditioning(main, "4, 1"), noise, sigmas)
    assert [(shape, times) for shape, times, _ in seen] == [((2, 3, SIDE, SIDE), [t, t]) for t in (700, 300)]
    assert seen[0][2] == [4, 1]
    assert torch.equal(found, euler(model("classes"), conditioning(main, "4, 1"), noise, sigmas))


def test_the_learned_variance_is_kept_and_never_sampled_with(model, files):
    hosted = model("plain").model.diffusion_model
    x, t = start(2), torch.tensor([40.0, 900.0])
    with torch.inference_mode():
        noise, fraction = hosted.forward_with_variance(x, t)
        assert torch.equal(hosted(x, t), noise) and noise.shape == fraction.shape == x.shape
    wanted = files[0]["plain"].forward_with_variance(x, t)[1]
    torch.testing.assert_close(fraction, wanted, rtol=1e-4, atol=1e-5)
    assert float((fraction - 0.5).abs().max()) > 0.01


def test_a_patch_of_weights_changes_what_it_predicts(model):
    main = model("plain")
    key = "diffusion_model.input_blocks.1.0.in_layers.2.weight"
    assert key in main.model.state_dict()
    patched = main.clone()
    with torch.inference_mode():
        patched.add_patches({key: (torch.ones(32, 32, 3, 3) * 0.1,)}, 1.0)
    noise, sigmas = start(1), sigmas_at(main, [500, 200])
    before = euler(main, conditioning(main), noise, sigmas)
    assert float((euler(patched, conditioning(main), noise, sigmas) - before).abs().max()) > 1e-3
    assert torch.equal(euler(main, conditioning(main), noise, sigmas), before)


@pytest.mark.many
@pytest.mark.parametrize(
    ("stored", "computed", "tolerance"),
    [(torch.float16, torch.float32, 5e-3), (torch.float16, None, 5e-2), (torch.float8_e4m3fn, torch.float32, 0.5)],
)
def test_half_precision_weights(adm, model, tmp_path, monkeypatch, stored, computed, tolerance):
    """Stored in fewer bits, computed in float32 or in what they are stored in; the noise schedule stays exact."""
    import comfy.model_management as management

    path = adm_files.write(adm_files.unet(2, classes=5), tmp_path / "half.safetensors", torch.float16)
    monkeypatch.setattr(management, "unet_dtype", lambda **_: stored)
    monkeypatch.setattr(management, "unet_manual_cast", lambda *_: computed)
    with torch.inference_mode():
        half, _ = adm.load(str(path), "half")
    kinds = {value.dtype for value in half.model.diffusion_model.state_dict().values()}
    assert kinds == {stored, torch.float32} and half.model.get_dtype() == stored
    sigmas = sigmas_at(half, [800, 300])
    assert torch.equal(sigmas, sigmas_at(model("classes"), [800, 300]))
    wanted = euler(model("classes"), conditioning(half, "3"), start(1), sigmas)
    found = euler(half, conditioning(half, "3"), start(1), sigmas)
    assert 0 < float((found - wanted).norm() / wanted.norm()) < tolerance


def test_published_for_float32_stays_float32(adm, monkeypatch):
    """The 512 network and P2's were trained in float32 alone; the others may be halved where the device likes it."""
    import comfy.model_management as management

    from guidance_pack.guidance.networks.adm.config import DENOISERS
    from guidance_pack.guidance.networks.adm.detect import Recognised

    asked = {}
    monkeypatch.setattr(management, "unet_dtype", lambda **more: asked.update(more) or torch.float32)
    opened = type("Opened", (), {"shapes": {"a": (3, 4)}, "dtype": torch.float32})
    for name, known in DENOISERS.items():
        kinds = adm.AdmModelConfig.supported_inference_dtypes
        adm._dtypes(Recognised(known, name), opened, torch.device("cpu"), kinds)
        assert (torch.float16 in asked["supported_dtypes"]) == (name not in ("512x512_diffusion", "P2"))
        assert asked["model_params"] == 12


@pytest.mark.slow
@pytest.mark.parametrize("name", ["128x128_diffusion", "512x512_diffusion", "P2"])
def test_the_memory_that_is_asked_for_is_what_a_forward_holds(adm, model, monkeypatch, name):
    """The numbers alive at once, counted on the meta device, without any library's workspace."""
    from live_memory import LiveMemory

    from guidance_pack.guidance.networks.adm.config import DENOISERS
    from guidance_pack.guidance.networks.adm.unet import AdmUNet

    config = DENOISERS[name]
    for dtype in (torch.float32, torch.float16):
        network = AdmUNet(device="meta", dtype=dtype, **config.as_dict())
        monkeypatch.setattr(model("plain").model, "network_config", config)
        monkeypatch.setattr(model("plain").model, "manual_cast_dtype", dtype)
        asked = model("plain").model.memory_required([2, 3, config.size, config.size])
        x = torch.empty(2, 3, config.size, config.size, device="meta", dtype=dtype)
        with torch.no_grad(), LiveMemory(network) as live:
            network(x, torch.zeros(2, device="meta"), torch.zeros(2, device="meta", dtype=torch.long))
        assert asked / live.peak == pytest.approx(1.0, abs=1e-3)


def test_it_says_what_the_file_was_taken_for(model):
    assert model("plain").model.description == "plain.safetensors is of a shape that was never released"
