"""EDM2 on the real host, small and random: as the formulas sample, with what people do to a MODEL."""

import dataclasses
import json
from types import SimpleNamespace

import checkpoint_writers as writers
import edm2_formulas as formulas
import host_models
import pytest
import torch
from live_memory import LiveMemory
from safetensors.torch import save_file

from guidance_pack.guidance.checkpoints.state_dicts import CheckpointError, open_checkpoint
from guidance_pack.guidance.networks.edm2.config import EDM2Config
from guidance_pack.guidance.networks.edm2.unet import EDM2

LATENT = EDM2Config(
    img_resolution=16, label_dim=10, model_channels=32, channel_mult=(1, 2), num_blocks=1, attn_resolutions=(8,)
)
CONFIGS = {
    "latent": LATENT,
    "pixel": dataclasses.replace(LATENT, img_channels=3),
    "free": dataclasses.replace(LATENT, label_dim=0),
    "guide": dataclasses.replace(LATENT, model_channels=64, num_blocks=2),
}
STEPS = 6


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Small files of each kind, and their tensors by name."""
    folder = tmp_path_factory.mktemp("edm2")
    found = {}
    for seed, (name, config) in enumerate(CONFIGS.items()):
        shapes = {key: tuple(value.shape) for key, value in EDM2(config, device="meta").state_dict().items()}
        tensors = formulas.random_tensors(shapes, seed)
        save_file(tensors, folder / f"{name}.safetensors")
        found[name] = SimpleNamespace(path=str(folder / f"{name}.safetensors"), tensors=tensors, config=config)
    return found


@pytest.fixture(scope="module")
def pack(comfy):
    from guidance_pack.host.common import labels
    from guidance_pack.host.engine import install
    from guidance_pack.host.models import edm2 as edm2_model
    from guidance_pack.host.models import tiny as tiny_model

    return SimpleNamespace(edm2=edm2_model, labels=labels, install=install, tiny=tiny_model)


@pytest.fixture(scope="module")
def models(pack, files):
    return {name: pack.edm2.load(file.path, f"{name}.safetensors")[0] for name, file in files.items()}


def sample(model, conditioning, latent, seed=5, **more):
    latent = {"samples": latent}
    settings = {"steps": STEPS, "sampler": "heun", "scheduler": "karras"} | more
    return host_models.sample(model, conditioning, conditioning, latent, seed=seed, **settings)


def by_formulas(denoise, shape, seed=5):
    """The same from the same noise, in the network's own latents. The host starts at sqrt(1 + sigma^2)."""
    import comfy.sample

    noise = comfy.sample.prepare_noise(torch.zeros(shape), seed)
    return formulas.heun(denoise, noise * (1 + 80.0**2) ** 0.5, STEPS)


def denoiser(file, classes):
    """denoise(x, sigma) of a file's network for class indices; an index of label_dim is no class."""
    count = file.config.label_dim
    labels = torch.eye(count + 1)[classes][:, :count] if count else None
    return lambda x, sigma: formulas.denoiser(file.tensors, x, torch.full((len(x),), sigma), labels)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "text", "classes"), [
    ("latent", "3, 7", [3, 7]), ("pixel", "9", [9, 9]), ("latent", "", [10, 10]), ("free", "", [0, 0]),
])  # fmt: skip
def test_the_host_samples_as_the_formulas(pack, models, files, name, text, classes):
    channels = files[name].config.img_channels
    conditioning = pack.labels.class_conditioning(models[name], text)
    out = sample(models[name], conditioning, torch.zeros(2, channels, 16, 16))
    inside = models[name].model.latent_format.process_in(out)
    expected = by_formulas(denoiser(files[name], classes), (2, channels, 16, 16))
    torch.testing.assert_close(inside, expected, atol=1e-4, rtol=1e-4)


def test_a_batch_is_made_of_its_samples(pack, models):
    """Labels stay with their pictures when the host orders the batch: per-sample labels, and a class beside none."""
    import comfy.sample

    both = pack.labels.class_conditioning(models["latent"], "1, 8")
    none = pack.labels.class_conditioning(models["latent"], "")
    noise = comfy.sample.prepare_noise(torch.zeros(2, 4, 16, 16), 3)
    whole = run_noise(models["latent"], noise, both, none, 3.0)
    for index, text in enumerate(("1", "8")):
        one = pack.labels.class_conditioning(models["latent"], text)
        alone = run_noise(models["latent"], noise[index : index + 1], one, none, 3.0)
        torch.testing.assert_close(whole[index : index + 1], alone, atol=2e-4, rtol=2e-4)


def run_noise(model, noise, positive, negative, cfg):
    import comfy.sample

    with torch.inference_mode():
        return comfy.sample.sample(model, noise, 3, cfg, "euler", "karras", positive, negative, torch.zeros_like(noise))


