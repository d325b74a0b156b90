"""Pictures that a MODEL makes: each by itself, resumable byte for byte, and mistakes in words."""

import errno
import json
import os

import host_models
import pytest
import steering
import torch
from another_process import begun, said
from PIL import Image

SMALL = {"width": 16, "height": 16, "steps": 3, "cfg": 1.0, "sampler_name": "ddim", "scheduler": "karras", "seed": 0}


@pytest.fixture
def output(comfy, tmp_path, monkeypatch):
    """ComfyUI's output folder, empty."""
    import folder_paths

    monkeypatch.setattr(folder_paths, "output_directory", str(tmp_path))
    return tmp_path / "guidance" / "pictures"


@pytest.fixture(scope="module")
def tiny(comfy):
    from guidance_pack.host.models.tiny import load_tiny_model

    with torch.inference_mode():
        return load_tiny_model("shapes-edm")


def make(model, name, count, batch_size=4, positive=None, negative=None, vae=None, **drawing):
    from guidance_pack.host.training.generate import Drawing, make_pictures

    with torch.inference_mode():
        settings = Drawing(**{**SMALL, **drawing})
        return make_pictures(model, positive, negative, vae, name, count, batch_size, settings)


def data(made):
    return [(made.path / file).read_bytes() for file in made.files]


def test_a_set_is_pictures_and_a_manifest(output, tiny):
    made = make(tiny, "a", 5, width=24)
    assert made.files == ("000000.png", "000001.png", "000002.png", "000003.png", "000004.png")
    assert sorted(entry.name for entry in (output / "a").iterdir()) == [*made.files, "manifest.json"]
    manifest = json.loads((output / "a" / "manifest.json").read_text())
    assert manifest["format"] == "guidance-components/pictures/1" and manifest["done"] == 5
    assert manifest["settings"]["seed"] == 0 and "shapes-edm" in manifest["settings"]["model"]
    assert made.size == (16, 24) and made.labels == () and Image.open(output / "a" / "000000.png").size == (24, 16)
    assert made.batch([0, 4])[0].shape == (2, 3, 16, 24) and len(set(data(made))) == 5


def test_picture_i_is_the_hosts_own_sampler_on_noise_of_its_own(output, tiny):
    """One picture, written out by hand with the host's KSampler and VAE."""
    import comfy.sample

    from guidance_pack.host.common.labels import class_conditioning
    from guidance_pack.host.models.tiny import pixel_vae
    from guidance_pack.host.training.per_sample_noise import generators

    made = make(tiny, "a", 3, steps=5, seed=9)
    noise = torch.randn(1, 3, 16, 16, generator=generators(9, [2])[0])
    with torch.inference_mode():
        nothing = class_conditioning(tiny, "")
        samples = comfy.sample.sample(
            tiny, noise, 5, 1.0, "ddim", "karras", nothing, nothing, torch.zeros_like(noise), disable_pbar=True, seed=0
        )
        image = pixel_vae().decode(samples)
    picture = (made.batch([2])[0] + 1) / 2
    torch.testing.assert_close(picture.movedim(1, -1), image, atol=0.51 / 255, rtol=0)


def test_going_on_gives_the_same_bytes_as_never_stopping(output, tiny):
    whole = make(tiny, "whole", 10)
    make(tiny, "parts", 4)
    assert data(make(tiny, "parts", 10)) == data(whole)
    (output / "parts" / "000005.png").unlink()
    assert data(make(tiny, "parts", 10)) == data(whole)


def test_nothing_is_drawn_that_is_there(output, tiny, monkeypatch):
    import comfy.sample

    first = make(tiny, "a", 6)
    monkeypatch.setattr(comfy.sample, "sample_custom", None)
    again = make(tiny, "a", 6)
    assert again == first and make(tiny, "a", 2).files == first.files[:2]
    with pytest.raises(TypeError):  # the seventh must be drawn
        make(tiny, "a", 7)


