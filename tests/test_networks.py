"""The tiny networks, their preconditioning and their files."""

import json
import math
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn
from world.judge import CLASSIFIER, Classifier

from guidance_pack.guidance.networks.tiny import files
from guidance_pack.guidance.networks.tiny.preconditioning import add_noise, precondition
from guidance_pack.guidance.networks.tiny.unet import TinyUNet

SMALL = {"width": 8, "deep_width": 16, "deep_blocks": 1, "up_blocks": 1, "embedding": 16, "heads": 2, "groups": 4}
FACTS = {
    "recipe": "test",
    "labels": ["a"],
    "data_seed": 0,
    "training_seed": 0,
    "steps": 1,
    "batch": 1,
    "pictures_seen": 1,
    "parameters": 1,
    "prediction": "edm",
    "sigma_data": 0.5,
}


def small(seed=0, **config):
    network = TinyUNet(**SMALL | config)
    generator = torch.Generator().manual_seed(seed)
    for parameter in network.parameters():
        nn.init.normal_(parameter, std=0.2, generator=generator)
    return network.eval().requires_grad_(False)


@pytest.mark.parametrize("size", [(32, 32), (16, 40), (4, 8)])
def test_any_size_that_the_stride_divides(size):
    x = torch.randn(2, 3, *size)
    assert small()(x, torch.zeros(2), torch.tensor([0, 10])).shape == x.shape


@pytest.mark.parametrize("patch, width, stride", [(2, 30, 4), (4, 36, 8)])
def test_other_sizes_are_refused_in_words(patch, width, stride):
    with pytest.raises(ValueError, match=f"{width}x32 pixels; width and height must be multiples of {stride}"):
        small(patch=patch)(torch.randn(1, 3, 32, width), torch.zeros(1), torch.zeros(1))


def test_class_null_class_and_time_all_matter():
    network, x = small(), torch.randn(1, 3, 8, 8).repeat(3, 1, 1, 1)
    by_class = network(x, torch.zeros(3), torch.tensor([0, 1, 10]))
    assert (by_class[0] - by_class[1]).abs().max() > 1e-4 and (by_class[0] - by_class[2]).abs().max() > 1e-4
    by_time = network(x, torch.tensor([-1.5, 0.0, 1.0]), torch.zeros(3))
    assert (by_time[0] - by_time[1]).abs().max() > 1e-4 and (by_time[1] - by_time[2]).abs().max() > 1e-4


def test_samples_do_not_see_each_other():
    network, x = small(), torch.randn(3, 3, 8, 8)
    t, y = torch.tensor([-1.0, 0.3, 1.0]), torch.tensor([0, 5, 10])
    alone = torch.cat([network(x[i : i + 1], t[i : i + 1], y[i : i + 1]) for i in range(3)])
    torch.testing.assert_close(network(x, t, y), alone, rtol=1e-4, atol=1e-5)


def test_layers_come_from_the_injected_operations():
    made = []

    def layer(kind):
        def make(*args, device=None, dtype=None, **options):
            made.append(kind.__name__)
            return kind(*args, device=device, dtype=dtype, **options)

        return make

    operations = SimpleNamespace(**{k.__name__: layer(k) for k in (nn.Conv2d, nn.Linear, nn.GroupNorm)})
    for kind, config in ((TinyUNet, SMALL), (Classifier, {})):
        network = kind(**config, operations=operations, dtype=torch.float64)
        layers = [m for m in network.modules() if isinstance(m, nn.Conv2d | nn.Linear | nn.GroupNorm)]
        assert len(made) == len(layers) > 5
        assert all(p.dtype == torch.float64 for p in network.parameters())
        made.clear()


def test_state_is_plain_parameters():
    network = small()
    assert not list(network.buffers())
    assert set(network.state_dict()) == {name for name, _ in network.named_parameters()}


def test_a_fresh_network_predicts_zero_and_depends_on_its_seed():
    networks = [TinyUNet(**SMALL) for _ in range(3)]
    for network, seed in zip(networks, (1, 1, 2), strict=True):
        network.initialise(torch.Generator().manual_seed(seed))
    weights = [torch.cat([p.detach().flatten() for p in n.parameters()]) for n in networks]
    assert torch.equal(weights[0], weights[1]) and not torch.equal(weights[0], weights[2])
    assert networks[0](torch.randn(1, 3, 8, 8), torch.zeros(1), torch.zeros(1)).abs().max() == 0


