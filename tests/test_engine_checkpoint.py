"""A full-size SD 1.5 checkpoint file through the nodes that people use: loader, prompts, our nodes, KSampler, VAE."""

import pytest
import torch
from checkpoints import write_sd15_checkpoint
from guide_files import resnet
from guide_folder import lend
from host_models import MODELS, count_forwards

STEPS, CFG = 2, 3.0


@pytest.fixture(scope="module")
def loaded(comfy, tmp_path_factory):
    """MODEL, CLIP and VAE of the file, as CheckpointLoaderSimple gives them; the file is deleted afterwards."""
    import comfy.model_management
    import folder_paths

    import nodes

    folder = tmp_path_factory.mktemp("checkpoints")
    path = write_sd15_checkpoint(folder / "random-sd15.safetensors")
    folder_paths.add_model_folder_path("checkpoints", str(folder))
    with torch.inference_mode():
        yield nodes.CheckpointLoaderSimple().load_checkpoint(path.name)
    comfy.model_management.unload_all_models()
    folder_paths.folder_names_and_paths["checkpoints"][0].remove(str(folder))
    path.unlink()


@pytest.fixture(scope="module")
def guide(comfy):
    """A small network of the same family is the weaker one."""
    return MODELS["sd15"].build(7)


def image(model, loaded):
    import nodes

    _, clip, vae = loaded
    with torch.inference_mode():
        positive, negative = (nodes.CLIPTextEncode().encode(clip, text)[0] for text in ("a red square", ""))
        (empty,) = nodes.EmptyLatentImage().generate(64, 64)
        (latent,) = nodes.KSampler().sample(model, 1, STEPS, CFG, "euler", "normal", positive, negative, empty)
        (picture,) = nodes.VAEDecode().decode(vae, latent)
    return picture


@pytest.fixture(scope="module")
def plain(loaded):
    """The picture of the checkpoint alone, and how many evaluations it took."""
    with count_forwards(loaded[0]) as count:
        return image(loaded[0], loaded), count.evaluations


@pytest.mark.slow
def test_the_nodes_work_on_a_full_size_checkpoint(loaded, guide, plain):
    from guidance_pack.nodes.cfg import GuidanceCFG
    from guidance_pack.nodes.weak_model import GuidanceAutoguidance

    main = loaded[0]
    assert sum(value.numel() for value in main.model.diffusion_model.parameters()) > 850e6

    (late,) = GuidanceCFG.execute(main, "sampler", 4.0, "percent", 0.5, 1.0).args
    (both,) = GuidanceAutoguidance.execute(late, 2.0, 1, "percent", 0.0, 1.0, guide).args
    (off,) = GuidanceAutoguidance.execute(main, 1.0, 1, "percent", 0.0, 1.0, guide).args
    expected, evaluations = plain
    with count_forwards(main) as ours, count_forwards(guide) as guides:
        guided = image(both, loaded)
    assert evaluations == 2 * STEPS
    assert (ours.evaluations, guides.evaluations) == (STEPS + 1, STEPS)  # the second of two steps lies in the interval
    assert expected.shape == guided.shape == (1, 64, 64, 3)
    assert torch.isfinite(guided).all() and float(guided.std()) > 0.0
    assert float((guided - expected).abs().mean()) > 1e-3
    assert torch.equal(image(off, loaded), expected)


@pytest.mark.slow
@pytest.mark.parametrize("at", ["denoised", "through denoiser"])
def test_a_guide_from_its_folder_steers_the_checkpoint_through_its_own_vae(loaded, plain, tmp_path, monkeypatch, at):
    """A transformers folder in models/guides, Load Guide, Classifier Guidance, and KSampler beside CFG."""
    from guidance_pack.nodes.gradient import GuidanceClassifier
    from guidance_pack.nodes.guides import GuidanceLoadGuide

    resnet(tmp_path / "resnet")
    lend(monkeypatch, tmp_path)
    main, _, vae = loaded
    settings = ("percent", 0.0, 1.0)
    with torch.inference_mode():
        (guide,) = GuidanceLoadGuide.execute("resnet").args
        (steered,) = GuidanceClassifier.execute(
            main, "dog", 500.0, 0.0, at, "vae", False, "score shift", *settings, guide, None, vae
        ).args
    calls = []
    handle = guide.patchers[0].model.register_forward_pre_hook(lambda _, args: calls.append(args[0].shape))
    with count_forwards(main) as count:
        guided = image(steered, loaded)
    handle.remove()
    assert len(calls) == STEPS and count.evaluations == 2 * STEPS + (STEPS if at == "through denoiser" else 0)
    assert torch.isfinite(guided).all()
    assert float((guided - plain[0]).abs().mean()) > 1e-3