@pytest.mark.parametrize("seed", [0, 2**64 - 1])
def test_pictures_of_a_set_differ_and_sets_of_neighbouring_seeds_share_none(output, tiny, seed):
    pictures = data(make(tiny, "a", 8, seed=seed)) + data(make(tiny, "b", 8, seed=abs(seed - 1)))
    assert len(set(pictures)) == 16


def levels(first, second):
    """How far two sets of equally many pictures lie apart, in 8-bit levels."""
    everything = range(len(first))
    return float((first.batch(everything)[0] - second.batch(everything)[0]).abs().max()) * 127.5


@pytest.mark.slow
def test_the_batch_does_not_matter_with_any_sampler(output, tiny):
    """Not to the last bit: torch's convolutions sum in another order for another batch, which rounding may show."""
    import comfy.samplers

    apart = {
        sampler: levels(*(make(tiny, f"{sampler} {size}", 2, size, sampler_name=sampler) for size in (1, 2)))
        for sampler in comfy.samplers.SAMPLER_NAMES
        if sampler != "ar_video"  # for videos alone
    }
    assert {sampler: found for sampler, found in apart.items() if found > 1.01} == {}


@pytest.mark.parametrize("sampler", ["euler_ancestral", "dpmpp_sde", "dpmpp_3m_sde_gpu", "lcm", "sa_solver"])
def test_noise_on_the_way_is_white_and_each_pictures_own(comfy, sampler):
    from guidance_pack.host.training.per_sample_noise import generators, sampler_for

    sigmas, shape = torch.tensor([10.0, 5.0, 1.0, 0.0]), (3, 32, 32)

    def noise(indices):
        found = sampler_for(sampler, sigmas, shape, generators(7, indices)).extra_options["noise_sampler"]
        return torch.stack([found(sigmas[0], sigmas[1]), found(sigmas[1], sigmas[2])])

    several = noise([3, 4, 5])
    assert torch.equal(several[:, 1:2], noise([4]))
    rows = several.reshape(6, -1).double()
    correlation = rows @ rows.T / rows.shape[1]
    assert (correlation - torch.eye(6)).abs().max() < 0.1  # 3072 numbers: a standard deviation of 0.026 at most


def test_the_hosts_samplers_stay_as_they_are(output, tiny):
    import comfy.samplers

    make(tiny, "a", 1, sampler_name="euler_ancestral")
    assert comfy.samplers.sampler_object("euler_ancestral").extra_options == {}


def test_classes_are_dealt_to_the_set_and_not_to_the_batch(output, tiny):
    from guidance_pack.host.common.labels import class_conditioning

    three = class_conditioning(tiny, "circle, square, star")
    sets = [make(tiny, f"{size}", 6, size, three) for size in (1, 4, 6)]
    assert levels(sets[0], sets[1]) <= 1.01 and levels(sets[0], sets[2]) <= 1.01
    for index, label in enumerate(("circle", "square", "star")):
        alone = data(make(tiny, label, 6, 6, class_conditioning(tiny, label)))
        assert [alone[i] == data(sets[2])[i] for i in range(6)] == [i % 3 == index for i in range(6)]


def test_the_models_guidance_is_used_and_belongs_to_the_settings(output, tiny):
    from guidance_pack.guidance.rules.cfg import CFG
    from guidance_pack.host.common.labels import class_conditioning
    from guidance_pack.host.engine.install import with_rule

    star = class_conditioning(tiny, "star")
    guided = with_rule(tiny, CFG(weight=3.0))
    assert data(make(guided, "rule", 3, positive=star)) == data(make(tiny, "cfg", 3, positive=star, cfg=3.0))
    assert data(make(tiny, "off", 3, positive=star)) != data(make(guided, "rule", 3, positive=star))
    with pytest.raises(ValueError, match="made otherwise.*guidance"):
        make(guided, "off", 3, positive=star)


