"""Load Denoiser on the real host: the list of files, the families, the VAE that comes along, wrong files in words."""

import asyncio
import re
import uuid
from types import SimpleNamespace

import adm_files
import pytest
import torch
from safetensors.torch import save_file

from guidance_pack.guidance.checkpoints.state_dicts import CheckpointError
from guidance_pack.guidance.networks.edm2.config import EDM2Config
from guidance_pack.guidance.networks.edm2.unet import EDM2


@pytest.fixture
def denoisers(comfy, monkeypatch, tmp_path):
    """`host.denoisers` with two empty folders of its own, tmp_path/diffusion_models and tmp_path/checkpoints."""
    import folder_paths

    from guidance_pack.host.models import denoisers

    for folder in denoisers.FOLDERS:
        (tmp_path / folder).mkdir()
        known = folder_paths.folder_names_and_paths[folder][1]
        monkeypatch.setitem(folder_paths.folder_names_and_paths, folder, ([str(tmp_path / folder)], known))
    monkeypatch.setattr(folder_paths, "filename_list_cache", {})
    return denoisers


@pytest.fixture
def place(tmp_path, denoisers):
    """Put a file into diffusion_models, or the folder that its name begins with."""

    def put(name, content):
        path = tmp_path / (name if name.startswith("checkpoints/") else f"diffusion_models/{name}")
        path.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(content, bytes):
            path.write_bytes(content)
        elif path.suffix == ".safetensors":
            save_file(content, path)
        else:
            torch.save(content, path)
        return path

    return put


def edm2(channels=4):
    """The tensors of a small EDM2: with 4 channels one of Stable Diffusion's latents."""
    shapes = EDM2Config(16, channels, 10, 32, (1, 2), 1, (8,))
    state = EDM2(shapes, device="meta").state_dict()
    return {key: torch.rand(value.shape, generator=torch.Generator().manual_seed(0)) for key, value in state.items()}


def node():
    from guidance_pack.nodes.denoisers import GuidanceLoadDenoiser

    return GuidanceLoadDenoiser


def names_in_the_node():
    return next(entry for entry in node().GET_SCHEMA().inputs if entry.id == "name").options


def test_without_any_file_the_node_says_where_to_put_one(denoisers, tmp_path):
    assert names_in_the_node() == [denoisers.NOTHING] and "models/diffusion_models" in denoisers.NOTHING
    words = str(node().validate_inputs(name=denoisers.NOTHING))
    assert words.startswith("There is no denoiser in models/diffusion_models or models/checkpoints yet. Download one")
    assert str(tmp_path / "diffusion_models") in words
    tooltip = next(entry for entry in node().GET_SCHEMA().inputs if entry.id == "name").tooltip
    assert "openaipublic.blob.core.windows.net/diffusion/jul-2021" in tooltip and "nvlabs-fi-cdn.nvidia.com" in tooltip


def test_the_list_is_of_both_folders_and_tells_twins_apart(denoisers, place):
    weights = {"a": torch.zeros(1)}
    for name in ("one.safetensors", "sub/two.pt", "checkpoints/three.safetensors", "checkpoints/one.safetensors"):
        place(name, weights)
    for name in ("readme.txt", "four.ckpt", "five.gguf"):
        place(name, b"not listed")
    assert denoisers.denoiser_names() == [
        "checkpoints/one.safetensors", "diffusion_models/one.safetensors", "sub/two.pt", "three.safetensors"
    ]
    assert denoisers.path_of("checkpoints/one.safetensors").parent.name == "checkpoints"
    assert names_in_the_node() == denoisers.denoiser_names()


@pytest.mark.parametrize("suffix", [".safetensors", ".pt"])
def test_an_adm_denoiser_comes_with_the_vae_of_pictures(denoisers, place, suffix):
    network = adm_files.unet(0, classes=5)
    place(f"mine{suffix}", network.state_dict())
    with torch.inference_mode():
        model, vae = node().execute(f"mine{suffix}").result
    assert type(model.model).__name__ == "AdmModel" and model.model.labels == tuple("01234")
    held = model.model.diffusion_model.state_dict()
    assert all(torch.equal(held[key].cpu(), value) for key, value in network.state_dict().items())
    latent = vae.encode(torch.full((1, 8, 8, 3), 0.75))
    torch.testing.assert_close(latent.cpu(), torch.full((1, 3, 8, 8), 0.5))
    assert node().validate_inputs(name=f"mine{suffix}") is True


def test_edm2_of_pictures_comes_with_their_vae(denoisers, place):
    place("img64.safetensors", edm2(3))
    with torch.inference_mode():
        model, vae = denoisers.load_denoiser("img64.safetensors")
    assert type(model.model).__name__ == "EDM2Model" and vae.latent_channels == 3


def test_edm2_of_latents_takes_the_vae_that_is_connected(denoisers, place):
    import steering

    place("img512.safetensors", edm2())
    vae = steering.autoencoder()
    with torch.inference_mode():
        model, fitted = denoisers.load_denoiser("img512.safetensors", vae)
        shown, plain = (one.decode(torch.randn(1, 4, 4, 4, generator=torch.Generator().manual_seed(1)))
                        for one in (fitted, vae))
    assert model.model.latent_format.latent_channels == 4 and fitted is not vae
    inside = (plain > 0.51) & (plain < 0.99)
    torch.testing.assert_close(shown[inside], 2 * plain[inside] - 1, rtol=0, atol=1e-3)


