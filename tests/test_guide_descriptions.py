"""What a guide's files say of it: preprocessing, labels, metadata; and every wrong file answered in words."""

import json
import math
import re

import guide_conformance as conformance
import pytest
import torch
from guide_files import LABELS, clip, imagenet, squeezenet, vit
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from guidance_pack.guidance.checkpoints.guide_source import GuideFileError, GuideSource
from guidance_pack.guidance.guides.folder import labels_of, preprocessing_of
from guidance_pack.guidance.noise_schedule import noise_schedule
from guidance_pack.guidance.preprocessing import Preprocessing


class Folder:
    """As much of a source as reading JSON needs."""

    name, path = "a folder", "somewhere"

    def __init__(self, config=None, preprocessor=None):
        self.config, self.preprocessor = config or {}, preprocessor


@pytest.mark.parametrize(
    ("given", "size"),
    [
        ({"size": 224}, (224, 224)),
        ({"size": 256, "crop_size": {"height": 224, "width": 192}, "do_center_crop": True}, (224, 192)),
        ({"size": {"shortest_edge": 256}, "crop_size": 224, "do_center_crop": True}, (224, 224)),
        ({"size": {"shortest_edge": 256}, "crop_size": 224, "do_center_crop": False}, (256, 256)),
        ({"size": {"height": 384, "width": 512}}, (384, 512)),
        ({"size": [384, 512]}, (384, 512)),
        ({"size": {"longest_edge": 300}}, (300, 300)),
        ({"do_resize": False, "size": 224}, None),
        ({"size_divisor": 32}, None),
    ],
)
def test_sizes(given, size):
    assert preprocessing_of(Folder(preprocessor=imagenet(**given))).size == size


def test_colours_and_filters():
    plain = preprocessing_of(Folder(preprocessor={"do_resize": False}))
    assert plain == Preprocessing(), "nothing is normalised where nobody asks for it"
    full = preprocessing_of(Folder(preprocessor=imagenet(size=8, resample=3, ensure_multiple_of=14)))
    assert full.mean == (0.485, 0.456, 0.406) and full.std == (0.229, 0.224, 0.225)
    assert (full.filter, full.multiple, full.white) == ("bicubic", 14, 1.0)
    raw = preprocessing_of(Folder(preprocessor={"do_rescale": False, "size": 8}))
    assert (raw.black, raw.white) == (0.0, 255.0)
    offset = preprocessing_of(Folder(preprocessor={"rescale_factor": 2 / 255, "rescale_offset": True, "size": 8}))
    assert (offset.black, round(offset.white, 6)) == (-1.0, 1.0)


def test_whole_pictures_keep_their_shape():
    seen = Preprocessing(size=(32, 32), multiple=16, whole=True)
    assert seen.frame(torch.zeros(1, 3, 64, 64)).shape[-2:] == (32, 32)
    assert seen.frame(torch.zeros(1, 3, 100, 60)).shape[-2:] == (48, 32)
    edge = torch.zeros(1, 1, 64, 128)
    edge[..., :2] = 1
    assert float(seen.frame(edge)[..., 0].max()) > 0.4, "the rim of the picture is seen"
    assert float(Preprocessing(size=(32, 32)).frame(edge).max()) == 0


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"size": 30_000}, "another size than height and width from 1 to 4096"),
        ({"size": 24, "crop_size": 30_000, "do_center_crop": True}, "another size than height and width"),
        ({"ensure_multiple_of": 10**6}, "another multiple than a whole number from 1 to 256"),
        ({"size": "large"}, "'large' where a number is needed"),
        ({"size": {"shortest_edge": -4}}, "height and width from 1 to 4096 (preprocessor_config.json)"),
        ({"image_mean": [0.5, 0.5]}, "image_mean in its preprocessor_config.json must be 3 numbers"),
        ({"image_std": [0.5, 0.0, 0.5]}, "image_std in its preprocessor_config.json must be 3 numbers"),
        ({"rescale_factor": None}, "None where a number is needed"),
        ({"do_normalize": True, "image_mean": None}, "None where a number is needed"),
    ],
)
def test_garbled_preprocessing_in_words(given, words):
    with pytest.raises(GuideFileError, match=re.escape(words)):
        preprocessing_of(Folder(preprocessor=imagenet(**{"size": 8, **given})))