@pytest.mark.parametrize(("changed", "words"), [
    ({"seed": 1}, "seed 0 instead of 1"), ({"steps": 4}, "steps 3 instead of 4"), ({"cfg": 2.0}, "cfg 1.0 instead"),
    ({"width": 24}, "width 16 instead of 24"), ({"sampler_name": "euler"}, "sampler_name ddim instead of euler"),
])
def test_other_settings_need_another_name(output, tiny, changed, words):
    made = make(tiny, "a", 2)
    before = data(made)
    with pytest.raises(ValueError, match=f"{words}.*Choose another name, or delete that folder"):
        make(tiny, "a", 4, **changed)
    assert data(made) == before


def test_another_model_or_prompt_needs_another_name(output, tiny):
    from guidance_pack.host.common.labels import class_conditioning
    from guidance_pack.host.models.tiny import load_tiny_model

    make(tiny, "a", 1)
    with pytest.raises(ValueError, match="model .*shapes-edm.* instead of .*shapes-flow"):
        make(load_tiny_model("shapes-flow"), "a", 2)
    with pytest.raises(ValueError, match="positive [0-9a-f]{16} instead of"):
        make(tiny, "a", 2, positive=class_conditioning(tiny, "star"))


def test_a_set_that_was_drawn_as_asked_is_not_asked_for_again(output, tiny):
    from guidance_pack.host.training.generate import set_fingerprint

    before = set_fingerprint("a")
    make(tiny, "a", 2)
    assert set_fingerprint("a") == before, "what was drawn is what was asked for"
    make(tiny, "a", 4)
    assert set_fingerprint("a") == before
    (output / "a" / "000001.png").unlink()
    lost = set_fingerprint("a")
    assert lost != before
    make(tiny, "a", 4)
    assert set_fingerprint("a") == lost and set_fingerprint("b") == before


DRAWS = """
import shutil
names = ["000000.png", "000001.png"]
with name_lock(path / names[0]), name_lock(path / names[1]):
    print("mine", flush=True)
    input()
    for name in names:
        shutil.copy(path.parent / "alone" / name, path / name)
"""


@pytest.fixture
def drawn(monkeypatch):
    """The numbers of every batch that this process draws."""
    from guidance_pack.host.training import generate

    batches, draw = [], generate._draw
    monkeypatch.setattr(generate, "_draw", lambda *given: batches.append([*given[3]]) or draw(*given))
    return batches


def while_waiting(monkeypatch, act):
    """Let `act` happen when this process first waits for another."""

    acts = [act]
    monkeypatch.setattr("time.sleep", lambda _: acts.pop()() if acts else None)


@pytest.mark.slow
def test_two_processes_draw_a_set_together(output, tiny, drawn, monkeypatch):
    make(tiny, "a", 0, 2), make(tiny, "alone", 6, 2)
    drawn.clear()
    other = begun(DRAWS, output / "a")
    assert other.stdout.readline() == "mine\n"
    while_waiting(monkeypatch, lambda: said(other))
    assert data(make(tiny, "a", 6, 2)) == data(make(tiny, "alone", 6, 2))
    assert drawn == [[2, 3], [4, 5]] and other.returncode == 0, "none twice"
    assert json.loads((output / "a" / "manifest.json").read_text())["done"] == 6
    assert len([*(output / "a").iterdir()]) == 7, "no lock is left"


@pytest.mark.slow
def test_what_a_process_that_died_was_drawing_is_taken_up(output, tiny, drawn, monkeypatch):
    make(tiny, "a", 0, 2)
    other = begun(DRAWS, output / "a")
    assert other.stdout.readline() == "mine\n"
    while_waiting(monkeypatch, lambda: (other.kill(), other.communicate()))
    make(tiny, "a", 4, 2)
    assert drawn == [[2, 3], [0, 1]] and len([*(output / "a").iterdir()]) == 5


