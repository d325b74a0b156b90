"""The world of scenes: pictures are determined by (seed, index), their words and their maps are true."""

import pytest
import torch
from train_scenes import DENOISERS
from train_world import batch_of, describe
from world.planes import rgb
from world.scenes import COLOURS, GROUNDS, HUES, SIZE, WORDS, render_scenes
from world.shapes import LABELS

from guidance_pack.guidance.networks.tiny.files import DENOISER, write_network
from guidance_pack.guidance.networks.tiny.preconditioning import precondition
from guidance_pack.guidance.networks.tiny.unet import TinyUNet


@pytest.fixture(scope="module")
def scenes():
    return render_scenes(torch.arange(300), seed=2)


def test_types_and_ranges(scenes):
    assert scenes.images.shape == (300, 3, SIZE, SIZE) and scenes.images.dtype == torch.float32
    assert scenes.images.min() >= -1 and scenes.images.max() <= 1
    assert scenes.depth.shape == (300, 1, SIZE, SIZE) and 0 < scenes.depth.min() and scenes.depth.max() == 1
    assert scenes.segmentation.shape == (300, SIZE, SIZE) and scenes.segmentation.max() <= len(LABELS)
    assert scenes.words.shape == (300, len(WORDS)) and torch.equal(scenes.labels, torch.arange(300) % 10)


def test_a_scene_does_not_depend_on_its_batch(scenes):
    for index in (0, 7, 299):
        alone = render_scenes(torch.tensor([index]), seed=2)
        assert torch.equal(alone.images[0], scenes.images[index])
        assert torch.equal(alone.segmentation[0], scenes.segmentation[index])
    assert not torch.equal(render_scenes(torch.arange(4), seed=3).images, scenes.images[:4])


def test_every_word_is_said_and_none_of_them_is_said_twice(scenes):
    assert scenes.words[:, 1].unique().numel() == len(COLOURS) and scenes.words[:, 2].unique().numel() == len(GROUNDS)
    everything = [word for words in WORDS for word in words]
    assert len(set(everything)) == len(everything)


def test_the_main_thing_has_the_colour_that_the_word_says(scenes):
    """The mean colour of its pixels is nearest to its own word's, and the small thing never has the same one."""
    palette = rgb(torch.tensor(list(HUES.values())), torch.full((8,), 0.8), torch.full((8,), 0.85)) * 2 - 1
    palette = torch.nn.functional.normalize(palette - palette.mean(1, keepdim=True), dim=1)
    right = 0
    for picture, map_, (shape, colour, _) in zip(scenes.images, scenes.segmentation, scenes.words, strict=True):
        mean = picture[:, map_ == shape + 1].median(dim=1).values
        right += int((palette @ (mean - mean.mean())).argmax() == colour)
    assert right >= 290


def test_the_main_thing_is_the_largest_and_is_visible(scenes):
    own = (scenes.segmentation == scenes.labels[:, None, None] + 1).sum((1, 2))
    others = ((scenes.segmentation > 0) & (scenes.segmentation != scenes.labels[:, None, None] + 1)).sum((1, 2))
    assert own.min() >= 160 and (own > others).all()


def test_maps_agree_with_each_other(scenes):
    assert torch.equal(scenes.depth[:, 0] == 1, scenes.segmentation == 0)


def test_a_plain_ground_is_plain_and_a_patterned_one_is_not(scenes):
    for picture, map_, ground in zip(scenes.images, scenes.segmentation, scenes.words[:, 2], strict=True):
        free = torch.nn.functional.max_pool2d((map_ > 0).float()[None, None], 25, 1, 12)[0, 0] == 0
        if free.sum() > 500:
            spread = picture[:, free].std(dim=1).mean()
            assert (spread < 0.02) == (GROUNDS[ground] == "plain")


def test_a_network_learns_the_words_of_a_scene_each_by_itself():
    """Every part of the condition reaches the output, and a part's null word is another word."""
    network = TinyUNet(**DENOISERS["scenes-edm"].config)
    network.initialise(torch.Generator().manual_seed(0))
    torch.nn.init.normal_(network.head.weight, generator=torch.Generator().manual_seed(1))
    torch.nn.init.normal_(network.deep[0].conv_out.weight, generator=torch.Generator().manual_seed(2))
    denoise = precondition(network, "edm")
    images, words = batch_of(DENOISERS["scenes-edm"], 1)
    x, sigma = images[:1], torch.ones(1)
    with torch.no_grad():
        first = denoise(x, sigma, words[:1])
        for part, count in enumerate(map(len, WORDS)):
            other = words[:1].clone()
            other[0, part] = count
            assert not torch.equal(denoise(x, sigma, other), first)


@pytest.fixture(scope="module")
def tiny(comfy, tmp_path_factory):
    """A MODEL of scenes, untrained, from a file as the tool writes it."""
    from guidance_pack.host.models import tiny

    recipe, folder = DENOISERS["scenes-edm-weak"], tmp_path_factory.mktemp("assets")
    network = TinyUNet(**recipe.config)
    network.initialise(torch.Generator().manual_seed(0))
    for layer in (network.head, network.deep[0].conv_out):
        torch.nn.init.normal_(layer.weight, std=0.1, generator=torch.Generator().manual_seed(1))
    facts = {"prediction": "edm", "sigma_data": 0.5, **describe("scenes-edm-weak", recipe, network, 0)}
    write_network(folder / "scenes.safetensors", DENOISER, network.config.as_dict(), facts, network.state_dict())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tiny, "ASSETS", folder)
        yield tiny.load_tiny_model("scenes")


def test_a_phrase_chooses_a_word_for_every_part_that_it_names(tiny):
    from guidance_pack.host.common.labels import LABELS_KEY, class_conditioning

    def rows(text):
        return class_conditioning(tiny, text)[0][1][LABELS_KEY].tolist()

    star, red, stripes = LABELS.index("star"), COLOURS.index("red"), GROUNDS.index("stripes")
    assert rows("red star on stripes") == rows("Stripes with a Red STAR") == [[star, red, stripes]]
    assert rows("star, red") == [[star, 8, 5], [10, red, 5]]
    assert rows("") == [[10, 8, 5]]


@pytest.mark.parametrize(
    ("text", "words"),
    [("red stra", "did you mean 'star'"), ("red blue star", "two words for one thing: 'red' and 'blue'"),
     ("3", "It knows: circle, .*; red, .*; plain")],
)  # fmt: skip
def test_a_phrase_that_cannot_be_meant_is_told_in_words(tiny, text, words):
    from guidance_pack.host.common.labels import class_conditioning

    with pytest.raises(ValueError, match=words):
        class_conditioning(tiny, text)


def test_every_picture_of_a_batch_gets_its_own_phrase(tiny):
    """In a batch of two, with CFG, each picture is what it is alone with its own phrase."""
    import comfy.sample

    from guidance_pack.host.common.labels import class_conditioning

    def drawn(text, noise):
        positive, nothing = class_conditioning(tiny, text), class_conditioning(tiny, "")
        latent = torch.zeros_like(noise)
        return comfy.sample.sample(
            tiny, noise, 2, 2.0, "euler", "karras", positive, nothing, latent, disable_pbar=True, seed=0
        )

    noise = torch.randn(2, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(0))
    both = drawn("red star on stripes, blue", noise)
    for index, text in enumerate(("red star on stripes", "blue")):
        torch.testing.assert_close(both[index : index + 1], drawn(text, noise[index : index + 1]), rtol=1e-4, atol=1e-4)
    assert (drawn("green moon", noise[:1]) - both[:1]).abs().max() > 1e-3
