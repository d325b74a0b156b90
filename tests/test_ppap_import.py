"""PPAP's released experts as a bank: every expert's output against the authors' forward, written out independently."""

import copy
import re
import shutil

import pytest
import torch
from guide_files import midas, randomise
from ppap_networks import MEAN, STD, Deit, LoraLinear, Midas, Resnet, clean_vit, tuned, write_resnet, write_vit
from world import render

from guidance_pack.guidance.experts.file import read_bank
from guidance_pack.guidance.experts.timm_names import places_of

PICTURES = torch.randn(2, 3, 40, 40, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def folder(comfy, tmp_path, monkeypatch):
    """models/guides, empty."""
    import folder_paths

    import guidance_pack.host.models.guides  # noqa: F401 - adds the folder

    monkeypatch.setitem(folder_paths.folder_names_and_paths, "guides", ([str(tmp_path)], set()))
    return tmp_path


@pytest.fixture(scope="module")
def resnets(tmp_path_factory):
    """A random resnet50 and two experts of it, as files; and the experts."""
    from torchvision.models import resnet50

    place = tmp_path_factory.mktemp("resnets")
    network = resnet50(num_classes=7)
    randomise(network)
    write_resnet(place / "resnet50.safetensors", network.eval())
    experts = [tuned(Resnet(copy.deepcopy(network)), seed) for seed in (1, 2)]
    for number, expert in enumerate(experts):
        torch.save(expert.state_dict(), place / f"{number}_max2.ckpt")
    return place, network, experts


def linked(place, folder, under="ppap"):
    (folder / under).mkdir()
    for file in place.iterdir():
        target = folder / file.name if file.suffix == ".safetensors" else folder / under / file.name
        target.symlink_to(file)


def said(guide, expert, pictures):
    """What one expert of the loaded bank says of noisy pictures."""
    with torch.inference_mode():
        return guide.patchers[0].model.use(expert)(guide.guide.members[expert].prepare(pictures))


def vit_files(folder, network, count=5, **how):
    """A clean ViT as vit/, its experts as deit/n_max5.ckpt; gives the experts."""
    write_vit(folder / "vit", network)
    (folder / "deit").mkdir()
    experts = [tuned(Deit(copy.deepcopy(network), **how), seed) for seed in range(count)]
    for number, expert in enumerate(experts):
        torch.save(expert.state_dict(), folder / "deit" / f"{number}_max{count}.ckpt")
    return experts


@pytest.mark.slow
def test_resnets_of_the_released_layout_give_what_the_authors_forward_gives(folder, resnets):
    from guidance_pack.host.models.ppap_import import expert_sets, import_experts

    place, network, experts = resnets
    linked(place, folder)
    assert len(experts[0].state_dict()) == 386 and experts[0].resnet.conv1.lora_A.shape == (112, 21)
    assert expert_sets() == ["ppap/*_max2.ckpt"]
    guide, report = import_experts("ppap/*_max2.ckpt", "resnet50.safetensors", "imported/team", None)
    assert "2 parameter-efficient ResNet experts" in report and "timesteps 0, 500, 1000" in report
    for index, expert in enumerate(experts):
        with torch.no_grad():
            torch.testing.assert_close(said(guide, index, PICTURES), expert(PICTURES), rtol=2e-4, atol=2e-4)
            assert not torch.allclose(expert(PICTURES), network(PICTURES), rtol=0.05)
    bank = read_bank(folder / "imported" / "team.safetensors")
    assert bank.header.scale == 0.5 and bank.header.sigmas == pytest.approx([3.4335], rel=1e-3)
    adapter = bank.adapters[0]
    assert len(adapter.low_rank) == 33 and "network.layer1.0.downsample.1.running_var" in adapter.whole
    held = guide.patchers[0].model.base.state_dict()
    assert {*adapter.names()} >= {n for n in held if "running" in n or "tracked" in n}
    assert not [name for name in adapter.whole if "conv" in name or name.startswith("network.fc")]
    assert adapter.numbers() < 0.07 * sum(p.numel() for p in network.parameters()) + 60_000


@torch.no_grad()
def test_depth_experts_of_midas_give_what_the_authors_forward_gives(folder):
    from guidance_pack.host.models.guides import load_guide
    from guidance_pack.host.models.ppap_import import import_experts

    midas(folder / "midas_v21_small_256")
    network = load_guide("midas_v21_small_256.pt").patchers[0].model
    experts = [tuned(Midas(copy.deepcopy(network)), seed) for seed in (1, 2)]
    (folder / "if").mkdir()
    for number, expert in enumerate(experts):
        torch.save(expert.state_dict(), folder / "if" / f"{number}_max2.ckpt")
    guide, report = import_experts("if/*_max2.ckpt", "midas_v21_small_256.pt", "team", None)
    assert "2 parameter-efficient MiDaS small experts" in report and "of the cosine schedule" in report
    assert guide.guide.first.task == "depth" and guide.guide.members[1].sees == "noisy"
    for index, expert in enumerate(experts):
        torch.testing.assert_close(said(guide, index, PICTURES), expert(PICTURES), rtol=2e-4, atol=2e-3)
        assert not torch.allclose(expert(PICTURES), network(guide.guide.first.prepare(PICTURES)), rtol=0.05)
    header = read_bank(folder / "team.safetensors").header
    assert header.schedule == "cosine" and header.scale == 0.5


@pytest.mark.slow
def test_the_same_files_are_imported_once_and_nothing_else_is_overwritten(folder, resnets):
    from guidance_pack.host.models.ppap_import import import_experts

    linked(resnets[0], folder)
    import_experts("ppap/*_max2.ckpt", "resnet50.safetensors", "team", None)
    before = (folder / "team.safetensors").stat().st_mtime_ns
    guide, report = import_experts("ppap/*_max2.ckpt", "resnet50.safetensors", "team", None)
    assert "written before" in report and guide.guide.experts.count == 2
    with pytest.raises(ValueError, match="team.safetensors is in models/guides already and is something else"):
        import_experts("ppap/0_max2.ckpt", "resnet50.safetensors", "team", None)
    with pytest.raises(ValueError, match="resnet50.safetensors is in models/guides already and is something else"):
        import_experts("ppap/*_max2.ckpt", "resnet50.safetensors", "resnet50", None)
    assert (folder / "team.safetensors").stat().st_mtime_ns == before


@pytest.mark.slow
def test_deits_give_what_the_authors_forward_gives(folder):
    """Scale 1, normalised input; the query, key and value of the base have their own rows of the change."""
    from guidance_pack.host.models.ppap_import import import_experts

    network = clean_vit()
    experts = vit_files(folder, network)
    guide, report = import_experts("deit/*_max5.ckpt", "vit", "deit-team", None)
    bank = read_bank(folder / "deit-team.safetensors")
    normalised = "normalised input" in report.splitlines()[1]
    for expert in experts:
        expert.normalised = normalised
        for module in expert.modules():
            if isinstance(module, LoraLinear):
                module.scale = bank.header.scale
    for index, expert in enumerate(experts):
        with torch.no_grad():
            torch.testing.assert_close(said(guide, index, PICTURES), expert(PICTURES), rtol=1e-4, atol=1e-5)
    assert len(bank.adapters[0].low_rank) == 2 * 4 and guide.guide.experts.count == 5
    assert bank.header.edges[0] == pytest.approx(0.72143**-2, rel=1e-3)
    assert {"network.classifier.bias", "network.vit.layernorm.bias"} <= bank.adapters[0].whole.keys()


@pytest.mark.many
@pytest.mark.parametrize(("scale", "normalised"), [(1.0, True), (0.5, True), (1.0, False), (0.5, False)])
def test_how_deits_are_run_is_settled_by_agreement(folder, scale, normalised):
    """An expert that agrees with the clean network under one reading alone is run so, whichever it is."""
    from guidance_pack.host.models.ppap_import import import_experts

    network = plain_vit()
    vit_files(folder, network)
    expert = agreeing(network, scale, normalised)
    torch.save(expert.state_dict(), folder / "deit" / "0_max5.ckpt")
    guide, report = import_experts("deit/*_max5.ckpt", "vit", "team", None)
    assert read_bank(folder / "team.safetensors").header.scale == scale, report
    assert guide.guide.first.preprocessing.mean == (MEAN if normalised else (0.0, 0.0, 0.0)), report
    assert not guide.guide.first.preprocessing.antialias and guide.guide.first.preprocessing.size == (24, 24)
    shown = render(20).images
    with torch.no_grad():
        torch.testing.assert_close(said(guide, 0, shown), expert(shown), rtol=1e-4, atol=1e-4)
    connected = (shown.movedim(1, -1) + 1) / 2
    _, again = import_experts("deit/*_max5.ckpt", "vit", "by-own-pictures", connected)
    assert "on 20 lightly noised pictures" in again
    assert read_bank(folder / "by-own-pictures.safetensors").header.scale == scale


@torch.no_grad()
def plain_vit():
    """One that only its attention carries anything to the answer of, which does depend on the picture."""
    network = clean_vit()
    for still in (network.cls_token, network.pos_embed, *(b.mlp.fc2.weight for b in network.blocks)):
        still.zero_()
    for block in network.blocks:
        block.mlp.fc2.bias.zero_()
    network.head.weight.mul_(6)
    network.head.bias.sub_(Deit(copy.deepcopy(network))(render(200).images).mean(0))
    return network


@torch.no_grad()
def agreeing(network, scale, normalised, gain=8.0):
    """An expert that is the clean network itself under one reading alone, by its biases and changes of full rank.

    Values are made `gain` times larger and attention's output smaller again, which no other scale undoes. The tokens of
    raw input are 2 std times those of normalised input, up to a constant; so the outputs of attention are made.
    """
    expert = Deit(copy.deepcopy(network), scale, normalised)
    mean, std = torch.tensor(MEAN), torch.tensor(STD)
    share = 1.0 if normalised else 2 * float(std.mean())
    patches = expert.deit.classifier.patch_embed.proj
    if not normalised:
        patches.bias.add_((patches.weight * ((0.5 - mean) / std).view(3, 1, 1)).sum((1, 2, 3))).mul_(share)
    for block in expert.deit.classifier.blocks:
        values, out = block.attn.qkv, block.attn.proj
        width = out.linear.in_features
        values.lora_A.copy_(torch.eye(width))
        values.lora_B[2 * width :] = values.linear.weight[2 * width :] * (gain - 1) / scale
        values.linear.bias[2 * width :] *= gain
        out.lora_A.copy_(torch.eye(width))
        out.lora_B.copy_(out.linear.weight * (share / gain - 1) / scale)
        out.linear.bias.mul_(share)
    return expert.eval()


def test_deits_of_the_old_code_have_no_change_and_say_so(folder):
    from guidance_pack.host.models.ppap_import import import_experts

    network = clean_vit()
    experts = vit_files(folder, network, 2)
    for number, expert in enumerate(experts):
        dead = {n: torch.zeros_like(t) if "lora_" in n else t for n, t in expert.state_dict().items()}
        expert.load_state_dict(dead)
        torch.save(dead, folder / "deit" / f"{number}_max2.ckpt")
    guide, report = import_experts("deit/*_max2.ckpt", "vit", "team", None)
    assert "Every LoRA in the files is zero" in report
    assert not read_bank(folder / "team.safetensors").adapters[0].low_rank
    experts[1].normalised = any(guide.guide.first.preprocessing.mean)
    with torch.no_grad():
        torch.testing.assert_close(said(guide, 1, PICTURES), experts[1](PICTURES), rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_fine_tuned_networks_are_whole_parts(folder):
    """One noise-aware network under `classifier.`, raw input; and two experts with torchvision's own names."""
    from torchvision.models import resnet50

    from guidance_pack.host.models.ppap_import import import_experts

    write_vit(folder / "vit", clean_vit())
    other = clean_vit(seed=5)
    torch.save({f"classifier.{n}": t for n, t in other.state_dict().items()}, folder / "deits_finetune.ckpt")
    guide, report = import_experts("deits_finetune.ckpt", "vit", "single", None)
    assert "1 fine-tuned DeiT expert of vit" in report and guide.guide.experts.count == 1
    raw = torch.nn.functional.interpolate(PICTURES, (24, 24), mode="bilinear")
    with torch.no_grad():
        torch.testing.assert_close(said(guide, 0, PICTURES), other(raw), rtol=1e-4, atol=1e-5)
    network = resnet50(num_classes=3)
    randomise(network)
    write_resnet(folder / "resnet50.safetensors", network)
    (folder / "experts").mkdir()
    randomise(network, 4)
    for number in range(2):
        torch.save(network.eval().state_dict(), folder / "experts" / f"{number}_max2.pth")
    guide, _ = import_experts("experts/*_max2.pth", "resnet50.safetensors", "whole", None)
    with torch.no_grad():
        torch.testing.assert_close(said(guide, 1, PICTURES), network(PICTURES), rtol=1e-4, atol=1e-4)


def test_names_of_other_versions_of_transformers():
    old = {f"vit.encoder.layer.3.attention.attention.{part}.weight" for part in ("query", "key", "value")}
    old |= {"vit.embeddings.cls_token", "vit.encoder.layer.3.output.dense.bias", "classifier.bias"}
    found = places_of("blocks.3.attn.qkv.weight", old)
    assert [name.split(".")[-2] for name in found] == ["query", "key", "value"]
    assert places_of("blocks.3.mlp.fc2.bias", old) == ("vit.encoder.layer.3.output.dense.bias",)
    assert places_of("head.bias", old) == ("classifier.bias",)
    assert places_of("blocks.4.mlp.fc2.bias", old) == () == places_of("dist_token", old)


UNDER = "deit.classifier."


def spoilt(folder, change):
    path = folder / "deit" / "1_max2.ckpt"
    tensors = torch.load(path, weights_only=True)
    torch.save(change(dict(tensors)), path)


@pytest.mark.many
@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda t: {**t, UNDER + "blocks.0.mlp.fc1.weight": torch.zeros(24, 16)}, "another frozen .*fc1.weight"),
        (lambda t: {n: v for n, v in t.items() if not n.endswith("head.bias")}, "lacks network.classifier.bias"),
        (lambda t: {n: v for n, v in t.items() if not n.endswith("0.attn.qkv.lora_B")}, "only half of the change"),
        (lambda t: {**t, UNDER + "head.weight": torch.zeros(6, 16)}, r"shape \[6, 16\]"),
        (lambda t: {**t, UNDER + "dist_token": torch.zeros(1, 1, 16)}, "has dist_token, which the base has not"),
        (lambda t: {"model.weight": torch.zeros(2, 2)}, "none of PPAP's experts"),
        (lambda t: {n.replace("deit.", ""): v for n, v in t.items() if "lora" not in n}, "DeiT.*not one bank"),
        (lambda t: {**t, "step": 3}, "more than tensors"),
    ],
)
def test_files_that_do_not_fit_are_refused_in_words(folder, change, words):
    from guidance_pack.host.models.ppap_import import import_experts

    vit_files(folder, clean_vit(), 2)
    spoilt(folder, change)
    with pytest.raises(ValueError, match=words):
        import_experts("deit/*_max2.ckpt", "vit", "team", None)
    assert not (folder / "team.safetensors").exists()