@pytest.mark.slow
def test_autoguidance_between_sizes(pack, models, files):
    """D_guide + w (D_main - D_guide), both with the class, at every step."""
    from guidance_pack.guidance.rules.autoguidance import Autoguidance

    model = pack.install.with_autoguidance(models["latent"], models["guide"], Autoguidance(weight=2.1))
    conditioning = pack.labels.class_conditioning(models["latent"], "4")
    out = sample(model, conditioning, torch.zeros(1, 4, 16, 16))
    main, guide = (denoiser(files[name], [4]) for name in ("latent", "guide"))

    def steered(x, sigma):
        return guide(x, sigma) + 2.1 * (main(x, sigma) - guide(x, sigma))

    expected = by_formulas(steered, (1, 4, 16, 16))
    scale = expected.abs().max()
    torch.testing.assert_close(model.model.latent_format.process_in(out) / scale, expected / scale, atol=1e-4, rtol=0)


@pytest.mark.slow
def test_cfg_with_an_unconditional_guide(pack, models, files):
    """The paper's CFG: the guide has no labels and ignores the class that it is given."""
    from guidance_pack.guidance.rules.autoguidance import Autoguidance

    model = pack.install.with_autoguidance(models["latent"], models["free"], Autoguidance(weight=1.4))
    out = sample(model, pack.labels.class_conditioning(models["latent"], "2"), torch.zeros(1, 4, 16, 16))
    main, free = denoiser(files["latent"], [2]), denoiser(files["free"], [2])
    expected = by_formulas(lambda x, s: free(x, s).lerp(main(x, s), 1.4), (1, 4, 16, 16))
    torch.testing.assert_close(model.model.latent_format.process_in(out), expected, atol=2e-4, rtol=2e-4)


