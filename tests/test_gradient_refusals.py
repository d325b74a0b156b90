"""What a gradient cannot do is refused in words before sampling starts: what came, what is allowed, how to go on."""

import pytest
import steering
import torch
from engine_probe import cfg_guider, setting_of
from host_families import BUILT
from host_models import MODELS, count_forwards
from test_engine_gradients import steer

from guidance_pack.guidance.rules.gradient import GradientGuidance

SD15, FLUX, RADIANCE = MODELS["sd15"], MODELS["flux"], MODELS["chroma_radiance"]
LINEAR = {"at": "denoised", "decoder": "linear rgb"}
main = steering.main


@pytest.fixture(scope="module")
def pixels(comfy):
    return steering.as_nodes_do(RADIANCE.build, 0)


@pytest.fixture
def guide(comfy):
    return steering.loaded(3)


def to_target(
    model, name, guide=None, *, images=None, kind="picture", text="", cutouts=0, at="denoised", scale=5.0, **more
):
    """Loss Guidance as its node does it."""
    from guidance_pack.host.engine.steer import steer_to_target

    rule = GradientGuidance(scale)
    wanted = {"images": images, "kind": kind, "text": text, "cutouts": cutouts, "seed": 0}
    with torch.inference_mode():
        return steer_to_target(model, name, guide, wanted, rule, at=at, decoder="linear rgb", vae=None, **more)


def of_task(task, labels=()):
    """A GUIDE that says it is of another task."""
    from guidance_pack.guidance.guide import Guide, GuideSpec
    from guidance_pack.host.models.guides import LoadedGuide

    with torch.inference_mode():
        return LoadedGuide(Guide((GuideSpec(f"my {task}", task, labels=labels),)), steering.loaded(1).patchers)


LABELS = {
    "dgo": "no class 'dgo'.*did you mean 'dog'.*head 3 has: cat, dog, bird",
    "7": "no class 7.*classes 0 to 2",
    "": "label is empty",
    "dog:x": "'dog:x'.*name:number",
    "dog:0.5 + cta:1": "did you mean 'cat'",
}


@pytest.mark.parametrize("label", LABELS)
def test_labels(pixels, guide, label):
    with pytest.raises(ValueError, match=LABELS[label]):
        steer(pixels, guide, label)


@pytest.mark.parametrize(("label", "weights"), [
    ("dog", [[0, 1, 0]]), ("1", [[0, 1, 0]]), ("DOG", [[0, 1, 0]]), ("cat:0.7 + bird:0.3", [[0.7, 0, 0.3]]),
    ("cat, bird:2", [[1, 0, 0], [0, 0, 2]]), ("dog:1+dog:-0.5", [[0, 0.5, 0]]),
])  # fmt: skip
def test_what_labels_mean(comfy, guide, label, weights):
    from guidance_pack.host.engine.targets import class_target

    torch.testing.assert_close(class_target(guide.guide, label).value, torch.tensor(weights, dtype=torch.float32))


def test_synonyms_of_imagenet_are_single_names(comfy):
    from guidance_pack.host.common.labels import index_of

    labels = ("tench, Tinca tinca", "goldfish, Carassius auratus", "crane", "crane")
    words = ("Tinca tinca", "goldfish", "tench, tinca tinca", "crane")
    assert [index_of(word, labels) for word in words] == [0, 1, 0, 2]


def test_a_guide_of_another_task(main):
    with pytest.raises(ValueError, match="my depth gives depth, and Classifier Guidance needs a cl.*Loss Guidance"):
        steer(main, of_task("depth"), "cat", **LINEAR)
    with pytest.raises(ValueError, match="compares depth, and no guide is connected"):
        to_target(main, "depth", images=torch.zeros(1, 64, 64, 3))
    with pytest.raises(ValueError, match="compares picture, and my depth gives depth. Remove the guide"):
        to_target(main, "mse", of_task("depth"), images=torch.zeros(1, 64, 64, 3))


