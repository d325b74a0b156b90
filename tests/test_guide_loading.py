"""Guides on the real host: where they are found, whose memory they live in, and what is refused."""

import re
import shutil

import pytest
import torch
from guide_files import LABELS, tiny
from guide_folder import EMBEDDED, lend

from guidance_pack.guidance.checkpoints.guide_source import GuideFileError
from guidance_pack.guidance.noise_level import NoiseLevel


def picture(count=2):
    return torch.rand(count, 3, 40, 40, generator=torch.Generator().manual_seed(1)) * 2 - 1


def level(*sigmas):
    sigma = torch.tensor(sigmas, dtype=torch.float64)
    return NoiseLevel(torch.ones_like(sigma), sigma)


def output(loaded, index=0):
    patcher = loaded.patchers[index]
    given = picture().to(next(patcher.model.parameters()).device)
    return loaded.guide.members[index].output(patcher.model, given, level(1.0, 2.0)).cpu()


def test_the_folder_is_registered(comfy):
    import folder_paths

    from guidance_pack.host.models.guides import FOLDER

    assert folder_paths.get_folder_paths(FOLDER) == [str(comfy.base / "models" / "guides")]


@pytest.mark.slow
def test_names_are_the_embedded_and_what_lies_in_the_folder(guides):
    assert guides.guide_names() == [
        EMBEDDED, "noisy/resnet18.safetensors", "old.pt", "own.safetensors", "someone/resnet", "squeeze.safetensors"
    ]


def test_without_any_file_the_embedded_remain(guides, tmp_path, monkeypatch):
    for folder in (tmp_path, tmp_path / "absent"):
        lend(monkeypatch, folder)
        assert guides.guide_names() == [EMBEDDED]
        assert guides.load_guide(EMBEDDED).guide.first.sees == "timestep"
        with pytest.raises(ValueError, match=f"There is no guide 'mine' in .*; there are {EMBEDDED}"):
            guides.load_guide("mine")


def test_several_folders_are_searched(guides, guide_root, tmp_path, monkeypatch):
    tiny(tmp_path / "another")
    lend(monkeypatch, tmp_path, guide_root)
    assert {"another.safetensors", "someone/resnet"} <= set(guides.guide_names())
    assert guides.load_guide("another.safetensors").guide.first.labels == LABELS
    assert guides.load_guide("someone/resnet").guide.first.labels == LABELS


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("../secret.safetensors", "would lie outside models/guides"),
        ("someone/../../secret", "would lie outside models/guides"),
        ("/etc/passwd", "would lie outside models/guides"),
        ("C:\\guides\\resnet", "would lie outside models/guides"),
        ("", "There is no guide ''"),
        ("someone/resnt", "did you mean someone/resnet"),
        ("squeeze", "did you mean squeeze.safetensors"),
        ("shapes-randon", f"did you mean {EMBEDDED}"),
    ],
)
def test_a_wrong_name_in_words(guides, name, words):
    with pytest.raises(ValueError, match=re.escape(words)):
        guides.load_guide(name)
    assert words in guides.guide_problem(name)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("pickled", "only the pickle pytorch_model.bin"),
        ("old.ckpt", "is a pickle"),
        ("empty", "has no config.json"),
        ("someone/readme.txt", "must be a .safetensors, .pt or .pth file, or a transformers folder"),
    ],
)
def test_what_is_no_guide_in_words(guides, name, words):
    assert name not in guides.guide_names() and guides.guide_problem(name) is None
    with pytest.raises(GuideFileError, match=words):
        guides.load_guide(name)


def test_a_torch_file_is_offered_and_read_as_tensors_only(guides):
    with pytest.raises(GuideFileError, match="old.pt is no checkpoint or was not copied whole"):
        guides.load_guide("old.pt")


def test_a_network_that_no_family_knows_in_words(guides, guide_root, tmp_path, monkeypatch):
    from safetensors.torch import save_file

    save_file({"weight": torch.zeros(2)}, tmp_path / "lora.safetensors")
    shutil.copytree(guide_root / "someone" / "resnet", tmp_path / "base")
    config = (tmp_path / "base" / "config.json").read_text()
    (tmp_path / "base" / "config.json").write_text(config.replace("ResNetForImageClassification", "ResNetModel"))
    lend(monkeypatch, tmp_path)
    with pytest.raises(GuideFileError, match="lora.* is a file of another kind, no guide. Choose .*: .*torchvision"):
        guides.load_guide("lora.safetensors")
    with pytest.raises(GuideFileError, match="base is a ResNetModel, no guide. Choose another one; .*CLIP"):
        guides.load_guide("base")