@pytest.mark.slow
def test_a_lora_changes_the_weights_before_they_are_normalised(pack, models, files):
    keys = [f"unet.{part}" for part in ("enc.16x16_conv.weight", "enc.8x8_block0.attn_qkv.weight", "emb_noise.weight",
                                        "dec.16x16_block0.emb_linear.weight")]  # fmt: skip
    generator = torch.Generator().manual_seed(9)
    changes = {key: torch.randn(files["latent"].tensors[key].shape, generator=generator) for key in keys}
    patched = models["latent"].clone()
    assert len(patched.add_patches({f"diffusion_model.{k}": ("diff", (v,)) for k, v in changes.items()}, 0.7)) == 4
    conditioning = pack.labels.class_conditioning(patched, "1")
    out = sample(patched, conditioning, torch.zeros(1, 4, 16, 16))
    tensors = files["latent"].tensors | {k: files["latent"].tensors[k] + 0.7 * v for k, v in changes.items()}
    changed = SimpleNamespace(tensors=tensors, config=files["latent"].config)
    expected = by_formulas(denoiser(changed, [1]), (1, 4, 16, 16))
    torch.testing.assert_close(patched.model.latent_format.process_in(out), expected, atol=1e-4, rtol=1e-4)
    plain = by_formulas(denoiser(files["latent"], [1]), (1, 4, 16, 16))
    assert (plain - expected).abs().max() > 0.05
    again = sample(models["latent"], conditioning, torch.zeros(1, 4, 16, 16))
    torch.testing.assert_close(models["latent"].model.latent_format.process_in(again), plain, atol=1e-4, rtol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_weights(pack, files, monkeypatch, dtype):
    """Stored in half precision, computed in float32 where the processor cannot do otherwise."""
    import comfy.model_management

    monkeypatch.setattr(comfy.model_management, "unet_dtype", lambda **_: dtype)
    monkeypatch.setattr(comfy.model_management, "unet_manual_cast", lambda *_: torch.float32)
    model, _ = pack.edm2.load(files["latent"].path, "latent.safetensors")
    kept = {"unet.emb_fourier.freqs", "unet.emb_fourier.phases", "logvar_fourier.freqs", "logvar_fourier.phases"}
    weights = model.model.diffusion_model.state_dict()
    assert all(value.dtype == (torch.float32 if key in kept else dtype) for key, value in weights.items())
    out = sample(model, pack.labels.class_conditioning(model, "6"), torch.zeros(1, 4, 16, 16))
    rounded = {k: v if k in kept else v.to(dtype).float() for k, v in files["latent"].tensors.items()}
    near = SimpleNamespace(tensors=rounded, config=files["latent"].config)
    expected = by_formulas(denoiser(near, [6]), (1, 4, 16, 16))
    torch.testing.assert_close(model.model.latent_format.process_in(out), expected, atol=1e-4, rtol=1e-4)


def test_partly_loaded_weights_are_cast_as_they_are_used(pack, models, files):
    """What the host does with a layer that did not fit: its own cast, with the weight's functions, in each forward."""
    model, _ = pack.edm2.load(files["latent"].path, "latent.safetensors", disable_dynamic=True)
    x, labels = torch.randn(1, 4, 16, 16, generator=torch.Generator().manual_seed(0)), torch.tensor([2])
    network = model.model.diffusion_model
    with torch.inference_mode():
        whole = network(x, torch.zeros(1), y=labels)
        for module in network.modules():
            if hasattr(module, "comfy_cast_weights"):
                module.comfy_cast_weights = True
                module.weight_function = [lambda weight: 3 * weight]  # which the normalisation takes back
        cast = network(x, torch.zeros(1), y=labels)
    torch.testing.assert_close(cast, whole, atol=5e-3, rtol=0)
    assert not torch.equal(cast, whole)


@pytest.mark.slow
def test_a_second_copy_and_a_deep_copy(pack, models):
    other = models["latent"].clone(force_deepcopy=True)
    assert other.model is not models["latent"].model
    conditioning = pack.labels.class_conditioning(other, "5")
    outs = [sample(model, conditioning, torch.zeros(1, 4, 16, 16)) for model in (other, models["latent"])]
    assert torch.equal(*outs)
    plain = models["latent"].clone(disable_dynamic=True)
    assert not plain.is_dynamic() and plain.cached_patcher_init[2] == 0


def test_inpainting_keeps_what_the_mask_keeps(pack, models):
    latent = torch.randn(1, 4, 16, 16, generator=torch.Generator().manual_seed(2))
    mask = torch.zeros(1, 1, 16, 16)
    mask[..., 8:] = 1
    conditioning = pack.labels.class_conditioning(models["latent"], "5")
    out = host_models.sample(
        models["latent"], conditioning, conditioning, {"samples": latent, "noise_mask": mask}, seed=1, steps=3,
        sampler="euler", scheduler="karras",
    )  # fmt: skip
    torch.testing.assert_close(out[..., :8], latent[..., :8], atol=1e-4, rtol=1e-4)
    assert (out[..., 8:] - latent[..., 8:]).abs().mean() > 0.1


def test_a_snapshot_loads_as_its_conversion(pack, tmp_path, files):
    file = files["latent"]
    settings = {key: getattr(file.config, key) for key in ("img_resolution", "img_channels", "label_dim",
                "model_channels", "channel_mult", "num_blocks", "attn_resolutions")}  # fmt: skip
    path = tmp_path / "edm2.pkl"
    writers.write_snapshot(path, file.tensors, settings)
    model, vae = pack.edm2.load(str(path), "edm2.pkl")
    assert vae is None and pack.edm2.recognises(open_checkpoint(path))
    loaded = model.model.diffusion_model.state_dict()
    assert all(torch.equal(loaded[key].float(), value.half().float()) for key, value in file.tensors.items())


def test_labels(pack, models, tmp_path, files):
    assert pack.labels.labels_of(models["latent"]) == tuple("0123456789")
    assert pack.labels.labels_of(models["free"]) == ()
    names = [f"thing {index}" for index in range(10)]
    save_file(files["latent"].tensors, tmp_path / "a.safetensors", {"labels": json.dumps(names)})
    model, _ = pack.edm2.load(str(tmp_path / "a.safetensors"), "a.safetensors")
    assert pack.labels.class_conditioning(model, "thing 3")[0][1]["class_labels"].tolist() == [3]
    save_file(files["latent"].tensors, tmp_path / "a.safetensors", {"labels": json.dumps(names[:3])})
    with pytest.raises(CheckpointError, match="must name its 10 classes"):
        pack.edm2.load(str(tmp_path / "a.safetensors"), "a.safetensors")


def test_files_that_are_none(pack, tmp_path, files):
    save_file({"input_blocks.0.0.weight": torch.zeros(1)}, tmp_path / "adm.safetensors")
    assert not pack.edm2.recognises(open_checkpoint(tmp_path / "adm.safetensors"))
    with pytest.raises(CheckpointError, match="adm is no EDM2"):
        pack.edm2.load(str(tmp_path / "adm.safetensors"), "adm")
    lacking = {key: value for key, value in files["pixel"].tensors.items() if key != "logvar_linear.weight"}
    save_file(lacking, tmp_path / "b.safetensors")
    with pytest.raises(CheckpointError, match="b looks like EDM2 32 channels.*it lacks logvar_linear.weight; get it"):
        pack.edm2.load(str(tmp_path / "b.safetensors"), "b")


def test_pixels_have_the_hosts_pixel_vae(pack, files):
    model, vae = pack.edm2.load(files["pixel"].path, "pixel.safetensors")
    assert isinstance(model.model.latent_format, pack.tiny.PixelLatents)
    picture = torch.rand(1, 16, 16, 3, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(vae.decode(vae.encode(picture)), picture, atol=1e-6, rtol=0)


def test_latents_are_standardised(pack):
    """(raw - mean) 0.5 / std by the published statistics, and back."""
    mean, std = (torch.tensor(v).view(4, 1, 1) for v in ([5.81, 3.25, 0.12, -2.15], [4.17, 4.62, 3.71, 3.28]))
    latents = pack.edm2.EDM2Latents()
    raw = mean + std * torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(latents.process_in(raw), (raw - mean) * 0.5 / std, atol=2e-5, rtol=1e-4)
    torch.testing.assert_close(latents.process_out(latents.process_in(raw)), raw, atol=1e-5, rtol=1e-5)


def test_previews_show_the_unit_range(pack, comfy):
    """A preview is 2 p - 1 of what the host's own factors give for the same raw latent of Stable Diffusion."""
    import comfy.latent_formats

    sd, latents = comfy.latent_formats.SD15(), pack.edm2.EDM2Latents()
    raw = 3 * torch.randn(4, 5, generator=torch.Generator().manual_seed(0))
    known = torch.tensor(sd.latent_rgb_factors).T @ (raw * sd.scale_factor)
    own = torch.tensor(latents.latent_rgb_factors).T @ latents.process_in(raw[:, None])[:, 0]
    torch.testing.assert_close(own + torch.tensor(latents.latent_rgb_factors_bias)[:, None], 2 * known - 1, atol=1e-4,
                               rtol=1e-4)  # fmt: skip
    assert latents.taesd_decoder_name is None


def sd_vae():
    """A small Stable Diffusion VAE of the host's own class, random."""
    import comfy.ldm.models.autoencoder
    import comfy.sd

    sizes = {"double_z": True, "z_channels": 4, "resolution": 256, "in_channels": 3, "out_ch": 3, "ch": 32,
             "ch_mult": [1, 1, 1, 1], "num_res_blocks": 1, "attn_resolutions": [], "dropout": 0.0}  # fmt: skip
    network = comfy.ldm.models.autoencoder.AutoencoderKL(ddconfig=sizes, embed_dim=4)
    host_models.fill(network, 0)
    return comfy.sd.VAE(sd=network.state_dict(), config={"params": {"ddconfig": sizes, "embed_dim": 4}})


def test_an_sd_vae_gives_and_takes_the_unit_range(pack):
    vae = sd_vae()
    unit = pack.edm2.unit_range_vae(vae)
    raw = torch.randn(1, 4, 4, 4, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        network = vae.first_stage_model.decode(raw).movedim(1, -1)
        torch.testing.assert_close(unit.decode(raw), network.clamp(0, 1), atol=1e-5, rtol=0)
        torch.testing.assert_close(vae.decode(raw), ((network + 1) / 2).clamp(0, 1), atol=1e-5, rtol=0)
        picture = torch.rand(1, 32, 32, 3, generator=torch.Generator().manual_seed(1))
        stretched = vae.first_stage_model.encode(picture.movedim(-1, 1))
        torch.testing.assert_close(unit.encode(picture), stretched, atol=1e-5, rtol=0)
        torch.testing.assert_close(unit.encode(picture), vae.encode((picture + 1) / 2), atol=1e-5, rtol=0)
    assert unit.patcher is vae.patcher
    with pytest.raises(ValueError, match="this VAE has 3 channels"):
        pack.edm2.unit_range_vae(pack.tiny.pixel_vae())


def test_memory_grows_with_the_batch_the_network_and_its_weights(models):
    def needed(name, batch):
        return models[name].model.memory_required([batch, 4, 64, 64])

    one, two = needed("latent", 1), needed("latent", 2)
    weight = max(p.numel() for p in models["latent"].model.diffusion_model.parameters())
    assert two - one == pytest.approx(one - 8 * weight) and needed("guide", 1) > 1.9 * one


@pytest.mark.slow
@pytest.mark.parametrize(("channels", "batch"), [(128, 1), (128, 4), (192, 2)])
def test_the_memory_asked_for_is_what_a_forward_takes(pack, monkeypatch, channels, batch):
    """With an attention that keeps no table of weights, as on a GPU; counted on the meta device."""
    import comfy.model_management

    monkeypatch.setattr(comfy.model_management, "pytorch_attention_flash_attention", lambda: True)
    config = pack.edm2.EDM2ModelConfig(EDM2Config(model_channels=channels))
    config.set_inference_dtype(torch.bfloat16, None)
    model = pack.edm2.EDM2Model(config, (), device="meta")
    x, labels = torch.zeros(batch, 4, 64, 64, dtype=torch.bfloat16, device="meta"), torch.zeros(batch, device="meta")
    with torch.inference_mode(), LiveMemory(model) as memory:
        model.diffusion_model(x, torch.zeros(batch, device="meta"), y=labels)
    asked = model.memory_required([batch, 4, 64, 64])
    assert memory.peak < asked < 3 * memory.peak