@pytest.fixture
def queue(denoisers, monkeypatch):
    """Queues a prompt on ComfyUI: (what its Look node saw, the messages that people get)."""
    import execution
    from comfy_api.latest import io

    import nodes

    seen = []

    class Look(io.ComfyNode):
        @classmethod
        def define_schema(cls):
            sockets = [io.Model.Input("model", optional=True), io.Vae.Input("vae", optional=True)]
            return io.Schema(node_id="Look", inputs=sockets, is_output_node=True)

        @classmethod
        def execute(cls, **given):
            seen.append(given)
            return io.NodeOutput()

    for kind in (node(), Look):
        kind.GET_SCHEMA()
        monkeypatch.setitem(nodes.NODE_CLASS_MAPPINGS, kind.__name__, kind)

    def run(prompt):
        key, messages = uuid.uuid4().hex, []
        listener = SimpleNamespace(client_id=None, last_node_id=None, last_prompt_id=None)
        listener.send_sync = lambda event, data, client_id=None: messages.append((event, data))
        valid, error, outputs, node_errors = asyncio.run(execution.validate_prompt(key, prompt, None))
        if not valid:
            return [], f"{error} {node_errors}"
        executor = execution.PromptExecutor(listener, cache_args={"lru": 0, "ram": 0, "ram_inactive": 0})
        executor.execute(prompt, key, execute_outputs=outputs)
        return seen, " ".join(data["exception_message"] for event, data in messages if event == "execution_error")

    return run


def prompt_of(name, output):
    wire = {"model": ["load", 0]} if output == 0 else {"vae": ["load", 1]}
    return {
        "load": {"class_type": "GuidanceLoadDenoiser", "inputs": {"name": name}},
        "look": {"class_type": "Look", "inputs": wire},
    }


def test_without_a_vae_only_what_would_use_it_stops(queue, place):
    place("img512.safetensors", edm2())
    (seen,), words = queue(prompt_of("img512.safetensors", 0))
    assert type(seen["model"].model).__name__ == "EDM2Model" and words == ""
    seen, words = queue(prompt_of("img512.safetensors", 1))
    assert len(seen) == 1, "the node that wants the VAE is not run"
    assert "img512.safetensors works on the latents of Stable Diffusion's VAE and brings none. Connect one" in words
    assert "sd-vae-ft-mse" in words and "vae input" in words


def test_a_prompt_loads_an_adm_denoiser_and_a_wrong_name_is_refused_before(queue, place):
    place("mine.pt", adm_files.unet().state_dict())
    for output, kind in enumerate(("ModelPatcher", "VAE")):
        seen, words = queue(prompt_of("mine.pt", output))
        assert words == "" and type(next(iter(seen[-1].values()))).__name__ == kind
    seen, words = queue(prompt_of("yours.pt", 0))
    assert not seen and "There is no file 'yours.pt'" in words and "there are mine.pt" in words


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("sd.safetensors", {"model.diffusion_model.input_blocks.0.0.weight": torch.zeros(1)}, "Load Checkpoint"),
        ("c.safetensors", adm_files.classifier().state_dict(), "noisy classifiers, which are guides"),
        ("c.pt", adm_files.classifier().state_dict(), "noisy classifiers, which are guides"),
        ("x.pt", {"weight": torch.zeros(2)}, "a file with 1 tensors such as weight; what is needed here is an ADM"),
        ("cut.safetensors", b"\x10", "no checkpoint or was not copied whole"),
        ("page.pt", b"<!DOCTYPE html><html>", "a web page"),
    ],
)
def test_a_wrong_file_in_words(denoisers, place, name, content, words):
    path = place(name, content)
    with pytest.raises(CheckpointError, match=re.escape(words)):
        denoisers.load_denoiser(name)
    asked = node().validate_inputs(name=name)
    # Before the queue only what is cheap is looked at: the header of a safetensors file.
    assert words in str(asked) if path.suffix == ".safetensors" else asked is True


def test_an_incomplete_network_in_words(denoisers, place):
    state = adm_files.unet().state_dict()
    state.pop("out.0.bias")
    place("part.pt", state)
    with pytest.raises(CheckpointError, match="part.pt is no complete ADM network: it lacks out.0.bias. Download it"):
        denoisers.load_denoiser("part.pt")


@pytest.mark.parametrize("name", ["min.pt", "../mine.pt", "/etc/passwd", "", "C:\\mine.pt"])
def test_a_wrong_name_in_words(denoisers, place, name):
    place("mine.pt", adm_files.unet().state_dict())
    words = "There is no file .* in models/diffusion_models or models/checkpoints; .*mine.pt"
    with pytest.raises(ValueError, match=words):
        denoisers.load_denoiser(name)
    assert str(node().validate_inputs(name=name)).startswith("There is no file")


def test_a_replaced_file_is_loaded_again(denoisers, place):
    place("mine.pt", adm_files.unet(0).state_dict())
    first = node().fingerprint_inputs("mine.pt")
    assert first == node().fingerprint_inputs("mine.pt", vae=None)
    place("mine.pt", adm_files.unet(0, classes=5).state_dict())
    assert node().fingerprint_inputs("mine.pt") != first


def test_low_resolution_goes_with_the_conditioning(comfy):
    from guidance_pack.nodes.denoisers import GuidanceLowResolution

    image = torch.rand(2, 4, 6, 4)
    given = [[torch.zeros(1, 1, 1), {"class_labels": torch.tensor([3])}]]
    (found,) = GuidanceLowResolution.execute(given, image).result
    assert set(given[0][1]) == {"class_labels"} and found[0][1]["low_res"].shape == (2, 3, 4, 6)
    torch.testing.assert_close(found[0][1]["low_res"][1, 2], (image[1, ..., 2] * 255).round() / 127.5 - 1)