def test_latents_need_a_decoder(main, guide):
    with pytest.raises(ValueError, match="looks at pictures.*works on latents.*Connect a VAE.*linear rgb"):
        steer(main, guide, at="denoised")
    with pytest.raises(ValueError, match="VAE decodes latents of 16 channels.*makes 4"):
        steer(main, guide, at="denoised", vae=steering.tiny_autoencoder(channels=16))
    with pytest.raises(ValueError, match="noisy input.*works on latents.*denoised"):
        steer(main, guide, at="noisy input", vae=steering.tiny_autoencoder())


def test_sound_cannot_be_seen(guide):
    model = steering.as_nodes_do(MODELS["stable_audio"].build, 0)
    with pytest.raises(ValueError, match="makes no pictures: its latents are a row of numbers"):
        steer(model, guide, **LINEAR)


def test_latents_without_linear_colours(main, guide, monkeypatch):
    monkeypatch.setattr(main.model.latent_format, "latent_rgb_factors", None)
    with pytest.raises(ValueError, match="SD15 latents have no linear RGB factors.*taesd"):
        steer(main, guide, **LINEAR)


def test_packs_of_latents_are_refused_before_the_first_step(guide):
    model = steering.as_nodes_do(MODELS["ltxav"].build, 0)
    from host_models import sample

    spec = MODELS["ltxav"]
    words = "video and its sound|latents have no linear RGB factors"  # the latter in ComfyUIs that know none of them
    with count_forwards(model) as count, pytest.raises(ValueError, match=words):
        sample(steer(model, guide, **LINEAR), spec.conditioning(1), spec.conditioning(2), spec.latent(), steps=2)
    assert count.forwards == 0


@pytest.mark.parametrize("name", ["lotus", "wan_flow_rvs"])
def test_a_model_without_noise_is_refused_before_the_first_step(name, guide):
    from host_models import sample

    spec = BUILT[name]
    model = steering.as_nodes_do(spec.build, 0)
    with count_forwards(model) as count, pytest.raises(ValueError, match="turns one picture into another.*noise"):
        sample(steer(model, guide, **LINEAR), spec.conditioning(1), spec.conditioning(2), spec.latent(), steps=2)
    assert count.forwards == 0


def test_a_target_of_another_size_is_refused_before_the_first_step(main):
    model = to_target(main, "mse", images=torch.zeros(1, 48, 64, 3))
    setting = setting_of(main, SD15)
    with count_forwards(main) as count, pytest.raises(ValueError, match="target is 64x48.*being made is 64x64"):
        setting.run(cfg_guider(model, SD15.conditioning(1), SD15.conditioning(2), 1.0))
    assert count.forwards == 0


def test_targets_that_are_not_there(main):
    with pytest.raises(ValueError, match="compares with a target, and none is connected. Connect a picture to target"):
        to_target(main, "mse")
    two = of_task("segmentation", ("a", "b"))
    with pytest.raises(ValueError, match="grey level 255.*classes 0 to 1"):
        to_target(main, "segmentation", two, images=torch.ones(1, 64, 64, 3), kind="map")
    with pytest.raises(ValueError, match="text is compared by a guide that reads text"):
        to_target(main, "depth", of_task("depth"), text="a cat")
    with pytest.raises(ValueError, match="cutouts is 4; only an embedding"):
        to_target(main, "depth", of_task("depth"), images=torch.zeros(1, 64, 64, 3), cutouts=4)
    with pytest.raises(ValueError, match="There is no loss 'nice'; there are .*mse"):
        to_target(main, "nice")