def test_another_base_is_refused_in_words(folder):
    from guidance_pack.host.models.ppap_import import import_experts

    vit_files(folder, clean_vit(), 2)
    shutil.rmtree(folder / "vit")
    write_vit(folder / "vit", clean_vit(seed=9))
    with pytest.raises(ValueError, match="0_max2.ckpt does not fit.*another frozen.*deit_small_patch16_224"):
        import_experts("deit/*_max2.ckpt", "vit", "team", None)
    with pytest.raises(ValueError, match="0_max2.ckpt does not fit.*which the base has not"):
        import_experts("deit/*_max2.ckpt", "shapes-classifier", "team", None)
    with pytest.raises(ValueError, match="sees noise already"):
        import_experts("deit/*_max2.ckpt", "shapes-noisy-classifier", "team", None)


@pytest.mark.parametrize(
    ("experts", "name", "words"),
    [
        ("nothing/*_max5.ckpt", "team", "There is nothing called 'nothing/.*_max5.ckpt'"),
        ("deit/*_max3.ckpt", "team", "has 2 of the 3 files.*0_max3.ckpt is missing"),
        ("../deit/*_max2.ckpt", "team", "outside models/guides"),
        ("/etc/passwd", "team", "outside models/guides"),
        ("deit/*_max2.ckpt", "../team", "name is '../team'"),
    ],
)
def test_names_that_cannot_be_are_refused_before_anything_runs(folder, experts, name, words):
    from guidance_pack.nodes.bank_files import GuidanceImportExperts

    vit_files(folder, clean_vit(), 2)
    for number in (1, 2):
        shutil.copy(folder / "deit" / "1_max2.ckpt", folder / "deit" / f"{number}_max3.ckpt")
    asked = GuidanceImportExperts.validate_inputs
    assert re.search(words, str(asked(experts=experts, base="vit", name=name)))
    assert asked(experts="deit/*_max2.ckpt", base="vit", name="team") is True


