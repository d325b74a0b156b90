"""Convert Checkpoint and Post-hoc EMA: what they write, and what they refuse."""

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

NAMES = ["edm2-img64-xs-0033554-0.050.safetensors", "edm2-img64-xs-0067108-0.050.safetensors",
         "edm2-img64-xs-0067108-0.100.safetensors"]


@pytest.fixture
def folder(comfy, tmp_path, monkeypatch):
    """models/diffusion_models with three snapshots of one tensor and a buffer, and an old file of plain tensors."""
    import folder_paths

    suffixes = folder_paths.folder_names_and_paths["diffusion_models"][1]
    monkeypatch.setitem(folder_paths.folder_names_and_paths, "diffusion_models", ([str(tmp_path)], suffixes))
    monkeypatch.setitem(folder_paths.folder_names_and_paths, "checkpoints", ([], suffixes))
    folder_paths.filename_list_cache.clear()
    for number, name in enumerate(NAMES):
        save_file({"w": torch.tensor([1.0 + number]), "unet.emb_fourier.freqs": torch.tensor([7.0])}, tmp_path / name)
    torch.save({"a": torch.arange(3.0), "b": torch.ones(2, dtype=torch.float16)}, tmp_path / "old.pt")
    yield tmp_path
    folder_paths.filename_list_cache.clear()


def test_conversion_keeps_every_bit_and_names_its_source(folder):
    import hashlib

    from guidance_pack.nodes.checkpoints import GuidanceConvertCheckpoint

    (name,) = GuidanceConvertCheckpoint.execute("old.pt").args
    made = load_file(folder / name)
    assert name == "old.safetensors"
    assert torch.equal(made["a"], torch.arange(3.0)) and made["b"].dtype == torch.float16
    with safe_open(folder / name, "pt") as file:
        assert file.metadata()["source_sha256"] == hashlib.sha256((folder / "old.pt").read_bytes()).hexdigest()
    before = (folder / name).read_bytes(), (folder / name).stat().st_mtime_ns
    assert GuidanceConvertCheckpoint.execute("old.pt").args == (name,), "the same again, as after a restart"
    assert before == ((folder / name).read_bytes(), (folder / name).stat().st_mtime_ns)
    torch.save({"a": torch.arange(3.0) + 1, "b": torch.ones(2, dtype=torch.float16)}, folder / "old.pt")
    with pytest.raises(ValueError, match="old.safetensors exists already and was made of something else"):
        GuidanceConvertCheckpoint.execute("old.pt")
    assert (folder / name).read_bytes() == before[0]


def test_an_average_of_a_stored_width_and_time_is_that_snapshot(folder):
    from guidance_pack.nodes.checkpoints import NONE, GuidancePostHocEMA

    (folder / NAMES[2]).rename(folder / "edm2-img64-xs-0067108-0.120.safetensors")
    import folder_paths

    folder_paths.filename_list_cache.clear()
    name, shares = GuidancePostHocEMA.execute(
        NAMES[0], NAMES[1], "edm2-img64-xs-0067108-0.120.safetensors", NONE, 0.1
    ).args
    made = load_file(folder / name)
    assert name == "edm2-img64-xs-0067108-0.100.safetensors" and len(shares.splitlines()) == 3
    found = [float(line.split()[0]) for line in shares.splitlines()]
    assert sum(found) == pytest.approx(1, abs=2e-4)
    assert float(made["w"]) == pytest.approx(sum(s * v for s, v in zip(found, (1.0, 2.0, 3.0), strict=True)), abs=1e-3)
    assert float(made["unet.emb_fourier.freqs"]) == 7.0
    before = (folder / name).stat().st_mtime_ns
    snapshots = (NAMES[0], NAMES[1], "edm2-img64-xs-0067108-0.120.safetensors", NONE)
    assert GuidancePostHocEMA.execute(*snapshots, 0.1).args == (name, shares), "the same again, as after a restart"
    for other in ((*snapshots, 0.1001), (*snapshots[:2], NONE, NONE, 0.1)):  # of the same name
        with pytest.raises(ValueError, match="exists already and was made of something else or otherwise"):
            GuidancePostHocEMA.execute(*other)
    assert (folder / name).stat().st_mtime_ns == before


@pytest.mark.parametrize(("names", "words"), [
    ((NAMES[0], NAMES[0]), "different times or widths"), (("old.pt", NAMES[0]), "does not end in"),
    (("nothing.pkl", NAMES[0]), "There is no file 'nothing.pkl'"),
])  # fmt: skip
def test_what_cannot_be_averaged_is_refused_in_words(folder, names, words):
    from guidance_pack.nodes.checkpoints import NONE, GuidancePostHocEMA

    with pytest.raises(ValueError, match=words):
        GuidancePostHocEMA.execute(*names, NONE, NONE, 0.1)


def test_nothing_is_overwritten(folder):
    from guidance_pack.nodes.checkpoints import NONE, GuidancePostHocEMA

    before = (folder / NAMES[2]).read_bytes()
    with pytest.raises(ValueError, match="exists already"):
        GuidancePostHocEMA.execute(NAMES[0], NAMES[1], NONE, NONE, 0.1)
    assert (folder / NAMES[2]).read_bytes() == before


def test_what_a_pt_does_not_tell_is_kept_in_the_converted_file(folder):
    import adm_files

    from guidance_pack.host.models.denoisers import load_denoiser
    from guidance_pack.nodes.checkpoints import GuidanceConvertCheckpoint

    network = adm_files.unet(0, channels=64, widths=(64, 128), heads=4)
    torch.save({f"module.{key}": value for key, value in network.state_dict().items()}, folder / "mine.pt")
    (name,) = GuidanceConvertCheckpoint.execute("mine.pt", 4, "linear", 500).args
    with torch.inference_mode():
        (unsaid, _), (said, _) = load_denoiser("mine.pt"), load_denoiser(name)
        x, t = torch.rand(1, 3, 8, 8), torch.tensor([100.0])
        own = [model.model.diffusion_model.to("cpu")(x, t) for model in (unsaid, said)]
        wanted = network(x, t)
    torch.testing.assert_close(own[1].cpu(), wanted)
    assert not torch.allclose(own[0].cpu(), wanted, rtol=0.01), "2 heads of 64 channels, where nothing is said"
    sampling = said.get_model_object("model_sampling")
    betas = torch.linspace(2e-4, 0.04, 500, dtype=torch.float64)
    kept = torch.cumprod(1 - betas, 0)
    assert len(sampling.sigmas) == 500
    torch.testing.assert_close(sampling.sigmas.double(), ((1 - kept) / kept).sqrt(), rtol=1e-4, atol=0)


def test_settings_that_a_network_cannot_have_are_refused_in_words(folder):
    import adm_files

    from guidance_pack.nodes.checkpoints import GuidanceConvertCheckpoint

    torch.save(adm_files.unet(0).state_dict(), folder / "mine.pt")
    with pytest.raises(ValueError, match="7 heads cannot share 64 channels"):
        GuidanceConvertCheckpoint.execute("mine.pt", 7)
    with pytest.raises(ValueError, match="heads can be set for a network of ADM's kind alone"):
        GuidanceConvertCheckpoint.execute("old.pt", 4)
    assert not list(folder.glob("*mine*.safetensors")) and not (folder / "old.safetensors").exists()