def test_a_damaged_embedded_file_is_not_offered(guides):
    broken = guides.ASSETS / "shapes-broken.safetensors"
    broken.write_bytes(b"\x10")
    assert "shapes-broken" not in guides.guide_names()
    broken.unlink()


@pytest.mark.parametrize("name", [EMBEDDED, "someone/resnet", "squeeze.safetensors"])
def test_the_memory_manager_loads_and_unloads(guides, name):
    """As in a prompt, in inference mode: on the device while it is used, given back after, the same output."""
    import comfy.model_management as management
    from comfy.model_patcher import ModelPatcher

    with torch.inference_mode():
        loaded = guides.load_guide(name)
        (patcher,) = loaded.patchers
        assert type(patcher) is ModelPatcher and not patcher.is_dynamic() and loaded.get_models() == [patcher]
        assert not any(tensor.is_inference() for tensor in patcher.model.state_dict().values())
        assert patcher.model_size() > 0
        before = output(loaded)
        management.load_models_gpu([patcher])
        assert patcher.loaded_size() >= patcher.model_size() and not patcher.model.model_lowvram
        assert {p.device.type for p in patcher.model.parameters()} == {management.get_torch_device().type}
        torch.testing.assert_close(output(loaded), before, rtol=1e-3, atol=1e-4)
        assert any(entry.model is patcher for entry in management.current_loaded_models)
        management.unload_model_and_clones(patcher)
        assert patcher.loaded_size() == 0 and not any(e.model is patcher for e in management.current_loaded_models)
        torch.testing.assert_close(output(loaded), before)
    assert not any(module.training for module in patcher.model.modules())


def test_deep_clones_are_equal_and_independent(guides):
    loaded = guides.load_guide("someone/resnet")
    (patcher,) = loaded.patchers
    for again in (patcher.clone(force_deepcopy=True), patcher.deepclone_multigpu(patcher.load_device)):
        assert again.model is not patcher.model and not again.is_dynamic()
        ours, theirs = patcher.model.state_dict(), again.model.state_dict()
        assert ours.keys() == theirs.keys() and all(torch.equal(ours[key], theirs[key]) for key in ours)
    assert patcher.clone().model is patcher.model


def test_a_replaced_file_is_loaded_again(guides, guide_root, tmp_path, monkeypatch):
    shutil.copy(guide_root / "own.safetensors", tmp_path / "own.safetensors")
    lend(monkeypatch, tmp_path)
    first = guides.fingerprint("own.safetensors")
    assert first == guides.fingerprint("own.safetensors")
    tiny(tmp_path / "own", timestep=True)
    assert guides.fingerprint("own.safetensors") != first


def test_every_embedded_guide_loads(comfy):
    from guidance_pack.host.models import guides

    names = [name for name in guides.guide_names() if name.startswith("shapes-")]
    assert names
    for name in names:
        loaded = guides.load_guide(name)
        assert loaded.guide.first.name == name and torch.isfinite(output(loaded)).all()


@pytest.mark.many
@pytest.mark.parametrize("name", [EMBEDDED, "someone/resnet", "noisy/resnet18.safetensors"])
def test_the_gradient_works_inside_a_prompt(guides, name):
    """The manager's moves turn weights into inference tensors; the gradient is that of a network outside a prompt."""
    from guidance_pack.host.common.autograd import Aliases, scope

    def gradient():
        leaf = picture().clone().requires_grad_()
        return torch.autograd.grad(loaded.guide.first.output(network, leaf, level(1.0, 2.0)).square().sum(), leaf)[0]

    loaded = guides.load_guide(name)
    network = loaded.patchers[0].model
    wanted = gradient()
    with torch.inference_mode():
        network._apply(torch.clone)
        assert all(weight.is_inference() for weight in network.parameters())
        output(loaded)
        with scope(Aliases(network)):
            found = gradient()
    assert float(found.norm()) > 0
    torch.testing.assert_close(found, wanted)
