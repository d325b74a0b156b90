"""Every guide family on small random networks that the real libraries wrote."""


import guide_conformance as conformance
import pytest
import torch
from guide_files import CASES, clip
from safetensors.torch import load_file, save_file

from guidance_pack.guidance.checkpoints.guide_source import GuideFileError, GuideSource
from guidance_pack.guidance.guide import families
from guidance_pack.guidance.guides.image_text import patches_of


@pytest.fixture(scope="module", params=CASES)
def name(request):
    return request.param


@pytest.fixture(scope="module")
def case(name):
    return CASES[name]


@pytest.fixture(scope="module")
def guide(name, written):
    backbone = CASES[name].backbone
    return conformance.load(written(name), backbone=written(backbone) if backbone else None)


def test_every_family_has_a_case():
    assert {case.family for case in CASES.values()} == set(families())
    for family in families().values():
        assert family.title and family.__doc__


@pytest.mark.many
def test_says_what_it_is(case, guide):
    assert (guide.family, guide.spec.task, guide.spec.labels) == (case.family, case.task, case.labels)
    assert guide.spec.name == "a guide" and guide.spec.domain == "pixels"


@pytest.mark.many
@pytest.mark.parametrize("width", [40, 72])
def test_shapes(case, guide, width):
    conformance.check_shape(guide, case.outputs, width, case.sizes[width == 72])


@pytest.mark.many
def test_each_sample_is_seen_alone(guide):
    conformance.check_per_sample(guide)


@pytest.mark.many
def test_a_classifiers_features_are_what_its_last_layer_reads(name, guide):
    if guide.spec.task == "classification":
        conformance.check_features(guide, linear="squeezenet" not in name and guide.family != "adm")


@pytest.mark.many
def test_the_gradient_reaches_the_picture(guide):
    conformance.check_gradient(guide)


@pytest.mark.many
def test_is_in_evaluation_mode(guide):
    conformance.check_evaluation_mode(guide)


@pytest.mark.many
def test_holds_what_the_file_holds(guide):
    conformance.check_round_trip(guide)


@pytest.mark.many
def test_depends_on_the_noise_level_only_by_its_timestep(guide):
    conformance.check_noise(guide)


def test_sees_the_picture_as_the_library_does(written):
    """Resize, colours and head, against transformers' own calls on a picture that needs no resizing."""
    from transformers import AutoModelForImageClassification

    found = conformance.load(written("resnet"))
    picture = conformance.pictures(2)[..., :32, :32].float()
    colours = [torch.tensor(values)[:, None, None] for values in ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])]
    own = AutoModelForImageClassification.from_pretrained(written("resnet")).eval()
    with torch.no_grad():
        wanted = own(pixel_values=((picture + 1) / 2 - colours[0]) / colours[1]).logits
        torch.testing.assert_close(found.spec.output(found.network, picture, conformance.levels(1.0, 1.0)), wanted)


def test_half_precision_files_are_read_exactly(written, tmp_path):
    path = tmp_path / "half.safetensors"
    tensors = load_file(written("squeezenet"))
    save_file({key: value.half() for key, value in tensors.items()}, path, GuideSource(written("squeezenet")).metadata)
    held = conformance.load(path).network.state_dict()
    assert all(torch.equal(held[f"network.{key}"], value.half().float()) for key, value in tensors.items())


def test_shards_are_one_network(written, tmp_path):
    from transformers import AutoModelForImageClassification

    AutoModelForImageClassification.from_pretrained(written("vit")).save_pretrained(tmp_path, max_shard_size="8KB")
    (tmp_path / "preprocessor_config.json").write_text((written("vit") / "preprocessor_config.json").read_text())
    assert len(GuideSource(tmp_path).files) > 1
    whole, parts = conformance.load(written("vit")), conformance.load(tmp_path)
    assert torch.equal(conformance.output(whole, conformance.pictures(1)),
                       conformance.output(parts, conformance.pictures(1)))
    GuideSource(tmp_path).files[0].unlink()
    with pytest.raises(GuideFileError, match="lacks model-00001.*which its model.safetensors.index.json lists"):
        GuideSource(tmp_path)


# texts


@pytest.mark.many
@pytest.mark.parametrize("name", ["clip", "siglip", "siglip2"])
def test_texts_become_vectors_of_the_pictures_space(written, name):
    found = conformance.load(written(name))
    texts = found.network.embed_text(["a photo of a cat", "dog", "A Dog and a heart"])
    assert texts.shape == (3, CASES[name].outputs) and not texts.requires_grad
    torch.testing.assert_close(found.network.embed_text(["dog"])[0], texts[1], rtol=1e-4, atol=1e-5)
    assert float((texts[0] - texts[1]).norm()) > 1e-3
    with pytest.raises(ValueError, match="was given no text"):
        found.network.embed_text([])


def test_a_long_text_is_cut_off(written):
    network = conformance.load(written("clip")).network
    assert network.embed_text(["cat " * 50]).shape == (1, 6)


def test_vectors_are_those_of_the_library(written):
    from transformers import AutoModel

    found = conformance.load(written("siglip"))
    picture = conformance.pictures(2)[..., :24, :24].float()
    own = AutoModel.from_pretrained(written("siglip")).eval()
    ids = torch.tensor([[8, 6, 9, 0, 0, 0, 0, 0], [8, 2, 5, 9, 0, 0, 0, 0]])
    with torch.no_grad():
        wanted = own(pixel_values=picture, input_ids=ids)
    image = found.spec.output(found.network, picture, conformance.levels(1.0, 1.0))
    text = found.network.embed_text(["dog", "a cat"])
    torch.testing.assert_close(torch.nn.functional.normalize(image), wanted.image_embeds)
    torch.testing.assert_close(torch.nn.functional.normalize(text), wanted.text_embeds)


def test_patches_run_row_by_row_with_colours_last():
    picture = torch.arange(2 * 3 * 4 * 6.0).view(2, 3, 4, 6)
    patches, grid = patches_of(picture, 2)
    assert grid == (2, 3) and patches.shape == (2, 6, 12)
    for row in range(2):
        for column in range(3):
            tile = picture[:, :, 2 * row : 2 * row + 2, 2 * column : 2 * column + 2]
            assert torch.equal(patches[:, 3 * row + column], tile.permute(0, 2, 3, 1).flatten(1))


def test_a_folder_without_tokenizer_still_sees_pictures(tmp_path):
    path = clip(tmp_path)
    (path / "tokenizer.json").unlink()
    found = conformance.load(path)
    assert conformance.output(found, conformance.pictures(1)).shape == (1, 6)
    with pytest.raises(GuideFileError, match="has no tokenizer, so it cannot read texts; copy tokenizer.json"):
        found.network.embed_text(["cat"])