def test_quantised_networks(main, guide):
    weight = guide.patchers[0].model.conv.weight
    with torch.inference_mode():
        guide.patchers[0].model.conv.weight = torch.nn.Parameter(weight.to(torch.float8_e4m3fn), requires_grad=False)
    with pytest.raises(ValueError, match="The guide is quantised .conv.weight is float8_e4m3fn.*fp16"):
        steer(main, guide, **LINEAR)
    vae = steering.tiny_autoencoder()
    with torch.inference_mode():
        layer = vae.first_stage_model.taesd_decoder[1]
        layer.weight.data = layer.weight.to(torch.float8_e5m2)
    with pytest.raises(ValueError, match="The VAE is quantised.*linear rgb"):
        steer(main, steering.loaded(3), at="denoised", vae=vae)


class Dynamic:
    """What the memory manager of NVIDIA cards looks like from outside."""

    def is_dynamic(self):
        return True


def dynamic(patcher):
    """The same patcher, managed dynamically."""
    kind = type("DynamicPatcher", (Dynamic, type(patcher)), {})
    patcher.__class__ = kind
    return patcher


def test_a_dynamically_managed_model_is_loaded_plainly(guide):
    model = dynamic(steering.as_nodes_do(SD15.build, 0))
    out = steer(model, guide, at="through denoiser", decoder="linear rgb")
    assert not out.is_dynamic() and out.model is not model.model
    assert steer(model, guide, **LINEAR).model is model.model, "only a gradient through the model needs that"


@pytest.mark.slow
def test_a_dynamically_managed_model_that_cannot_be_loaded_again(guide):
    model = dynamic(steering.as_nodes_do(SD15.build, 0))
    model.cached_patcher_init = None
    with pytest.raises(ValueError, match="The model is loaded with dynamic memory.*at = denoised.*--disable-dynamic"):
        steer(model, guide, at="through denoiser", decoder="linear rgb")
    vae = steering.tiny_autoencoder()
    dynamic(vae.patcher)
    with pytest.raises(ValueError, match="The VAE is loaded with dynamic memory.*linear rgb"):
        steer(model, guide, at="denoised", vae=vae)


def test_a_network_that_does_not_fit_is_refused_before_the_first_step(main, guide, monkeypatch):
    import comfy.model_management as management

    from guidance_pack.host.common import autograd as differentiable

    assert differentiable.elsewhere(guide.patchers[0]) == 0
    model = steer(main, guide, **LINEAR)
    setting = setting_of(main, SD15)
    monkeypatch.setattr(differentiable, "elsewhere", lambda patcher: 5 * 2**20)
    with count_forwards(main) as count, pytest.raises(ValueError, match="The guide does not fit.*smaller guide"):
        setting.run(cfg_guider(model, SD15.conditioning(1), SD15.conditioning(2), 1.0))
    assert count.forwards == 0 and not management.in_training


def test_weights_on_another_device_are_counted(guide):
    from guidance_pack.host.common.autograd import elsewhere

    patcher = guide.patchers[0]
    patcher.load_device = torch.device("meta")
    every = [*patcher.model.parameters(), *patcher.model.buffers()]
    assert elsewhere(patcher) == sum(w.nbytes for w in every)


def test_a_gradient_that_is_not_finite(pixels, guide):
    with torch.inference_mode():
        guide.patchers[0].model.out.weight.mul_(float("inf"))
    setting = setting_of(pixels, RADIANCE)
    with pytest.raises(FloatingPointError, match="gradient of class dog by head 3 is not finite.*fp32"):
        setting.run(cfg_guider(steer(pixels, guide, at="noisy input"), RADIANCE.conditioning(1),
                               RADIANCE.conditioning(2), 1.0))


def test_several_gpus_do_not_share_a_differentiated_evaluation(comfy):
    from guidance_pack.host.common.autograd import differentiable_options

    given = {"multigpu_clones": object(), "transformer_options": {"patches": {"a": [1]}}}
    out = differentiable_options(given)
    assert "multigpu_clones" not in out and out["transformer_options"]["patches"] == {"a": [1]}
    assert "multigpu_clones" in given and "optimized_attention_override" not in given["transformer_options"]
