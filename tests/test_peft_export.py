"""A bank's experts as adapters: the real peft loads them over the plain base and says what the bank says."""

import copy
import json

import pytest
import torch
from bank_adapters import random_adapter, small, spec
from guide_files import randomise
from ppap_networks import Deit, Resnet, clean_vit, tuned, write_resnet, write_vit
from safetensors.torch import load_file

from guidance_pack.guidance.experts.bank import Adapter, ExpertBank, LowRank, adapter_names, own_tensors
from guidance_pack.guidance.experts.peft_files import as_convolutions, write_adapter
from guidance_pack.guidance.guide import Guide
from guidance_pack.guidance.routing import Experts

PICTURES = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(1))


def bank(adapters, base=None):
    base = base or small()
    return ExpertBank(base, adapters, own_tensors(base, adapter_names(adapters))).eval()


def through_peft(base, folder):
    """The base with an expert's own tensors and its adapter, as the help page says."""
    from peft import PeftModel

    if (folder / "whole.safetensors").is_file():
        unknown = base.load_state_dict(load_file(folder / "whole.safetensors"), strict=False).unexpected_keys
        assert not unknown
    return PeftModel.from_pretrained(base, str(folder)).eval()


def random_conv(out, channels, kernel, rank, seed=0):
    """loralib's factors of a convolution."""
    generator = torch.Generator().manual_seed(seed)
    down = torch.randn(rank * kernel, channels * kernel, generator=generator)
    return LowRank(down, torch.randn(out * kernel, rank * kernel, generator=generator), 0.5)


@pytest.mark.parametrize("shape", [(6, 4, 3), (5, 3, 7), (4, 4, 1)])
def test_loralibs_convolutions_become_pefts_exactly(shape):
    out, channels, kernel = shape
    change, weight = random_conv(out, channels, kernel, 2), torch.zeros(out, channels, kernel, kernel)
    made = as_convolutions(change, kernel)
    assert made.fits(tuple(weight.shape)) and made.down.shape[0] == 2 * kernel**2
    exact = []
    for each in (made, change):
        exact.append(weight.double())
        LowRank(each.down.double(), each.up.double(), each.scale).add_to(exact[-1])
    torch.testing.assert_close(exact[0], exact[1], rtol=0, atol=1e-13)


@pytest.mark.slow
def test_peft_gives_what_the_bank_gives(tmp_path):
    """Every kind of layer, both layouts, several ranks, and all that is not LoRA."""
    adapters = [random_adapter(seed) for seed in range(2)]
    layout = Adapter({**adapters[1].low_rank, "first.weight": random_conv(8, 3, 3, 2)}, adapters[1].whole)
    team = bank([adapters[0], layout])
    for expert in range(2):
        write_adapter(tmp_path / str(expert), team, expert)
        adapted = through_peft(small(), tmp_path / str(expert))
        with torch.no_grad():
            torch.testing.assert_close(adapted(PICTURES), team.use(expert)(PICTURES), rtol=1e-4, atol=1e-5)
    assert (tmp_path / "1" / "adapter_model.safetensors").is_file()
    config = json.loads((tmp_path / "1" / "adapter_config.json").read_text())
    assert len({config["r"], *config["rank_pattern"].values()}) == 2


def test_ranks_and_layers_are_those_of_whole_names(tmp_path):
    """A change of one conv1 must not reach another whose name ends the same."""
    from torchvision.models import resnet18

    base = resnet18(num_classes=4).eval()
    names = {"conv1.weight": (64, 3, 7), "layer2.0.conv1.weight": (128, 64, 3)}
    adapter = Adapter({name: random_conv(*shape, rank=1) for name, shape in names.items()})
    team = bank([adapter], copy.deepcopy(base))
    write_adapter(tmp_path / "0", team, 0)
    adapted = through_peft(base, tmp_path / "0")
    assert sum("lora_A" in name for name, _ in adapted.named_parameters()) == 2
    merged = adapted.merge_and_unload().state_dict()
    for name, weight in team.use(0).base.state_dict().items():
        torch.testing.assert_close(merged[name], weight, rtol=1e-4, atol=1e-4)


@pytest.mark.slow
def test_imported_experts_go_out_again(comfy, tmp_path, monkeypatch):
    """PPAP's files as a bank, the bank as adapters over torchvision's and transformers' own networks."""
    import folder_paths
    from transformers import AutoModelForImageClassification

    from guidance_pack.host.models.guides import load_guide
    from guidance_pack.host.models.peft_export import export_experts
    from guidance_pack.host.models.ppap_import import import_experts

    guides, output = tmp_path / "guides", tmp_path / "output"
    guides.mkdir()
    monkeypatch.setitem(folder_paths.folder_names_and_paths, "guides", ([str(guides)], set()))
    monkeypatch.setattr(folder_paths, "get_output_directory", lambda: str(output))
    network = clean_vit()
    write_vit(guides / "vit", network)
    for number in range(2):
        torch.save(tuned(Deit(copy.deepcopy(network)), number).state_dict(), guides / f"{number}_max2.ckpt")
    import_experts("*_max2.ckpt", "vit", "team", None)
    guide = load_guide("team.safetensors")
    folder = export_experts(guide, "mine/team")
    assert folder == output / "guidance" / "mine" / "team"
    for number in range(2):
        plain = AutoModelForImageClassification.from_pretrained(str(guides / "vit"))
        adapted = through_peft(plain, folder / f"expert-{number}")
        seen = guide.guide.first.prepare(PICTURES)
        with torch.no_grad():
            expected = guide.patchers[0].model.use(number)(seen)
            torch.testing.assert_close(adapted(pixel_values=seen).logits, expected, rtol=1e-4, atol=1e-5)
    index = json.loads((folder / "experts.json").read_text())
    assert [e["folder"] for e in index["experts"]] == ["expert-0", "expert-1"] and index["schedule"] == "linear"
    assert index["experts"][0]["sigma_below"] == index["experts"][1]["sigma_from"] == pytest.approx(3.4335, rel=1e-3)
    before = {file: file.read_bytes() for file in folder.rglob("*") if file.is_file()}
    assert export_experts(guide, "mine/team") == folder
    assert before == {file: file.read_bytes() for file in folder.rglob("*") if file.is_file()}