def test_the_best_linear_guess_needs_no_layers():
    """The straight passage adds a multiple of the input, a different one for every noise level."""
    network, x = TinyUNet(**SMALL), torch.randn(2, 3, 8, 8)
    network.initialise(torch.Generator().manual_seed(0))
    nn.init.normal_(network.passage.weight)
    with torch.no_grad():
        gains = network(x, torch.tensor([-1.0, 1.0]), torch.zeros(2)) / x
    assert gains.flatten(2).std(2).max() < 1e-4 and (gains[0] - gains[1]).abs().max() > 0.01


def test_half_precision_runs():
    network = small().to(torch.bfloat16)
    out = network(torch.randn(1, 3, 8, 8, dtype=torch.bfloat16), torch.zeros(1), torch.zeros(1))
    assert out.dtype == torch.bfloat16 and out.isfinite().all()


def recorded(inputs):
    def network(x, timesteps, y):
        inputs.append((x, timesteps, y))
        return torch.sin(3 * x) + timesteps[:, None, None, None]

    return network


def test_edm_preconditioning_is_the_papers():
    seen, x, s = [], torch.randn(3, 3, 4, 4), torch.tensor([0.1, 1.0, 40.0])
    denoised = precondition(recorded(seen), "edm", 0.5)(x, s, torch.zeros(3))
    scaled, timesteps, _ = seen[0]
    wide = s[:, None, None, None]
    torch.testing.assert_close(scaled, x / (wide**2 + 0.25) ** 0.5)
    torch.testing.assert_close(timesteps, torch.tensor([math.log(v) / 4 for v in (0.1, 1.0, 40.0)]))
    output = torch.sin(3 * scaled) + timesteps[:, None, None, None]
    expected = 0.25 / (wide**2 + 0.25) * x + wide * 0.5 / (wide**2 + 0.25) ** 0.5 * output
    torch.testing.assert_close(denoised, expected)


def test_flow_preconditioning_is_the_hosts():
    seen, x, t = [], torch.randn(2, 3, 4, 4), torch.tensor([0.25, 1.0])
    denoised = precondition(recorded(seen), "flow")(x, t, torch.zeros(2))
    scaled, timesteps, _ = seen[0]
    assert torch.equal(scaled, x) and torch.equal(timesteps, torch.tensor([250.0, 1000.0]))
    wide = t[:, None, None, None]
    torch.testing.assert_close(denoised, x - wide * (torch.sin(3 * x) + timesteps[:, None, None, None]))


@pytest.mark.parametrize("prediction", ["edm", "flow"])
def test_without_noise_the_denoised_is_the_picture(prediction):
    x = torch.randn(2, 3, 4, 4)
    denoised = precondition(recorded([]), prediction)(x, torch.full((2,), 1e-6), torch.zeros(2))
    torch.testing.assert_close(denoised, x, rtol=0, atol=1e-4)


def test_noise_is_added_as_the_host_adds_it():
    clean, noise, s = torch.randn(2, 3, 4, 4), torch.randn(2, 3, 4, 4), torch.tensor([0.2, 0.7])
    wide = s[:, None, None, None]
    torch.testing.assert_close(add_noise("edm", clean, noise, s), clean + wide * noise)
    torch.testing.assert_close(add_noise("flow", clean, noise, s), (1 - wide) * clean + wide * noise)


def test_a_perfect_velocity_gives_back_the_picture():
    clean, noise, t = torch.randn(2, 3, 4, 4), torch.randn(2, 3, 4, 4), torch.tensor([0.2, 0.7])
    denoise = precondition(lambda *_: noise - clean, "flow")
    torch.testing.assert_close(denoise(add_noise("flow", clean, noise, t), t, torch.zeros(2)), clean)


@pytest.mark.parametrize("call", [lambda: precondition(None, "eps"), lambda: add_noise("eps", None, None, None)])
def test_unknown_predictions_are_refused_in_words(call):
    with pytest.raises(ValueError, match='prediction is "eps"; it must be one of edm, flow'):
        call()


def test_classifier_scores_and_features():
    network = Classifier()
    network.initialise(torch.Generator().manual_seed(0))
    x = torch.randn(4, 3, 32, 32)
    assert network(x).shape == (4, 10) and network.features(x).shape == (4, 64)
    assert network.loss(x, torch.tensor([0, 1, 2, 3])).ndim == 0