def test_an_interrupt_while_waiting_or_drawing_lets_go(output, tiny, monkeypatch):
    import comfy.model_management as management

    from guidance_pack.guidance.checkpoints.atomic import name_lock

    make(tiny, "a", 0)
    with name_lock(output / "a" / "000000.png"):
        while_waiting(monkeypatch, lambda: management.interrupt_current_processing(True))
        with pytest.raises(management.InterruptProcessingException):
            make(tiny, "a", 1)
    management.interrupt_current_processing(True)
    with pytest.raises(management.InterruptProcessingException):
        make(tiny, "a", 1)
    assert [entry.name for entry in (output / "a").iterdir()] == ["manifest.json"]


def test_foreign_files_and_damaged_manifests_are_left_alone(output, tiny):
    (output / "mine").mkdir(parents=True)
    (output / "mine" / "000000.png").write_bytes(b"mine")
    with pytest.raises(ValueError, match="holds files that Make Pictures did not write"):
        make(tiny, "mine", 1)
    assert (output / "mine" / "000000.png").read_bytes() == b"mine"
    make(tiny, "a", 1)
    for text in ("{", "[]", '{"format": "another"}'):
        (output / "a" / "manifest.json").write_text(text)
        with pytest.raises(ValueError, match=r"manifest\.json is damaged or of another version"):
            make(tiny, "a", 1)


@pytest.mark.parametrize("name", ["", "..", ".", "a/b", "/etc", "C:\\x", "a\\b", "C:x", " a", "a ", "a\n", "a\0", "a*"])
def test_names_that_would_lie_elsewhere_are_refused(output, tiny, name):
    with pytest.raises(ValueError, match="Choose a plain name such as shapes-64"):
        make(tiny, name, 1)
    assert not output.exists()


def test_an_interrupt_keeps_what_is_done(output, tiny, monkeypatch):
    import comfy.model_management as management

    whole = data(make(tiny, "whole", 8))
    calls = iter(range(100))

    def update(self, value, total=None):
        if next(calls) == 5:  # in the second batch
            management.interrupt_current_processing()

    with monkeypatch.context() as patch:
        patch.setattr("comfy.utils.ProgressBar.update_absolute", update)
        with pytest.raises(management.InterruptProcessingException):
            make(tiny, "a", 8)
    names = sorted(entry.name for entry in (output / "a").iterdir())
    assert names == ["000000.png", "000001.png", "000002.png", "000003.png", "manifest.json"]
    assert data(make(tiny, "a", 8)) == whole


def test_progress_counts_steps_of_pictures_and_shows_each_batch(output, tiny, monkeypatch):
    from guidance_pack.host.training import generate

    seen, shown = [], []

    def update(self, value, total=None):
        seen.append((value, self.total))

    make(tiny, "a", 4)
    monkeypatch.setattr("comfy.utils.ProgressBar.update_absolute", update)
    monkeypatch.setattr(generate, "show_unfinished", lambda picture: shown.append(picture.tobytes()))
    made = make(tiny, "a", 10)
    values = [value for value, _ in seen]
    assert values == sorted(values) and values[0] == 16 and values[-1] == 30 and {total for _, total in seen} == {30}
    assert shown == [Image.open(made.path / made.files[index]).tobytes() for index in (4, 8)]


