"""Loss Guidance on the real host: every kind of target, and the update it makes, worked out by hand."""

import pytest
import steering
import torch
from engine_probe import far_apart
from host_models import MODELS
from test_engine_gradients import ab, check, pushes

from guidance_pack.guidance.rules.gradient import GradientGuidance

RADIANCE, SD15 = MODELS["chroma_radiance"], MODELS["sd15"]


class Maps(torch.nn.Module):
    """A network that gives a map of one or several channels at half the size."""

    def __init__(self, channels):
        super().__init__()
        self.conv = torch.nn.Conv2d(3, channels, 3, stride=2, padding=1)

    def forward(self, picture, timestep=None):
        return torch.tanh(self.conv(picture)) * 2


class Features(Maps):
    """A network that gives a vector, and knows two words."""

    def __init__(self):
        super().__init__(6)

    def forward(self, picture, timestep=None):
        return super().forward(picture).mean((2, 3))

    def embed_text(self, texts):
        known = {"red": [1.0, 0, 0, 0, 0, 0], "blue": [0, 0, 1.0, 0, 0, -1.0]}
        return torch.tensor([known[text] for text in texts])


def guide_of(task, seed=0):
    """A GUIDE of this task, its network made in inference mode, and the network in float64."""
    from guidance_pack.guidance.guide import Guide, GuideSpec
    from guidance_pack.guidance.preprocessing import Preprocessing
    from guidance_pack.host.models.guides import LoadedGuide

    labels = ("ground", "thing", "sky") if task == "segmentation" else ()
    spec = GuideSpec(
        f"my {task}", task, preprocessing=Preprocessing(black=-1.0, white=1.0), labels=labels,
        reads_text=task == "embedding",
    )  # fmt: skip
    with torch.inference_mode():
        network = Features() if task == "embedding" else Maps(max(1, len(labels)))
        generator = torch.Generator().manual_seed(seed)
        for value in network.state_dict().values():
            value.copy_(torch.randn(value.shape, generator=generator) * 0.3)
        network.eval().requires_grad_(False)
        return LoadedGuide(Guide((spec,)), (steering.patcher_of(network),)), steering.ordinary_copy(network)


def steer(model, name, guide=None, *, scale=500.0, images=None, kind="picture", text="", cutouts=0, seed=0):
    from guidance_pack.host.engine.steer import steer_to_target

    rule = GradientGuidance(scale)
    wanted = {"images": images, "kind": kind, "text": text, "cutouts": cutouts, "seed": seed}
    with torch.inference_mode():
        images = None if images is None else images.clone()
        return steer_to_target(
            model, name, guide, wanted | {"images": images}, rule, at="denoised", decoder="vae", vae=None
        )


@pytest.fixture(scope="module")
def model(comfy):
    return steering.as_nodes_do(RADIANCE.build, 0)


@pytest.fixture(scope="module")
def pictures():
    return torch.rand(2, 32, 32, 3, generator=torch.Generator().manual_seed(5))


def signed(pictures):
    """IMAGE to what networks see."""
    return (pictures.movedim(-1, 1) * 2 - 1).double()


def losses():
    from guidance_pack.guidance.loss import losses

    return losses()


@pytest.mark.many
@pytest.mark.parametrize("name", ["mse", "l1", "ssim", "edges", "colour", "total_variation"])
def test_losses_of_the_picture(model, pictures, name):
    loss = losses()[name]()
    target = signed(pictures)[:1] if loss.wants_target else None

    def gradient(call, own, a, b):
        return steering.gradient_of(lambda d: -loss(d, target), own)

    found = pushes(model, steer(model, name, images=pictures[:1], scale=9000.0), RADIANCE)
    check(found, model, gradient, held=True, scale=9000.0, tolerance=1e-3)


@pytest.mark.parametrize("name", ["depth", "depth_metric", "segmentation", "embedding"])
def test_a_reference_picture_is_judged_by_the_guide_itself(model, pictures, name):
    guide, truth = guide_of(name.removesuffix("_metric"))
    loss = losses()[name]()
    with torch.no_grad():
        target = truth(signed(pictures)[:1])
        target = target.argmax(1, keepdim=True) if name == "segmentation" else target

    def gradient(call, own, a, b):
        return steering.gradient_of(lambda d: -loss(truth(d), target), own)

    found = pushes(model, steer(model, name, guide, images=pictures[:1]), RADIANCE)
    check(found, model, gradient, held=True, tolerance=1e-3)