def test_labels():
    assert labels_of(Folder({"id2label": {"1": "b", "0": "a"}}), 2) == ("a", "b")
    assert labels_of(Folder({"id2label": {"0": "LABEL_0", "1": "LABEL_1"}}), 2) == ("0", "1")
    assert labels_of(Folder(), 3) == ("0", "1", "2")
    with pytest.raises(GuideFileError, match="names 2 classes; the network gives 3, 0 to 2"):
        labels_of(Folder({"id2label": {"0": "a", "1": "b"}}), 3)


def test_newer_folders_keep_the_preprocessing_in_processor_config(written, tmp_path):
    path = clip(tmp_path)
    given = json.loads((path / "preprocessor_config.json").read_text())
    (path / "preprocessor_config.json").unlink()
    (path / "processor_config.json").write_text(json.dumps({"image_processor": given}))
    assert conformance.load(path).spec.preprocessing == conformance.load(written("clip")).spec.preprocessing


def test_colours_can_be_swapped(written, tmp_path):
    path = vit(tmp_path)
    given = json.loads((path / "preprocessor_config.json").read_text())
    (path / "preprocessor_config.json").write_text(json.dumps({**given, "do_flip_channel_order": True}))
    plain, swapped = conformance.load(written("vit")), conformance.load(path)
    picture = conformance.pictures(1)
    torch.testing.assert_close(conformance.output(swapped, picture), conformance.output(plain, picture.flip(1)))


@pytest.mark.slow
def test_metadata_say_what_a_torchvision_network_sees(written):
    spec = conformance.load(written("resnet18")).spec
    assert spec.sees == "noisy" and spec.schedule is noise_schedule("cosine") and spec.labels == LABELS
    usual = conformance.load(written("squeezenet")).spec
    assert usual.sees == "clean" and usual.schedule is None
    assert usual.preprocessing.mean == (0.485, 0.456, 0.406) and usual.preprocessing.filter == "bilinear"


def test_torchvision_preprocessing_is_that_of_its_own_weights(written, tmp_path):
    metadata = {"architecture": "squeezenet1_1"}
    path = tmp_path / "plain.safetensors"
    save_file(load_file(written("squeezenet")), path, metadata)
    assert conformance.load(path).spec.preprocessing.size == (224, 224)


@pytest.mark.many
@pytest.mark.parametrize(
    ("metadata", "words"),
    [
        ({"architecture": "squeezenet1_2"}, "like squeezenet1_1"),
        ({"architecture": "inception_v3"}, "the architecture 'inception_v3'"),
        ({"architecture": "resnet18"}, "it has the unknown classifier.1.bias"),
        ({"architecture": "squeezenet1_0"}, "Its metadata say that it is torchvision's squeezenet1_0"),
        ({"task": "depth"}, "say task 'depth', but squeezenet1_1 does classification"),
        ({"sees": "timestep"}, "sees clean or noisy pictures, and takes no timestep"),
        ({"schedule": "karras"}, "the schedule 'karras'; there are linear, cosine, stable diffusion"),
        ({"labels": "cat, dog"}, "labels in its metadata is not JSON"),
        ({"labels": '{"0": "cat"}'}, "labels in its metadata must be a JSON list"),
        ({"labels": '["cat", "dog"]'}, "list 2 labels, and the network has 3 classes"),
        ({"preprocessing": "[224]"}, "preprocessing in its metadata must be a JSON object"),
        ({"preprocessing": '{"crop": 3}'}, "has crop; it can have size, mean, std, filter, antialias"),
        ({"preprocessing": '{"size": [2, 3, 4]}'}, "size is a number or [height, width] or null"),
        ({"preprocessing": '{"filter": "magic"}'}, "filter is bilinear or bicubic"),
        ({"preprocessing": '{"mean": 0.5}'}, "three numbers each"),
    ],
)
def test_wrong_metadata_in_words(written, tmp_path, metadata, words):
    path = tmp_path / "wrong.safetensors"
    save_file(load_file(written("squeezenet")), path, {"architecture": "squeezenet1_1", **metadata})
    with pytest.raises(GuideFileError, match=re.escape(words)):
        conformance.load(path)


