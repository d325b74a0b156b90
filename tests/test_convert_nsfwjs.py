"""A TensorFlow.js MobileNetV2 as a guide: both layouts of the files, quantised weights, and Keras' own arithmetic."""

import base64
import json
import re

import convert_nsfwjs
import guide_conformance as conformance
import numpy as np
import pytest
import torch
import torch.nn.functional as F

BLOCKS = (("expanded_conv", 4, 4, 6, 1), ("block_1", 6, 12, 8, 2), ("block_2", 8, 16, 8, 1))  # given, inside, made
GENERATOR = np.random.default_rng(0)


def drawn(weights, name, *shape, positive=False):
    """As a file has them: whole numbers of one byte, a scale and a least value."""
    fan = 9 if name.endswith("depthwise_kernel") else int(np.prod(shape[:-1]))
    scale, least = (4 / 255 / fan**0.5, -2 / fan**0.5) if len(shape) > 1 else (1 / 255, 0.5 if positive else -0.5)
    weights.append(
        ({"name": name, "shape": list(shape), "dtype": "float32",
          "quantization": {"min": least, "scale": scale, "dtype": "uint8"}},
         GENERATOR.integers(0, 256, shape).astype(np.uint8)),
    )  # fmt: skip


def keras_model():
    """The layers by name, and the weights."""
    layers, weights = [], []

    def conv(name, norm, kernel, channels, stride=1):
        layers.extend([{"config": {"name": name, "strides": [stride, stride]}}, {"config": {"name": norm}}])
        deep = name.endswith("depthwise")
        drawn(weights, f"{name}/{'depthwise_kernel' if deep else 'kernel'}", *kernel)
        for part in ("gamma", "beta", "moving_mean", "moving_variance"):
            drawn(weights, f"{norm}/{part}", channels, positive=part in ("gamma", "moving_variance"))

    conv("Conv1", "bn_Conv1", (3, 3, 3, 4), 4, 2)
    for name, given, inside, made, stride in BLOCKS:
        if name != "expanded_conv":
            conv(f"{name}_expand", f"{name}_expand_BN", (1, 1, given, inside), inside)
        conv(f"{name}_depthwise", f"{name}_depthwise_BN", (3, 3, inside, 1), inside, stride)
        conv(f"{name}_project", f"{name}_project_BN", (1, 1, inside, made), made)
    conv("Conv_1", "Conv_1_bn", (1, 1, 8, 10), 10)
    for name, given, made in (("dense_1", 10, 7), ("dense_2", 7, 5)):
        layers.append({"config": {"name": name, "units": made}})
        drawn(weights, f"{name}/kernel", given, made)
        drawn(weights, f"{name}/bias", made)
    return layers, weights


@pytest.fixture(scope="module")
def model():
    return keras_model()


def write(folder, model, packed):
    layers, weights = model
    folder.mkdir()
    topology = {"modelTopology": {"model_config": {"config": {"layers": layers, "sparse": False, "rate": 0.25}}},
                "weightsManifest": [{"paths": ["group1-shard1of1"], "weights": [entry for entry, _ in weights]}]}
    data = b"".join(values.tobytes() for _, values in weights)
    if not packed:
        (folder / "model.json").write_text(json.dumps(topology))
        (folder / "group1-shard1of1").write_bytes(data)
        return folder
    text = re.sub(r'"(\w+)":', r"\1:", json.dumps(topology, separators=(",", ":")))
    text = text.replace("false", "!1").replace("0.25", ".25")
    around = "!function(e){{return e}}({{1:[function(e,a,n){{a.exports={}}},{{}}]}},{{}},[1]);"
    (folder / "model.min.js").write_text(around.format(text))
    (folder / "group1-shard1of1.min.js").write_text(around.format(f'"{base64.b64encode(data).decode()}"'))
    return folder


def keras(weights, pictures):
    """The network's own arithmetic: [B, 3, h, w] in [0, 1] -> logits."""
    held = {
        entry["name"]: torch.from_numpy(values * entry["quantization"]["scale"] + entry["quantization"]["min"]).float()
        for entry, values in weights
    }

    def layer(x, name, norm, stride=1, bounded=True):
        deep = held.get(f"{name}/depthwise_kernel")
        kernel = held[f"{name}/kernel"].permute(3, 2, 0, 1) if deep is None else deep.permute(2, 3, 0, 1)
        side = kernel.shape[-1]
        pad = (0, 0, 0, 0) if side == 1 else (0, 1, 0, 1) if stride == 2 else (1, 1, 1, 1)
        x = F.conv2d(F.pad(x, pad), kernel, stride=stride, groups=1 if deep is None else len(kernel))
        mean, variance, gamma, beta = (held[f"{norm}/{part}"].view(-1, 1, 1) for part in
                                       ("moving_mean", "moving_variance", "gamma", "beta"))  # fmt: skip
        x = (x - mean) / (variance + 1e-3).sqrt() * gamma + beta
        return x.clamp(0, 6) if bounded else x

    x = layer(pictures, "Conv1", "bn_Conv1", 2)
    for name, given, _, made, stride in BLOCKS:
        inside = x if name == "expanded_conv" else layer(x, f"{name}_expand", f"{name}_expand_BN")
        inside = layer(inside, f"{name}_depthwise", f"{name}_depthwise_BN", stride)
        found = layer(inside, f"{name}_project", f"{name}_project_BN", bounded=False)
        x = x + found if stride == 1 and given == made else found
    x = layer(x, "Conv_1", "Conv_1_bn").mean((2, 3))
    hidden = (x @ held["dense_1/kernel"] + held["dense_1/bias"]).relu()
    return hidden @ held["dense_2/kernel"] + held["dense_2/bias"]


@pytest.mark.parametrize("packed", [False, True])
def test_both_layouts_become_a_guide_that_says_what_keras_says(tmp_path, monkeypatch, model, packed):
    folder, out = write(tmp_path / "model", model, packed), tmp_path / "guide.safetensors"
    monkeypatch.setattr("sys.argv", ["convert", str(folder), str(out)])
    assert convert_nsfwjs.main() == 0
    found = conformance.load(out)
    assert found.family == "keras mobilenet" and found.spec.labels == convert_nsfwjs.LABELS
    pictures = conformance.pictures(2)[..., :32, :32].float()
    with torch.no_grad():
        said = found.network(pictures)
        torch.testing.assert_close(said, keras(model[1], pictures), rtol=1e-4, atol=1e-4)
    assert float((said[0] - said[1]).abs().max()) > 1e-4


def test_what_is_no_such_model_in_words(tmp_path, monkeypatch, capsys, model):
    (tmp_path / "model.min.js").write_text("nothing")
    monkeypatch.setattr("sys.argv", ["convert", str(tmp_path), str(tmp_path / "out")])
    assert convert_nsfwjs.main() == 1
    assert "exports no object; get the package again" in capsys.readouterr().err
    with pytest.raises(ValueError, match="no MobileNetV2 as Keras builds it"):
        convert_nsfwjs.converted({"layers": []}, {})