@pytest.mark.parametrize("name", ["depth", "segmentation"])
def test_a_finished_map_is_laid_over_the_guides_output(model, pictures, name):
    guide, truth = guide_of(name)
    loss = losses()[name]()
    grey = (pictures[:1, ..., :1] * 3).floor() / 255 if name == "segmentation" else pictures[:1, ..., :1]
    target = (grey.movedim(-1, 1) * (255 if name == "segmentation" else 1)).double()

    def gradient(call, own, a, b):
        return steering.gradient_of(lambda d: -loss(truth(d), target), own)

    found = pushes(model, steer(model, name, guide, images=grey.expand(-1, -1, -1, 3), kind="map"), RADIANCE)
    check(found, model, gradient, held=True, tolerance=1e-3)


def test_words_are_compared_through_the_guides_own_text(model):
    guide, truth = guide_of("embedding")
    loss, target = losses()["embedding"](), Features().embed_text(["blue"]).double()

    def gradient(call, own, a, b):
        return steering.gradient_of(lambda d: -loss(truth(d), target), own)

    found = pushes(model, steer(model, "embedding", guide, text=" blue "), RADIANCE)
    check(found, model, gradient, held=True, tolerance=1e-3)


def test_targets_are_dealt_to_the_pictures_of_a_batch(model, pictures):
    loss = losses()["mse"]()
    targets = signed(pictures)

    def gradient(call, own, a, b):
        return steering.gradient_of(lambda d: -loss(d, targets), own)

    found = pushes(model, steer(model, "mse", images=pictures), RADIANCE, batch=2)
    check(found, model, gradient, held=True, tolerance=1e-3)


def test_cutouts_repeat_by_seed_and_change_by_step(model, pictures):
    guide, _ = guide_of("embedding")

    def push(seed):
        made = steer(model, "embedding", guide, images=pictures[:1], cutouts=4, seed=seed)
        return [call.denoised - own for call, own in pushes(model, made, RADIANCE)]

    first, again, other = push(1), push(1), push(2)
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert any(far_apart(a, b) > 1e-2 for a, b in zip(first[1:], other[1:], strict=True))


def test_latents_are_compared_where_their_pictures_lie(comfy):
    """On latents seen in linear colours, a picture of the full size is compared at the size of the latents."""
    from guidance_pack.host.common.decoders import Decoder
    from guidance_pack.host.engine.steer import steer_to_target

    latent_model = steering.as_nodes_do(SD15.build, 0)
    picture = torch.rand(1, 64, 64, 3, generator=torch.Generator().manual_seed(1))
    rule = GradientGuidance(100.0)
    wanted = {"images": picture, "kind": "picture", "text": "", "cutouts": 0, "seed": 0}
    with torch.inference_mode():
        made = steer_to_target(
            latent_model, "mse", None, wanted, rule, at="denoised", decoder="linear rgb", vae=None
        )
    loss, linear = losses()["mse"](), Decoder("linear rgb")
    small = torch.nn.functional.interpolate(signed(picture), (8, 8), mode="bilinear", antialias=True)
    latents = latent_model.get_model_object("latent_format")

    def gradient(call, own, a, b):
        return steering.gradient_of(lambda d: -loss(linear.picture(d, latents, None), small), own)

    check(pushes(latent_model, made, SD15), latent_model, gradient, held=True, scale=100.0, tolerance=1e-3)


def test_the_cap_limits_every_push(model, pictures):
    from guidance_pack.host.engine.steer import steer_to_target

    rule = GradientGuidance(9000.0, cap=0.1)
    wanted = {"images": pictures[:1], "kind": "picture", "text": "", "cutouts": 0, "seed": 0}
    with torch.inference_mode():
        made = steer_to_target(model, "mse", None, wanted, rule, at="denoised", decoder="vae", vae=None)
    for call, own in pushes(model, made, RADIANCE):
        a, b = ab(model, call.sigma)
        limit = 0.1 * b / (a**2 + b**2) ** 0.5 * own.numel() ** 0.5
        length = float((call.denoised - own).norm())
        assert length == pytest.approx(limit if a else 0.0, rel=1e-3)