def test_tensors_under_other_names_in_words(written, tmp_path):
    tensors, path = load_file(written("squeezenet")), tmp_path / "wrong.safetensors"
    save_file({f"model.{key}": value for key, value in tensors.items()}, path, {"architecture": "squeezenet1_1"})
    with pytest.raises(GuideFileError, match="has no last layer of a squeezenet1_1: the tensors must have"):
        conformance.load(path)


def test_a_tensor_too_many_or_too_few_in_words(written, tmp_path):
    tensors, path = load_file(written("squeezenet")), tmp_path / "wrong.safetensors"
    save_file({**tensors, "extra": torch.zeros(1)}, path, {"architecture": "squeezenet1_1"})
    with pytest.raises(GuideFileError, match="has the unknown extra"):
        conformance.load(path)
    tensors.pop("features.0.bias")
    save_file(tensors, path, {"architecture": "squeezenet1_1"})
    with pytest.raises(GuideFileError, match="lacks features.0.bias"):
        conformance.load(path)


@pytest.mark.parametrize("kind", ["vit", "squeezenet"])
@pytest.mark.parametrize(
    ("spoil", "words"),
    [(lambda t: t * float("nan"), "is not finite"), (lambda t: t.to(torch.int8), "is of int8; weights are floating")],
)
def test_numbers_that_are_no_weights_in_words(tmp_path, kind, spoil, words):
    source = tmp_path / "vit" if kind == "vit" else tmp_path / "wrong.safetensors"
    file = vit(source) / "model.safetensors" if kind == "vit" else squeezenet(source)
    with safe_open(file, "pt") as opened:
        metadata = opened.metadata()
    tensors = load_file(file)
    last = max(key for key in tensors if key.startswith("classifier") and key.endswith("weight"))
    save_file({**tensors, last: spoil(tensors[last])}, file, metadata)
    with pytest.raises(GuideFileError, match=f"is no usable network: its tensor .*{words}"):
        conformance.load(source)


def wrong_json(path):
    (path / "config.json").write_text("{broken")


def list_json(path):
    (path / "config.json").write_text("[]")


def no_config(path):
    (path / "config.json").unlink()


def no_preprocessor(path):
    (path / "preprocessor_config.json").unlink()


def truncated(path):
    file = path / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])


def no_header(path):
    (path / "model.safetensors").write_bytes(b"")


def only_a_pickle(path):
    (path / "model.safetensors").unlink()
    (path / "pytorch_model.bin").write_bytes(b"\x80\x04never opened")


def pickle_in_disguise(path):
    (path / "model.safetensors").write_bytes(b"PK\x03\x04never opened, whatever is inside")


def other_name(path):
    (path / "model.safetensors").rename(path / "weights.safetensors")


def nothing(path):
    (path / "model.safetensors").unlink()


def index_outside(path):
    (path / "model.safetensors").unlink()
    (path / "model.safetensors.index.json").write_text('{"weight_map": {"a": "../../elsewhere.safetensors"}}')


def changed(**values):
    def change(path):
        config = json.loads((path / "config.json").read_text())
        (path / "config.json").write_text(json.dumps({**config, **values}))

    change.__name__ = "_".join(values)
    return change


def an_adapter(path):
    (path / "adapter_config.json").write_text("{}")