def write(path, network=None, config=None, facts=FACTS, dtype=torch.float32):
    network = network or small()
    config = config or network.config.as_dict()
    files.write_network(path, files.DENOISER, config, facts, network.state_dict(), dtype)


def test_file_round_trip(tmp_path):
    path, network = tmp_path / "n.safetensors", small()
    write(path, network)
    file = files.read_denoiser(path)
    assert file.config == network.config.as_dict() and file.metadata == FACTS
    assert (file.labels, file.prediction, file.sigma_data) == (("a",), "edm", 0.5)
    again, x = files.build(file), torch.randn(1, 3, 8, 8)
    assert torch.equal(again(x, torch.zeros(1), torch.zeros(1)), network(x, torch.zeros(1), torch.zeros(1)))
    assert not again.training and [p.name for p in tmp_path.iterdir()] == ["n.safetensors"]


def test_half_precision_files_build_in_the_asked_dtype(tmp_path):
    write(tmp_path / "n.safetensors", dtype=torch.float16)
    file = files.read_denoiser(tmp_path / "n.safetensors")
    assert {t.dtype for t in file.tensors.values()} == {torch.float16}
    assert {p.dtype for p in files.build(file).parameters()} == {torch.float32}


def rewrite(path, header=None, tensors=None):
    """The file again, with other header entries (None removes one) or other tensors."""
    whole = {"format": files.DENOISER, "config": json.dumps(small().config.as_dict()), "metadata": json.dumps(FACTS)}
    whole |= header or {}
    save_file(tensors or load_file(path), path, {k: v for k, v in whole.items() if v is not None})


@pytest.mark.parametrize(
    "header, words",
    [
        ({"format": None}, "not one of this pack's networks"),
        ({"format": "pt"}, "not one of this pack's networks"),
        ({"format": "guidance-components/tiny-denoiser/2"}, "reads version 1; update"),
        ({"format": CLASSIFIER}, "what is needed here is guidance-components/tiny-denoiser/1"),
        ({"config": None}, "no readable config"),
        ({"config": "{"}, "the config in its header is not JSON"),
        ({"metadata": "[]"}, "metadata in its header must be a JSON object"),
        ({"metadata": json.dumps({k: v for k, v in FACTS.items() if k != "labels"})}, "lacks labels"),
    ],
)
def test_wrong_headers_are_refused_in_words(tmp_path, header, words):
    path = tmp_path / "n.safetensors"
    write(path)
    rewrite(path, header)
    with pytest.raises(files.NetworkFileError, match=words):
        files.read_denoiser(path)


def test_missing_and_extra_tensors_are_named(tmp_path):
    path = tmp_path / "n.safetensors"
    write(path)
    tensors = load_file(path)
    rewrite(path, tensors={k: v for k, v in tensors.items() if k != "head.weight"})
    with pytest.raises(files.NetworkFileError, match="lacks head.weight"):
        files.build(files.read_denoiser(path))
    rewrite(path, tensors=tensors | {"more": torch.zeros(1)})
    with pytest.raises(files.NetworkFileError, match="has the unknown more"):
        files.build(files.read_denoiser(path))
    rewrite(path, tensors=tensors | {"head.bias": torch.zeros(5)})
    with pytest.raises(files.NetworkFileError, match=r"head.bias of shape \[5\] instead of \[12\]"):
        files.build(files.read_denoiser(path))


def test_an_unknown_config_entry_is_refused_in_words(tmp_path):
    write(tmp_path / "n.safetensors", config=small().config.as_dict() | {"colour": 3})
    with pytest.raises(files.NetworkFileError, match="config that this version cannot build"):
        files.build(files.read_denoiser(tmp_path / "n.safetensors"))


def test_other_files_are_refused_in_words(tmp_path):
    path = tmp_path / "n.safetensors"
    with pytest.raises(FileNotFoundError, match="there is no file"):
        files.read_denoiser(path)
    path.write_bytes(b"\x80\x04 surely a pickle")
    with pytest.raises(files.NetworkFileError, match="not a readable safetensors file"):
        files.read_denoiser(path)


def test_incomplete_metadata_is_not_written(tmp_path):
    with pytest.raises(files.NetworkFileError, match="lacks steps"):
        write(tmp_path / "n.safetensors", facts={k: v for k, v in FACTS.items() if k != "steps"})
    with pytest.raises(files.NetworkFileError, match="unknown format x/1"):
        files.write_network(tmp_path / "n.safetensors", "x/1", {}, FACTS, {})
    assert not list(tmp_path.iterdir())