def test_files_become_a_guide_and_adapters_through_the_real_queue(server):
    """Import, steer by the experts at the noisy input, and export, in one queued prompt."""
    from devtools import gallery

    guides = server.base / "models" / "guides"
    guides.mkdir(parents=True, exist_ok=True)
    vit_files(guides, clean_vit())
    offered = server.get("/object_info/GuidanceImportExperts")["GuidanceImportExperts"]["input"]["required"]
    assert "deit/*_max5.ckpt" in str(offered["experts"])

    def node(kind, **inputs):
        return {"class_type": kind, "inputs": inputs}

    prompt = {
        "1": node("GuidanceTinyModel", name="shapes-edm"),
        "2": node("GuidanceImportExperts", experts="deit/*_max5.ckpt", base="vit", name="queued/deit"),
        "3": node("GuidanceClassifier", model=["1", 0], guide=["2", 0], label="2", scale=5.0, cap=0.0,
                  at="noisy input", decoder="vae", normalise=False, form="score shift", unit="percent", start=0.0,
                  end=1.0),
        "4": node("GuidanceClassLabel", model=["1", 0], label=""),
        "5": node("EmptyLatentImage", width=32, height=32, batch_size=2),
        "6": node("KSampler", model=["3", 0], positive=["4", 0], negative=["4", 0], latent_image=["5", 0], seed=3,
                  steps=8, cfg=1.0, sampler_name="euler", scheduler="karras", denoise=1.0),
        "7": node("VAEDecode", samples=["6", 0], vae=["1", 1]),
        "8": node("SaveImage", images=["7", 0], filename_prefix="ppap_queued"),
        "9": node("GuidanceExportExperts", guide=["2", 0], name="queued/deit"),
    }
    outputs = gallery.wait_for(server, gallery.submit(server, prompt, "ppap"), prompt, "ppap")
    assert "5 parameter-efficient DeiT experts of vit" in str(outputs["2"])
    assert read_bank(guides / "queued" / "deit.safetensors").header.count == 5
    folder = server.base / "output" / "guidance" / "queued" / "deit"
    assert {entry.name for entry in folder.iterdir()} == {"experts.json", *(f"expert-{n}" for n in range(5))}
    loaded = {"1": node("GuidanceLoadGuide", name="queued/deit.safetensors"), "2": prompt["9"] | {"inputs": {
        "guide": ["1", 0], "name": "queued/again"}}}
    gallery.wait_for(server, gallery.submit(server, loaded, "again"), loaded, "again")
    assert (folder.parent / "again" / "expert-4" / "adapter_model.safetensors").is_file()


@pytest.mark.parametrize("kind", [torch.int64, torch.complex64, torch.bool])
def test_factors_that_are_no_weights_are_refused_in_words(folder, kind):
    from guidance_pack.host.models.ppap_import import import_experts

    vit_files(folder, clean_vit(), 1)
    file = folder / "deit" / "0_max1.ckpt"
    state = torch.load(file, weights_only=True)
    name = next(key for key in state if key.endswith("lora_B"))
    torch.save({**state, name: state[name].to(kind)}, file)
    with pytest.raises(ValueError, match="lora_B is of .*; weights are floating-point numbers"):
        import_experts("deit/*_max1.ckpt", "vit", "team", None)