@pytest.mark.slow
def test_resnets_go_out_over_torchvisions_own(comfy, tmp_path, monkeypatch):
    import folder_paths
    from torchvision.models import resnet50

    from guidance_pack.host.models.peft_export import export_experts
    from guidance_pack.host.models.ppap_import import import_experts

    monkeypatch.setitem(folder_paths.folder_names_and_paths, "guides", ([str(tmp_path)], set()))
    monkeypatch.setattr(folder_paths, "get_output_directory", lambda: str(tmp_path / "output"))
    network = resnet50(num_classes=3)
    randomise(network)
    write_resnet(tmp_path / "resnet50.safetensors", network.eval())
    torch.save(tuned(Resnet(copy.deepcopy(network)), 1).state_dict(), tmp_path / "0_max1.ckpt")
    guide, _ = import_experts("*_max1.ckpt", "resnet50.safetensors", "team", None)
    adapted = through_peft(network, export_experts(guide, "team") / "expert-0")
    with torch.no_grad():
        expected = guide.patchers[0].model.use(0)(PICTURES)
        torch.testing.assert_close(adapted(PICTURES), expected, rtol=1e-3, atol=1e-4)


def loaded(base, adapters=None):
    """A guide on its wire."""
    from guidance_pack.host.models.guides import LoadedGuide, manage

    if adapters is None:
        return LoadedGuide(Guide((spec(),)), (manage(base),))
    edges = tuple(float(edge) for edge in range(1, len(adapters)))
    guide = Guide((spec("team", sees="noisy"),) * len(adapters), Experts(edges))
    return LoadedGuide(guide, (manage(bank(adapters, base)),))


def test_what_cannot_be_exported_is_refused_in_words_and_leaves_nothing(comfy, tmp_path, monkeypatch):
    import folder_paths

    from guidance_pack.host.models.peft_export import export_experts

    monkeypatch.setattr(folder_paths, "get_output_directory", lambda: str(tmp_path))
    with pytest.raises(ValueError, match="small is no bank of experts; connect one from"):
        export_experts(loaded(small()), "plain")
    whole = Adapter({}, random_adapter(1).whole)
    with pytest.raises(ValueError, match="Expert 2 is trained whole, without LoRA"):
        export_experts(loaded(small(), [random_adapter(0), whole]), "whole")
    assert not list(tmp_path.rglob("*.json")) and not list(tmp_path.rglob("*partial*"))
    export_experts(loaded(small(), [random_adapter(0)]), "one")
    with pytest.raises(ValueError, match="is there already, and expert-1/.* is not in it. Choose another name"):
        export_experts(loaded(small(), [random_adapter(0), random_adapter(1)]), "one")


def files_of(folder):
    return {file.relative_to(folder): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def test_a_bank_that_was_trained_again_is_not_taken_for_the_one_that_was_exported(comfy, tmp_path, monkeypatch):
    """Same name, same index, other weights."""
    import folder_paths

    from guidance_pack.host.models.peft_export import export_experts

    monkeypatch.setattr(folder_paths, "get_output_directory", lambda: str(tmp_path))
    folder = export_experts(loaded(small(), [random_adapter(0)]), "team")
    before = files_of(folder)
    assert export_experts(loaded(small(), [random_adapter(0)]), "team") == folder
    with pytest.raises(ValueError, match=r"expert-0/adapter_model.safetensors is another in it. Choose another name"):
        export_experts(loaded(small(), [random_adapter(1)]), "team")
    (folder / "expert-0" / "adapter_config.json").unlink()
    with pytest.raises(ValueError, match=r"expert-0/adapter_config.json is not in it"):
        export_experts(loaded(small(), [random_adapter(0)]), "team")
    del before[next(file for file in before if file.name == "adapter_config.json")]
    assert files_of(folder) == before and [entry.name for entry in (tmp_path / "guidance").iterdir()] == ["team"]


def test_folders_of_others_are_never_removed(comfy, tmp_path, monkeypatch):
    import folder_paths

    from guidance_pack.host.models.peft_export import export_experts

    monkeypatch.setattr(folder_paths, "get_output_directory", lambda: str(tmp_path))
    theirs = tmp_path / "guidance" / "pictures.partial" / "mine.png"
    theirs.parent.mkdir(parents=True)
    theirs.write_bytes(b"mine")
    export_experts(loaded(small(), [random_adapter(0)]), "pictures")
    assert theirs.read_bytes() == b"mine"
    (tmp_path / "guidance" / "empty").mkdir()
    with pytest.raises(ValueError, match="is there already"):
        export_experts(loaded(small(), [random_adapter(0)]), "empty")
    with pytest.raises(ValueError, match="Expert 1 is trained whole"):
        export_experts(loaded(small(), [Adapter({}, random_adapter(1).whole)]), "whole")
    names = sorted(entry.name for entry in (tmp_path / "guidance").iterdir())
    assert names == ["empty", "pictures", "pictures.partial"]


def test_names_are_checked_before_anything_runs(comfy):
    from guidance_pack.nodes.bank_files import GuidanceExportExperts

    assert "name is '../x'" in str(GuidanceExportExperts.validate_inputs(name="../x"))
    assert GuidanceExportExperts.validate_inputs(name="mine/x") is True