def test_a_full_disk_is_said_and_what_is_made_can_be_used(output, tiny, monkeypatch):
    from guidance_pack.host.training.pictures import load_pictures

    whole = data(make(tiny, "whole", 8))
    replace = os.replace

    def full(source, target):
        if str(target).endswith("000005.png"):
            raise OSError(errno.ENOSPC, "No space left on device")
        replace(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", full)
        with pytest.raises(OSError, match=r"The disk is full at .*000005\.png.*run again.*smaller count"):
            make(tiny, "a", 8)
    assert not list(output.rglob("*.partial"))
    assert data(load_pictures("guidance/pictures/a [output]", 16, 16)) == whole[:5]
    assert data(make(tiny, "a", 8)) == whole


@pytest.mark.slow
def test_latents_are_decoded_by_the_vae(output, comfy):
    spec = host_models.MODELS["sd15"]
    model, vae = spec.build(), steering.autoencoder()
    made = make(model, "a", 3, 2, spec.conditioning(1), vae=vae, width=64, height=64)
    assert made.batch([0])[0].shape == (1, 3, 64, 64)
    other = make(model, "b", 3, 3, spec.conditioning(1), vae=vae, width=64, height=64)
    assert len(set(data(made))) == 3 and levels(made, other) <= 1.01


def test_a_text_to_image_model_of_pixels_needs_no_vae(output, comfy):
    spec = host_models.MODELS["chroma_radiance"]
    made = make(spec.build(), "a", 2, 2, spec.conditioning(1), width=32, height=32, scheduler="simple")
    assert len(set(data(made))) == 2 and made.batch([0])[0].shape == (1, 3, 32, 32)


def test_what_is_missing_is_said_before_anything_is_drawn(output, comfy, tiny):
    spec = host_models.MODELS["sd15"]
    model, vae, prompt = spec.build(), steering.autoencoder(), spec.conditioning(1)
    with pytest.raises(ValueError, match="positive is not connected.*CLIP Text Encode with an empty text"):
        make(model, "a", 1, vae=vae)
    with pytest.raises(ValueError, match="works on latents: connect the VAE"):
        make(model, "a", 1, positive=prompt)
    with pytest.raises(ValueError, match=r"negative is not connected.*cfg is 4\)"):
        make(model, "a", 1, positive=prompt, vae=vae, cfg=4.0)
    with pytest.raises(ValueError, match="VAE decodes latents of 16 channels.*makes 4"):
        make(model, "a", 1, positive=prompt, vae=steering.tiny_autoencoder(channels=16))
    with pytest.raises(ValueError, match="width is 20; with .* it must be a multiple of 8, such as 16"):
        make(model, "a", 1, positive=prompt, vae=vae, width=20)
    assert not output.exists()


@pytest.mark.parametrize(("name", "words"), [("wan", "time axis"), ("qwen_image", "time axis"),
                                             ("stable_audio", "sound")])
def test_video_and_sound_are_refused(output, comfy, name, words):
    spec = host_models.MODELS[name]
    with pytest.raises(ValueError, match=f"{words}.*needs a model of single pictures"):
        make(spec.build(), "a", 1, positive=spec.conditioning(1), vae=steering.autoencoder())


def test_pictures_that_are_no_numbers_are_not_saved(output, tiny, monkeypatch):
    import comfy.sample

    sample = comfy.sample.sample_custom
    monkeypatch.setattr(comfy.sample, "sample_custom", lambda *a, **k: sample(*a, **k) * float("nan"))
    with pytest.raises(ValueError, match="Pictures 0 to 3 are not numbers"):
        make(tiny, "a", 8)
    assert [entry.name for entry in (output / "a").iterdir()] == ["manifest.json"]


def degraded(model):
    from guidance_pack.host.degrade.degrade import degrade

    return degrade(model, "input noise", 0.3)


def resampled(model, shift=3.0):
    from comfy_extras.nodes_model_advanced import ModelSamplingContinuousEDM

    return ModelSamplingContinuousEDM().patch(model, "edm", 80.0 + shift, 0.002)[0]


def rescaled(model, multiplier=0.7):
    from comfy_extras.nodes_model_advanced import RescaleCFG

    return RescaleCFG().patch(model, multiplier)[0]


def wrapped(model, factor=2.0):
    from comfy.patcher_extension import WrappersMP

    out = model.clone()
    enlarged = lambda executor, *args, **more: executor(*args, **more) * factor  # noqa: E731
    out.add_wrapper_with_key(WrappersMP.DIFFUSION_MODEL, "other", enlarged)
    return out


def lora(model, seed=0):
    out, generator = model.clone(), torch.Generator().manual_seed(seed)
    name, weight = next((n, w) for n, w in model.model.state_dict().items() if w.ndim > 1)
    out.add_patches({name: ("diff", (torch.randn(weight.shape, generator=generator),))}, 0.5)
    return out


def steered_by(model, seed=0):
    from guide_files import randomise

    from guidance_pack.guidance.rules.gradient import GradientGuidance
    from guidance_pack.host.engine.steer import AUTO, steer_to_class
    from guidance_pack.host.models.guides import load_guide

    with torch.inference_mode():
        guide = load_guide("shapes-noisy-classifier")
    if seed:
        with torch.inference_mode(False):
            randomise(guide.patchers[0].model)
    return steer_to_class(model, guide, "star", GradientGuidance(2.0), at=AUTO, decoder="vae", vae=None)


def autoguided(model):
    """By itself without the LoRA that it has: one network, whose weights change from one evaluation to the next."""
    from guidance_pack.guidance.rules.autoguidance import Autoguidance
    from guidance_pack.host.engine.install import with_autoguidance

    return with_autoguidance(lora(model), model, Autoguidance(2.0))


CHANGES = [
    autoguided, degraded, resampled, lambda model: resampled(model, 4.0), rescaled,
    lambda model: rescaled(model, 0.5), wrapped,
    lambda model: wrapped(model, 3.0), lora, lambda model: lora(model, 1), steered_by,
    lambda model: steered_by(model, 1),
]


def test_whatever_lies_on_the_model_belongs_to_the_settings(output, tiny):
    """Each is told from the plain MODEL and from the same thing otherwise; made anew it is the same again."""
    from guidance_pack.host.report.identity import facts_of_model

    facts = [json.dumps(facts_of_model(change(tiny))) for change in CHANGES] + [json.dumps(facts_of_model(tiny))]
    assert len(set(facts)) == len(facts)
    assert [json.dumps(facts_of_model(change(tiny))) for change in CHANGES] == facts[:-1]


@pytest.mark.parametrize("change", [autoguided, degraded, resampled, rescaled, wrapped])
def test_a_set_of_a_changed_model_needs_another_name_and_goes_on_by_its_own(output, tiny, change):
    make(tiny, "plain", 2)
    with pytest.raises(ValueError, match=r"made otherwise \(.*patches none instead of .*Choose another name"):
        make(change(tiny), "plain", 4)
    first = make(change(tiny), "changed", 2)
    assert make(change(tiny), "changed", 4).files[:2] == first.files, "a run leaves the facts as they were"
    with pytest.raises(ValueError, match="made otherwise"):
        make(tiny, "changed", 4)


def test_what_the_hosts_nodes_put_on_a_model_is_known_again_after_a_run(output, comfy):
    """Their functions keep things between calls; what they remember of a run is none of their settings."""
    from comfy_extras import nodes_freelunch, nodes_hypertile, nodes_model_downscale, nodes_pag, nodes_sag, nodes_tomesd

    from guidance_pack.host.report.identity import facts_of_model

    spec = host_models.MODELS["sd15"]
    model, vae, prompt = spec.build(), steering.autoencoder(), spec.conditioning(1)
    nodes = [
        (nodes_freelunch.FreeU_V2, (1.3, 1.4, 0.9, 0.2)), (nodes_pag.PerturbedAttentionGuidance, (3.0,)),
        (nodes_hypertile.HyperTile, (256, 2, 0, False)), (nodes_sag.SelfAttentionGuidance, (0.5, 2.0)),
        (nodes_model_downscale.PatchModelAddDownscale, (3, 2.0, 0.0, 0.35, True, "bicubic", "bicubic")),
        (nodes_tomesd.TomePatchModel, (0.3,)),
    ]
    for node, given in nodes:
        result = node.execute(model, *given)
        patched = (result if isinstance(result, tuple) else result.args)[0]
        before = facts_of_model(patched)
        make(patched, node.__name__, 1, positive=prompt, negative=prompt, vae=vae, width=64, height=64, cfg=2.0)
        assert facts_of_model(patched) == before, node.__name__