@pytest.mark.many
@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (wrong_json, "its config.json is not JSON"),
        (list_json, "its config.json must be a JSON object"),
        (no_config, "has no config.json; copy it into"),
        (no_preprocessor, "has no preprocessor_config.json, which says what size and colours"),
        (truncated, "model.safetensors is damaged or was not copied whole"),
        (no_header, "model.safetensors is damaged or was not copied whole"),
        (only_a_pickle, "only the pickle pytorch_model.bin. Pickles can run any code, so they are not opened. Convert"),
        (pickle_in_disguise, "is a pickle under the name of a safetensors file"),
        (other_name, "if weights.safetensors is the network, rename it to model.safetensors"),
        (nothing, "has no model.safetensors; copy it"),
        (index_outside, "lists no safetensors files beside it"),
        (an_adapter, "is an adapter of another network"),
        (changed(num_hidden_layers=3), "its weights lack vit."),
        (changed(hidden_size=32), "its weights have another shape of"),
        (changed(hidden_size="wide"), "cannot build the ViTForImageClassification"),
        (changed(hidden_act="unheard of"), "cannot build the ViTForImageClassification"),
        (changed(model_type="unheard of"), "Get the folder again, or update transformers"),
        (changed(model_type="own", auto_map={"AutoConfig": "code.Config"}), "contains custom code"),
        (changed(quantization_config={"bits": 4}), "is quantised, so it has no gradient"),
        (changed(backbone="someone/resnet"), "would be fetched from the internet"),
        (changed(hidden_size=10**7), "hidden_size in its config.json is larger than 1000000"),
        (changed(num_labels=10**6, id2label=None), "its config.json describes a network of"),
        (changed(hidden_size=10**6), "its config.json describes a network of"),
        (changed(num_hidden_layers=10**6), "its config.json describes a network of more than"),
        (changed(id2label=dict.fromkeys("01239", "a")), "names 5 classes; the network gives 5, 0 to 4"),
    ],
)
def test_wrong_folders_in_words(tmp_path, spoil, words):
    path = vit(tmp_path / "vit")
    spoil(path)
    with pytest.raises(GuideFileError, match=re.escape(words)) as caught:
        conformance.load(path, "my guide")
    assert str(caught.value).startswith(("my guide", "There is no guide my guide")) and len(str(caught.value)) < 500


@pytest.mark.parametrize(
    ("file", "content", "words"),
    [
        ("guide.pt", b"PK\x03\x04", "guide.pt is no torch file or was not copied whole"),
        ("guide.pt", b"\x80\x02", "guide.pt"),
        ("guide.ckpt", b"\x80\x02", "guide is a pickle. Pickles can run any code"),
        ("guide.safetensors", b"PK\x03\x04", "is a pickle under the name of a safetensors file"),
        ("guide.safetensors", b"\x10\x00", "guide.safetensors is damaged or was not copied whole"),
        ("guide.onnx", b"\x10\x00", "it must be a .safetensors, .pt or .pth file, or a transformers folder"),
    ],
)
def test_wrong_files_in_words(tmp_path, file, content, words):
    (tmp_path / file).write_bytes(content)
    with pytest.raises(GuideFileError, match=re.escape(words)):
        GuideSource(tmp_path / file)
    with pytest.raises(GuideFileError, match="does not exist"):
        GuideSource(tmp_path / "absent.safetensors")


def test_reading_a_source_opens_no_tensors(written):
    source = GuideSource(written("squeezenet"), "small")
    assert source.shapes["classifier.1.weight"] == (3, 512, 1, 1) and not source.is_folder and source.config == {}
    folder = GuideSource(written("clip"))
    assert folder.name == "clip" and folder.is_folder and folder.has_tokenizer and folder.metadata == {}
    assert not GuideSource(written("vit")).has_tokenizer and folder.architecture == "CLIPModel"
    assert math.prod(folder.shapes["visual_projection.weight"]) == 6 * 16
